// BatchNorm and the clip that follows it as one operator of MXNet 1.9.1, for training on processors.
//
// MXNet computes clip and its gradient number by number, and turns oneDNN's blocked tensors into plain ones for it and
// back. Here both are computed together, in the layouts that oneDNN's convolutions take and give: a step reads and
// writes each tensor about two thirds as often, and branches on no number.
//
//   _BatchNormClip(data, gamma, beta, moving_mean, moving_var; eps, momentum, a_min, a_max)
//     = clip(BatchNorm(data, ...; fix_gamma=False), a_min, a_max)
//
// with float32 data (N, C, H, W). 256 numbers at a time are summed in float, all else in double, in an order that does
// not depend on the number of threads. The moving averages are written in the forward pass.
//
// How it is registered with the C++ of MXNet's library: mxnet_operator.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <mkldnn.hpp>
#include <mxnet/ndarray.h>
#include <mxnet/op_attr_types.h>
#include <mxnet/operator.h>
#include <nnvm/node.h>
#include <nnvm/op.h>
#include <nnvm/op_attr_types.h>

#include "mxnet_operator.h"

#if defined(__x86_64__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINED inline __attribute__((always_inline))
#define INLINED_LAMBDA __attribute__((always_inline))

namespace mxnet {
namespace op {
std::vector<nnvm::NodeEntry> BatchNormGrad(const nnvm::ObjectPtr&, const std::vector<nnvm::NodeEntry>&);
}  // namespace op
}  // namespace mxnet

namespace {

using mxnet::NDArray;
using nnvm::NodeAttrs;
using nnvm::Op;
using mxnet_operator::as_theirs;
using mxnet_operator::Registered;
using Arrays = std::vector<NDArray>;
using Requests = std::vector<mxnet::OpReqType>;

const char kForward[] = "_BatchNormClip", kBackward[] = "_backward_BatchNormClip";
// places of the forward operator's inputs, and of the backward one's outputs
enum Input { kData, kGamma, kBeta, kMovingMean, kMovingVar, kInputs };
enum Output { kOut, kMean, kInverse, kOutputs };  // inverse: of the standard deviation
// the backward operator's inputs, in BatchNorm's order
enum Given { kGradient, kGivenMean, kGivenInverse, kGivenData, kGivenGamma, kGivenBeta, kUnused, kUnusedToo, kGiven };

struct Options {
  float eps, momentum, low, high;
};

Options options_of(const NodeAttrs& attrs) {
  auto number = [&attrs](const char* name) { return std::stof(attrs.dict.at(name)); };
  return {number("eps"), number("momentum"), number("a_min"), number("a_max")};
}

// Tensors -------------------------------------------------------------------------------------------------------------

// A tensor is computed in slabs: an image's pixels by a block of channels, of which the pixel's are adjacent.
constexpr int64_t kLanes = 16;
constexpr int64_t kBlocks[] = {16, 8, 4, 1};

struct Shape {
  int64_t images, channels, pixels;

  explicit Shape(const mxnet::TShape& s) : images(s[0]), channels(s[1]), pixels(s[2] * s[3]) {}
  int64_t block() const {
    return *std::find_if(std::begin(kBlocks), std::end(kBlocks), [this](int64_t b) { return channels % b == 0; });
  }
  int64_t chunks() const { return channels / block(); }
  int64_t slab() const { return pixels * block(); }
  int64_t slabs() const { return images * chunks(); }
};

// oneDNN's description of nchw, or of nChw16c and the like.
dnnl::memory::desc description(const mxnet::TShape& shape, int64_t block) {
  dnnl_memory_desc_t d = {};
  d.ndims = 4;
  d.data_type = dnnl_f32;
  d.format_kind = dnnl_blocked;
  std::copy_n(shape.begin(), 4, d.dims);
  std::copy_n(shape.begin(), 4, d.padded_dims);
  auto& layout = d.format_desc.blocking;
  layout.strides[3] = block;
  layout.strides[2] = layout.strides[3] * shape[3];
  layout.strides[1] = layout.strides[2] * shape[2];
  layout.strides[0] = layout.strides[1] * (shape[1] / block);
  if (block > 1) {
    layout.inner_nblks = 1;
    layout.inner_blks[0] = block;
    layout.inner_idxs[0] = 1;
  }
  return dnnl::memory::desc(d);
}

// The numbers of an array over blocks of `block` channels, which is at most that of its Shape.
class Tensor {
 public:
  // An array as it lies in memory; a plain copy of one with a layout that is none of ours.
  static Tensor read(const NDArray& array) {
    if (!array.IsMKLDNNData()) return {array, 1, static_cast<float*>(array.data().dptr_)};
    for (int64_t block : kBlocks)
      if (block > 1 && array.shape()[1] % block == 0 && array.GetMKLDNNData(description(array.shape(), block)))
        return {array, block, memory(array)};
    const NDArray plain = array.Reorder2Default();
    return {plain, 1, static_cast<float*>(plain.data().dptr_)};
  }

  // An array that is to be written, over blocks of `block` channels.
  static Tensor write(const NDArray& array, int64_t block) {
    NDArray same = array;
    if (block == 1) {
      same.InvalidateMKLDNNData();
      return {same, 1, static_cast<float*>(same.data().dptr_)};
    }
    same.CreateMKLDNNData(description(array.shape(), block));
    return {same, block, memory(same)};
  }

  int64_t block() const { return block_; }

  // Slab number i: in its place, or gathered in `buffer`.
  const float* load(int64_t i, std::vector<float>* buffer) const {
    if (block_ == shape_.block()) return data_ + i * shape_.slab();
    buffer->resize(shape_.slab());
    exchange(i, [buffer](float* mine, int64_t at) { (*buffer)[at] = *mine; });
    return buffer->data();
  }

  // Where slab number i is to be written, for `store` to put it in its place.
  float* place(int64_t i, std::vector<float>* buffer) const {
    if (block_ == shape_.block()) return data_ + i * shape_.slab();
    buffer->resize(shape_.slab());
    return buffer->data();
  }

  void store(int64_t i, const std::vector<float>& buffer) const {
    if (block_ != shape_.block()) exchange(i, [&buffer](float* mine, int64_t at) { *mine = buffer[at]; });
  }

 private:
  Tensor(const NDArray& array, int64_t block, float* data)
      : array_(array), shape_(array.shape()), block_(block), data_(data) {}

  static float* memory(const NDArray& array) { return static_cast<float*>(array.storage_handle().dptr); }

  // Calls `move(where a number lies, its place in the slab)` for the numbers of slab i.
  template <typename Move>
  void exchange(int64_t i, Move move) const {
    const int64_t parts = shape_.block() / block_, part = shape_.pixels * block_;
    for (int64_t k = 0; k < parts; ++k) {
      float* mine = data_ + (i * parts + k) * part;
      for (int64_t p = 0; p < shape_.pixels; ++p)
        for (int64_t c = 0; c < block_; ++c) move(mine + p * block_ + c, p * shape_.block() + k * block_ + c);
    }
  }

  NDArray array_;
  Shape shape_;
  int64_t block_;
  float* data_;
};

float* vector_of(const NDArray& array) { return static_cast<float*>(array.data().dptr_); }

// Kernels, over the `size` numbers of a slab --------------------------------------------------------------------------

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

typedef int32_t Bits __attribute__((vector_size(kLanes * sizeof(int32_t))));

INLINED Vector load(const float* from, int64_t count = kLanes) {
  Vector v = {};
  std::memcpy(&v, from, count * sizeof(float));
  return v;
}

INLINED void store(Vector v, float* to, int64_t count) { std::memcpy(to, &v, count * sizeof(float)); }

INLINED Vector everywhere(float x) { return x - Vector{}; }

// The first `count` lanes, and zeros.
INLINED Vector first(Vector v, int64_t count) {
  for (int64_t lane = count; lane < kLanes; ++lane) v[lane] = 0;
  return v;
}

// Calls `compute(i, count)` for each vector from i on; the last may be shorter.
template <typename Compute>
INLINED void each(int64_t begin, int64_t end, Compute compute) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) compute(i, kLanes);
  if (i < end) compute(i, end - i);
}

// Numbers for each lane of a vector: those of a block's channels, again and again.
struct Lanes {
  float of[kLanes];

  template <typename PerChannel>
  Lanes(const Shape& shape, int64_t slab, PerChannel per_channel) {
    const int64_t start = slab % shape.chunks() * shape.block();
    for (int64_t lane = 0; lane < kLanes; ++lane) of[lane] = per_channel(start + lane % shape.block());
  }
  INLINED operator Vector() const { return load(of); }
};

// Adds the `terms(i, count)` of a slab, two sums at once, to each lane of `sums` in double: those of so many vectors in
// float.
constexpr int64_t kVectors = 256;

struct Two {
  Vector first, second;
};

template <typename Terms>
INLINED void add(int64_t size, double (*sums)[kLanes], Terms terms) {
  for (int64_t begin = 0; begin < size; begin += kVectors * kLanes) {
    Two part = {};
    each(begin, std::min(size, begin + kVectors * kLanes), [&](int64_t i, int64_t count) INLINED_LAMBDA {
      const Two more = terms(i, count);
      part.first += more.first;
      part.second += more.second;
    });
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[0][lane] += part.first[lane];
      sums[1][lane] += part.second[lane];
    }
  }
}

// Sums of the numbers and of their squares, off `center`.
FOR_EACH_PROCESSOR
void add_powers(int64_t size, const float* x, const Lanes& center, double (*sums)[kLanes]) {
  const Vector middle = center;
  add(size, sums, [=](int64_t i, int64_t count) INLINED_LAMBDA {
    const Vector off = first(load(x + i, count) - middle, count);
    return Two{off, off * off};
  });
}

// What the operator makes of a number, forward and backward: both must agree on what the clip cuts off.
struct Affine {
  Vector mean, scale, shift, low, high;

  INLINED Affine(const Lanes& mean, const Lanes& scale, const Lanes& shift, const Options& options)
      : mean(mean), scale(scale), shift(shift), low(everywhere(options.low)), high(everywhere(options.high)) {}
  INLINED Vector before_clip(Vector off) const { return off * scale + shift; }
  INLINED Vector operator()(Vector x) const {
    const Vector y = before_clip(x - mean), above = y < low ? low : y;
    return above > high ? high : above;
  }
  // of a gradient, what passes the clip
  INLINED Vector passed(Vector gradient, Vector off) const {
    // by the signs of the distances from the limits, since GCC has no vectors of choices; + 0: -0 is not below 0
    const Vector y = before_clip(off), above_low = y - low + 0.f, below_high = high - y + 0.f;
    const Bits cut_off = ((Bits)above_low | (Bits)below_high) >> 31;
    return (Vector)((Bits)gradient & ~cut_off);
  }
};

FOR_EACH_PROCESSOR
void normalize(int64_t size, const float* x, const Lanes& mean, const Lanes& scale, const Lanes& shift,
               const Options& options, float* y) {
  const Affine affine(mean, scale, shift, options);
  each(0, size, [=](int64_t i, int64_t count) INLINED_LAMBDA { store(affine(load(x + i, count)), y + i, count); });
}

// Sums of the gradients that pass, and of their products with the numbers, off the mean.
FOR_EACH_PROCESSOR
void add_gradients(int64_t size, const float* x, const float* given, const Lanes& mean, const Lanes& scale,
                   const Lanes& shift, const Options& options, double (*sums)[kLanes]) {
  const Affine affine(mean, scale, shift, options);
  add(size, sums, [=](int64_t i, int64_t count) INLINED_LAMBDA {
    const Vector off = load(x + i, count) - affine.mean, gradient = affine.passed(load(given + i, count), off);
    return Two{gradient, gradient * off};
  });
}

FOR_EACH_PROCESSOR
void differentiate(int64_t size, const float* x, const float* given, const Lanes& mean, const Lanes& scale,
                   const Lanes& shift, const Options& options, const Lanes& slopes, const Lanes& offsets, float* dx) {
  const Affine affine(mean, scale, shift, options);
  const Vector slope = slopes, offset = offsets;
  each(0, size, [=](int64_t i, int64_t count) INLINED_LAMBDA {
    const Vector off = load(x + i, count) - affine.mean, gradient = affine.passed(load(given + i, count), off);
    store(affine.scale * gradient - slope * off - offset, dx + i, count);
  });
}

// The operators -------------------------------------------------------------------------------------------------------

// Two sums for each channel of each slab, from those of the lanes.
struct Sums {
  std::vector<double> first, second;

  explicit Sums(const Shape& shape) : first(shape.slabs() * shape.block()), second(first.size()) {}
  void fold(const Shape& shape, int64_t slab, const double (&lanes)[2][kLanes]) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      first[slab * shape.block() + lane % shape.block()] += lanes[0][lane];
      second[slab * shape.block() + lane % shape.block()] += lanes[1][lane];
    }
  }
};

struct Statistics {
  std::vector<double> mean, variance;
};

Statistics statistics_of(const Tensor& data, const Shape& shape) {
  Sums sums(shape);
  #pragma omp parallel
  {
    std::vector<float> buffer;
    #pragma omp for
    for (int64_t i = 0; i < shape.slabs(); ++i) {
      const float* x = data.load(i, &buffer);  // in the cache when it is read for the second time
      const Lanes zero(shape, i, [](int64_t) { return 0.f; });
      double around_zero[2][kLanes] = {}, around_mean[2][kLanes] = {}, mean[kLanes] = {};
      add_powers(shape.slab(), x, zero, around_zero);
      for (int64_t lane = 0; lane < kLanes; ++lane) mean[lane % shape.block()] += around_zero[0][lane] / shape.pixels;
      const int64_t start = i % shape.chunks() * shape.block();
      const Lanes center(shape, i, [&](int64_t c) { return mean[c - start]; });
      add_powers(shape.slab(), x, center, around_mean);
      std::copy_n(around_zero[0], kLanes, around_mean[0]);
      sums.fold(shape, i, around_mean);
    }
  }
  Statistics found = {std::vector<double>(shape.channels), std::vector<double>(shape.channels)};
  for (int64_t c = 0; c < shape.channels; ++c) {
    double sum = 0, spread = 0;
    for (int64_t n = 0; n < shape.images; ++n) sum += sums.first[n * shape.channels + c];
    const double mean = sum / (shape.images * shape.pixels);
    for (int64_t n = 0; n < shape.images; ++n) {
      const double off = sums.first[n * shape.channels + c] / shape.pixels - mean;
      spread += sums.second[n * shape.channels + c] + shape.pixels * off * off;
    }
    found.mean[c] = mean;
    found.variance[c] = spread / (shape.images * shape.pixels);
  }
  return found;
}

void forward(const NodeAttrs& attrs, const mxnet::OpContext& context, const Arrays& in, const Requests&,
             const Arrays& out) {
  const Options options = options_of(attrs);
  const Shape shape(in[kData].shape());
  const Tensor data = Tensor::read(in[kData]), result = Tensor::write(out[kOut], shape.block());
  const float *gamma = vector_of(in[kGamma]), *beta = vector_of(in[kBeta]);
  float *moving_mean = vector_of(in[kMovingMean]), *moving_var = vector_of(in[kMovingVar]);
  float *mean = vector_of(out[kMean]), *inverse = vector_of(out[kInverse]);
  Statistics statistics;
  if (context.is_train) statistics = statistics_of(data, shape);
  for (int64_t c = 0; c < shape.channels; ++c) {
    mean[c] = context.is_train ? statistics.mean[c] : moving_mean[c];
    const double variance = context.is_train ? statistics.variance[c] : moving_var[c];
    inverse[c] = 1 / std::sqrt(variance + options.eps);
    if (context.is_train) {
      moving_mean[c] = moving_mean[c] * options.momentum + mean[c] * (1 - options.momentum);
      moving_var[c] = moving_var[c] * options.momentum + static_cast<float>(variance) * (1 - options.momentum);
    }
  }
  #pragma omp parallel
  {
    std::vector<float> buffer;
    #pragma omp for
    for (int64_t i = 0; i < shape.slabs(); ++i) {
      const Lanes means(shape, i, [&](int64_t c) { return mean[c]; });
      const Lanes scale(shape, i, [&](int64_t c) { return gamma[c] * inverse[c]; });
      const Lanes shift(shape, i, [&](int64_t c) { return beta[c]; });
      normalize(shape.slab(), data.load(i, &buffer), means, scale, shift, options, result.place(i, nullptr));
    }
  }
}

void backward(const NodeAttrs& attrs, const mxnet::OpContext&, const Arrays& in, const Requests& request,
              const Arrays& out) {
  for (auto wanted : request) CHECK_NE(wanted, mxnet::kAddTo) << kBackward << " does not add to a gradient";
  const Options options = options_of(attrs);
  const Shape shape(in[kGivenData].shape());
  const Tensor data = Tensor::read(in[kGivenData]), given = Tensor::read(in[kGradient]);
  const float *gamma = vector_of(in[kGivenGamma]), *beta = vector_of(in[kGivenBeta]);
  const float *mean = vector_of(in[kGivenMean]), *inverse = vector_of(in[kGivenInverse]);
  auto means = [mean](int64_t c) { return mean[c]; };
  auto scales = [gamma, inverse](int64_t c) { return gamma[c] * inverse[c]; };
  auto shifts = [beta](int64_t c) { return beta[c]; };

  Sums sums(shape);  // of gradients, and of their products
  #pragma omp parallel
  {
    std::vector<float> x_buffer, given_buffer;
    #pragma omp for
    for (int64_t i = 0; i < shape.slabs(); ++i) {
      const Lanes mean_lanes(shape, i, means), scale(shape, i, scales), shift(shape, i, shifts);
      double lanes[2][kLanes] = {};
      add_gradients(shape.slab(), data.load(i, &x_buffer), given.load(i, &given_buffer), mean_lanes, scale, shift, options,
                    lanes);
      sums.fold(shape, i, lanes);
    }
  }
  std::vector<float> slopes(shape.channels), offsets(shape.channels);
  for (int64_t c = 0; c < shape.channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t n = 0; n < shape.images; ++n) {
      sum += sums.first[n * shape.channels + c];
      product += sums.second[n * shape.channels + c];
    }
    const double count = shape.images * shape.pixels, scale = gamma[c] * inverse[c];
    if (request[kGamma] != mxnet::kNullOp) vector_of(out[kGamma])[c] = product * inverse[c];
    if (request[kBeta] != mxnet::kNullOp) vector_of(out[kBeta])[c] = sum;
    slopes[c] = scale * inverse[c] * inverse[c] * product / count;
    offsets[c] = scale * sum / count;
  }
  if (request[kData] == mxnet::kNullOp) return;

  // in the layout of the output of the convolution before it; if that is the gradient's memory, a slab is read before
  // it is written
  const Tensor result = Tensor::write(out[kData], data.block());
  #pragma omp parallel
  {
    std::vector<float> x_buffer, given_buffer, buffer;
    #pragma omp for
    for (int64_t i = 0; i < shape.slabs(); ++i) {
      const Lanes mean_lanes(shape, i, means), scale(shape, i, scales), shift(shape, i, shifts);
      const Lanes slope(shape, i, [&](int64_t c) { return slopes[c]; });
      const Lanes offset(shape, i, [&](int64_t c) { return offsets[c]; });
      differentiate(shape.slab(), data.load(i, &x_buffer), given.load(i, &given_buffer), mean_lanes, scale, shift, options,
                    slope, offset, result.place(i, &buffer));
      result.store(i, buffer);
    }
  }
}

// Registration, with the references in place of pointers of mxnet_operator.h ------------------------------------------

bool infer_shape(const NodeAttrs&, std::vector<mxnet::TShape>& in, std::vector<mxnet::TShape>& out) {
  const mxnet::TShape data = in[kData];
  if (!mxnet::shape_is_known(data)) return false;
  CHECK_EQ(data.ndim(), 4) << kForward << ": data (N, C, H, W)";
  const mxnet::TShape channels(1, data[1]);
  in = {data, channels, channels, channels, channels};
  out = {data, channels, channels};
  return true;
}

bool infer_type(const NodeAttrs&, std::vector<int>& in, std::vector<int>& out) {
  for (auto* types : {&in, &out}) std::fill(types->begin(), types->end(), mshadow::kFloat32);
  return true;
}

bool infer_storage(const NodeAttrs&, const char&, mxnet::DispatchMode& mode, std::vector<int>& in,
                   std::vector<int>& out) {
  for (auto* types : {&in, &out}) std::fill(types->begin(), types->end(), mxnet::kDefaultStorage);
  mode = mxnet::DispatchMode::kFComputeEx;
  return true;
}

// BatchNorm's own, which has the same inputs and outputs, but for the operator.
std::vector<nnvm::NodeEntry> gradient(const nnvm::ObjectPtr& node, const std::vector<nnvm::NodeEntry>& gradients) {
  auto entries = mxnet::op::BatchNormGrad(node, gradients);
  entries[kData].node->attrs.op = Op::Get(kBackward);
  return entries;
}

}  // namespace

extern "C" void register_operators() {
  const auto storage = as_theirs<mxnet::FInferStorageType>(infer_storage);
  Registered(kForward, kInputs, kOutputs)
      .set<nnvm::FNumVisibleOutputs>("FNumVisibleOutputs", [](const NodeAttrs&) { return 1; })
      .set<nnvm::FListInputNames>("FListInputNames", [](const NodeAttrs&) {
        return std::vector<std::string>{"data", "gamma", "beta", "moving_mean", "moving_var"};
      })
      .set<nnvm::FListOutputNames>("FListOutputNames", [](const NodeAttrs&) {
        return std::vector<std::string>{"output", "mean", "inverse"};
      })
      .set<nnvm::FMutateInputs>("FMutateInputs", [](const NodeAttrs&) {
        return std::vector<uint32_t>{kMovingMean, kMovingVar};
      })
      .set("FInferShape", as_theirs<mxnet::FInferShape>(infer_shape))
      .set("FInferType", as_theirs<nnvm::FInferType>(infer_type))
      .set("FInferStorageType", storage)
      .set<mxnet::FComputeEx>("FComputeEx<cpu>", forward)
      .set("TIsMKLDNN", true)
      .set<nnvm::FGradient>("FGradient", gradient);
  Registered(kBackward, kGiven, kMovingMean)
      .set("TIsBackward", true)
      .set("FInferStorageType", storage)
      .set<nnvm::FInplaceOption>("FInplaceOption", [](const NodeAttrs&) {
        return std::vector<std::pair<int, int>>{{kGradient, kData}};
      })
      .set<mxnet::FComputeEx>("FComputeEx<cpu>", backward)
      .set("TIsMKLDNN", true);
}

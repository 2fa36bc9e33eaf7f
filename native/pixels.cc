// What is done to every pixel of a training image beside decoding it: scaling, the change of hue, lightness and
// saturation, and the floats of the batch. To the bit what OpenCV 4.11 and NumPy compute, in one pass each.
//
// Nothing of Python: common/data/pixels.py calls it by ctypes, which lets other threads of Python run meanwhile, and
// does without it where OpenCV computes otherwise. The loops are written for the compiler to vectorise: blocks that
// stay in the processor's cache, colours apart, no branches. native/Makefile has the flags that they need.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr size_t kBlock = 64;  // pixels

constexpr float kInverse = 1 / 255.f;
constexpr float kTiny = 1e-9f;  // below any difference of two colours: a divisor that is not 0, of a quotient that is

// Added to a float of less than 2^22 it leaves no bits for a fraction: what is rounded, to even, as by the processor.
constexpr float kRounding = 3 << 22;

// a * b + c as OpenCV has it: rounded once where the processor can.
template <bool kFused>
INLINE float MultiplyAdd(float a, float b, float c) {
  return kFused ? __builtin_fmaf(a, b, c) : a * b + c;
}

// Not a conditional expression, of which the compiler would make branches.
template <typename Bits>
INLINE Bits SelectBits(bool condition, Bits a, Bits b) {
  const Bits mask = -static_cast<Bits>(condition);
  return (a & mask) | (b & ~mask);
}

INLINE uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

INLINE float Select(bool condition, float a, float b) {
  const uint32_t bits = SelectBits(condition, BitsOf(a), BitsOf(b));
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

INLINE uint8_t Select(bool condition, uint8_t a, uint8_t b) { return SelectBits(condition, a, b); }

// From 0 to 1, in 255 levels.
INLINE uint8_t Byte(float x) { return static_cast<uint8_t>(BitsOf(x * 255 + kRounding)); }

INLINE float ChangedAndClipped(float x, float change, float limit) {
  return std::min(std::max(x + kRounding + (change - kRounding), 0.f), limit);
}

struct Block {
  alignas(64) uint8_t blue[kBlock], green[kBlock], red[kBlock];

  INLINE void Load(const uint8_t* pixels, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      blue[i] = pixels[3 * i];
      green[i] = pixels[3 * i + 1];
      red[i] = pixels[3 * i + 2];
    }
  }

  INLINE void Store(uint8_t* pixels, size_t count) const {
    for (size_t i = 0; i < count; ++i) {
      pixels[3 * i] = blue[i];
      pixels[3 * i + 1] = green[i];
      pixels[3 * i + 2] = red[i];
    }
  }
};

// The formulas are OpenCV's, of cvtColor's BGR2HLS and HLS2BGR; so are the places where they round to bytes.
template <bool kFused>
INLINE void ChangeHls(uint8_t* pixels, size_t size, float hue, float lightness, float saturation) {
  Block block = {};
  // hue goes by the colour that is most: from 0, 2 or 4 sixths of the circle, or 6 for reds with more blue than green,
  // by the difference of the others
  alignas(64) uint8_t most[kBlock], least[kBlock], more[kBlock], less[kBlock], thirds[kBlock];
  // what colours may be, by the sixth of the circle that hue is in
  alignas(64) uint8_t sixth[kBlock], high[kBlock], low[kBlock], falling[kBlock], rising[kBlock];
  for (size_t at = 0; at < size; at += kBlock) {
    const size_t count = std::min(kBlock, size - at);
    block.Load(pixels + 3 * at, count);
    for (size_t i = 0; i < kBlock; ++i) {
      const uint8_t b = block.blue[i], g = block.green[i], r = block.red[i];
      most[i] = std::max(std::max(r, g), b);
      least[i] = std::min(std::min(r, g), b);
      const bool is_red = most[i] == r, is_green = most[i] == g;
      more[i] = Select(is_red, g, Select(is_green, b, r));
      less[i] = Select(is_red, b, Select(is_green, r, g));
      thirds[i] = Select(is_red, Select(g < b, uint8_t{3}, uint8_t{0}), Select(is_green, uint8_t{1}, uint8_t{2}));
    }
    for (size_t i = 0; i < kBlock; ++i) {
      const float difference = most[i] * kInverse - least[i] * kInverse;
      const float sum = most[i] * kInverse + least[i] * kInverse;
      float h = MultiplyAdd<kFused>(more[i] * kInverse - less[i] * kInverse, 30 / std::max(difference, kTiny),
                                    thirds[i] * 60.f);
      float s = difference / std::max(Select(sum < 1, sum, 2 - sum), kTiny);
      h = ChangedAndClipped(h, hue, 180);
      const float l = ChangedAndClipped(sum * .5f * 255, lightness, 255) * kInverse;
      s = ChangedAndClipped(s * 255, saturation, 255) * kInverse;

      const float ls = l * s, half = Select(l <= .5f, ls, s - ls);
      const float sixths = h * (6 / 180.f);
      const int whole = static_cast<int>(sixths);
      const float fraction = sixths - static_cast<float>(whole), twice = fraction + fraction;
      sixth[i] = static_cast<uint8_t>(whole);
      high[i] = Byte(l + half);
      low[i] = Byte(l - half);
      falling[i] = Byte(MultiplyAdd<kFused>(-half, twice, l + half));
      rising[i] = Byte(MultiplyAdd<kFused>(half, twice, l - half));
    }
    for (size_t i = 0; i < kBlock; ++i) {
      const uint8_t at_end = 6, k = Select(sixth[i] == at_end, uint8_t{0}, sixth[i]);
      block.blue[i] = Select(k < 2, low[i], Select(k == 2, rising[i], Select(k > 4, falling[i], high[i])));
      block.green[i] = Select(k == 0, rising[i], Select(k == 3, falling[i], Select(k > 3, low[i], high[i])));
      block.red[i] = Select((k & 6) == 2, low[i], Select(k == 1, falling[i], Select(k == 4, rising[i], high[i])));
    }
    block.Store(pixels + 3 * at, count);
  }
}

INLINE void NormalisePlane(const uint8_t* plane, size_t count, float mean, float std, float* data) {
  if (std == 1) {
    for (size_t i = 0; i < count; ++i) data[i] = plane[i] - mean;
  } else {
    for (size_t i = 0; i < count; ++i) data[i] = (plane[i] - mean) / std;
  }
}

INLINE void Normalise(const uint8_t* pixels, size_t size, const float* mean, const float* std, float* data) {
  Block block = {};
  for (size_t at = 0; at < size; at += kBlock) {
    const size_t count = std::min(kBlock, size - at);
    block.Load(pixels + 3 * at, count);
    NormalisePlane(block.red, count, mean[0], std[0], data + at);
    NormalisePlane(block.green, count, mean[1], std[1], data + at + size);
    NormalisePlane(block.blue, count, mean[2], std[2], data + at + 2 * size);
  }
}

// OpenCV's warpAffine knows 32 places between two pixels; coordinates it has in 1024ths.
constexpr int kPlaceBits = 5, kCoordinateBits = 10, kPlaces = 1 << kPlaceBits, kCoordinate = 1 << kCoordinateBits;
constexpr int64_t kBeyond = 2;  // pixels around the image: with those a pixel and the one after it are in memory

// Where a pixel is seen: between number `pixel` and the next one, counted with those beyond, `part` of kPlaces from it.
struct Place {
  int64_t pixel, part;

  Place(int64_t coordinate, int64_t size) {
    const int64_t places = (coordinate + kCoordinate / kPlaces / 2) >> (kCoordinateBits - kPlaceBits);
    pixel = std::min(std::max(places >> kPlaceBits, -kBeyond), size) + kBeyond;
    part = places & (kPlaces - 1);
  }
};

// Eight numbers of a row of pixels, of which the first three are one pixel's.
typedef uint16_t Sums __attribute__((vector_size(16)));
typedef int32_t Totals __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

INLINE Totals FourOf(const uint16_t* from) {
  Sums sums;
  std::memcpy(&sums, from, sizeof sums);
  return reinterpret_cast<Totals>(__builtin_shuffle(sums, Sums{}, Sums{0, 8, 1, 9, 2, 10, 3, 11}));
}

INLINE void StoreFour(Totals totals, uint8_t* to) {
  const Bytes bytes = __builtin_shuffle(reinterpret_cast<Bytes>(totals), Bytes{0, 4, 8, 12});
  std::memcpy(to, &bytes, 4);
}

// Between two rows, then between two pixels of what that gives: whole numbers, so that the order does not matter.
// Coordinates are rounded as OpenCV does, in a row in two steps.
INLINE void Scale(const uint8_t* pixels, size_t stride, int64_t rows, int64_t columns, const double* change,
                  const double* first, size_t height, size_t width, uint8_t fill, uint8_t* scaled) {
  std::vector<Place> places;
  for (size_t x = 0; x < width; ++x) {
    places.emplace_back(std::llrint(change[0] * static_cast<double>(x) * kCoordinate) +
                        std::llrint(first[0] * kCoordinate), columns);
  }
  const size_t size = 3 * columns, beyond = 3 * kBeyond;
  const std::vector<uint8_t> filled(size, fill);
  std::vector<uint16_t> sums(size + 2 * beyond + 8, kPlaces * fill);  // 8 are loaded for 3
  std::vector<uint8_t> row(3 * width + 1);  // one more: a pixel is written with the byte after it
  for (size_t y = 0; y < height; ++y) {
    const Place down(std::llrint((change[1] * static_cast<double>(y) + first[1]) * kCoordinate), rows);
    const uint8_t* two[2];
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t at = down.pixel + i - kBeyond;
      two[i] = at < 0 || at >= rows ? filled.data() : pixels + at * stride;
    }
    const uint16_t below = down.part, above = kPlaces - below;
    for (size_t i = 0; i < size; ++i) sums[beyond + i] = two[0][i] * above + two[1][i] * below;
    for (size_t x = 0; x < width; ++x) {
      const uint16_t* at = sums.data() + 3 * places[x].pixel;
      const Totals left = FourOf(at), right = FourOf(at + 3);
      const Totals total = left * kPlaces + (right - left) * static_cast<int32_t>(places[x].part);
      StoreFour((total + kPlaces * kPlaces / 2) >> 2 * kPlaceBits, row.data() + 3 * x);
    }
    std::memcpy(scaled + 3 * width * y, row.data(), 3 * width);
  }
}

#ifdef FP_FAST_FMAF
constexpr bool kFma = true;
#else
constexpr bool kFma = false;
#endif

#ifdef __x86_64__
// As OpenCV decides.
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

__attribute__((target("avx2,fma"))) void ChangeHlsAvx2(uint8_t* pixels, size_t size, float hue, float lightness,
                                                       float saturation) {
  ChangeHls<true>(pixels, size, hue, lightness, saturation);
}

__attribute__((target("avx2,fma"))) void NormaliseAvx2(const uint8_t* pixels, size_t size, const float* mean,
                                                       const float* std, float* data) {
  Normalise(pixels, size, mean, std, data);
}

__attribute__((target("avx2,fma"))) void ScaleAvx2(const uint8_t* pixels, size_t stride, int64_t rows, int64_t columns,
                                                   const double* change, const double* first, size_t height,
                                                   size_t width, uint8_t fill, uint8_t* scaled) {
  Scale(pixels, stride, rows, columns, change, first, height, width, fill, scaled);
}
#endif

}  // namespace

// Writes `height` rows of `width` pixels to `scaled`: pixel x of a row is what is seen at change[0] x + first[0] of the
// `columns` of `pixels`, between two of them by their distances, and so are rows, by change[1] and first[1]. A row
// begins `stride` bytes after the one before it. `fill` is around them.
extern "C" void scale(const unsigned char* pixels, size_t stride, size_t rows, size_t columns, const double* change,
                      const double* first, size_t height, size_t width, unsigned char fill, unsigned char* scaled) {
#ifdef __x86_64__
  if (HasAvx2()) return ScaleAvx2(pixels, stride, rows, columns, change, first, height, width, fill, scaled);
#endif
  Scale(pixels, stride, rows, columns, change, first, height, width, fill, scaled);
}

// Adds to hue (0 to 180), lightness and saturation (0 to 255) of `size` pixels, BGR, in place; what goes beyond an end
// stays there.
extern "C" void change_hls(unsigned char* pixels, size_t size, float hue, float lightness, float saturation) {
#ifdef __x86_64__
  if (HasAvx2()) return ChangeHlsAvx2(pixels, size, hue, lightness, saturation);
#endif
  ChangeHls<kFma>(pixels, size, hue, lightness, saturation);
}

// Writes `size` pixels, BGR, less `mean`, over `std`, both RGB, to `data`, (3, size), RGB.
extern "C" void normalise(const unsigned char* pixels, size_t size, const float* mean, const float* std, float* data) {
#ifdef __x86_64__
  if (HasAvx2()) return NormaliseAvx2(pixels, size, mean, std, data);
#endif
  Normalise(pixels, size, mean, std, data);
}

// The top-5 of photographs by the network beside this program: TVM's runtime, libjpeg, and nothing else. Without libjpeg
// (READS_PPM) the photographs are PPM.
//
//     ./predict photo.jpg [more.jpg ...] [--repeat N]
//
// Prints what predict.py prints, to the same four digits. --dump-input FILE instead writes what the network would see.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <numeric>
#include <sstream>

#include <dmlc/json.h>
#include <tvm/runtime/device_api.h>
#include <tvm/runtime/module.h>
#include <tvm/runtime/ndarray.h>
#include <tvm/runtime/registry.h>

#include "cores.h"
#include "resize.h"
#ifdef READS_PPM
#include "ppm.h"
namespace format = ppm;
#else
#include "jpeg.h"
namespace format = jpeg;
#endif

using tvm::runtime::Module;
using tvm::runtime::NDArray;
using tvm::runtime::PackedFunc;
using tvm::runtime::Registry;

struct Arguments {
  std::vector<std::string> images;
  int repeat = 0;  // 0: once, and no time is printed
  std::string dump_input;
};

// What preprocess.json and network.json say.
struct Description {
  int resize = 0, crop = 0;
  std::vector<float> mean, std;
  std::vector<int64_t> shape;
  int64_t params_bytes = 0;
  std::string input, layout, dtype, device, device_name, device_kind, target, precision, records, tvm;
};

constexpr int kMaxSide = 4096;                       // pixels of an image's shorter side
constexpr int64_t kMaxInput = int64_t(1) << 30;      // numbers of a batch: 4 GiB
constexpr float kMinStd = 1e-6f, kMaxMean = 1e30f;   // what is smaller may be 0
constexpr int64_t kMaxResizedPixels = 89478485;      // as Pillow has it: a strip would need gigabytes

[[noreturn]] void Fail(const std::string& message) { throw std::runtime_error(message); }

Arguments Parsed(int count, char** values) {
  Arguments arguments;
  const std::vector<std::string> given(values + 1, values + count);
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i] == "--repeat" || given[i] == "--dump-input") {
      if (i + 1 == given.size()) Fail(given[i] + ": give a value");
      const std::string& value = given[i + 1];
      if (given[i++] == "--dump-input") {
        arguments.dump_input = value;
      } else if (value.empty() || value.size() > 6 || value.find_first_not_of("0123456789") != value.npos ||
                 (arguments.repeat = std::stoi(value)) == 0) {
        Fail("--repeat " + value + ": give a whole number from 1 to 999999");
      }
    } else if (given[i].size() > 1 && given[i][0] == '-') {
      Fail(given[i] + ": unknown option: give photographs, --repeat N, --dump-input FILE");
    } else {
      arguments.images.push_back(given[i]);
    }
  }
  if (arguments.images.empty()) Fail("give photographs: predict photo.jpg [more.jpg ...] [--repeat N]");
  return arguments;
}

std::string Folder() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  const std::string whole(path, length > 0 ? length : 0);
  return whole.substr(0, whole.rfind('/') + 1);
}

std::string Text(const std::string& path) {
  const std::vector<uint8_t> content = image::FileContent(path);
  return std::string(content.begin(), content.end());
}

std::string BundleFile(const std::string& name) {
  try {
    return Text(Folder() + name);
  } catch (const std::runtime_error& error) {
    Fail(Folder() + name + ": " + error.what() + " (predict stays in the folder of its network)");
  }
}

// Whether it says what the program can do: what else it said would be read from outside an image.
bool IsWhole(const Description& description) {
  const auto are_numbers = [](const std::vector<float>& values, float least) {
    return values.size() == 3 && std::all_of(values.begin(), values.end(), [least](float value) {
      return least <= value && value < kMaxMean;  // false for NaN
    });
  };
  const std::vector<int64_t>& shape = description.shape;
  if (shape.size() != 4 || shape[0] < 1 || shape[0] > kMaxInput || shape[1] != 3) return false;
  for (const int64_t side : {shape[2], shape[3]}) {
    if (side < 1 || side > description.resize) return false;
  }
  return description.resize <= kMaxSide && shape[0] * 3 * shape[2] * shape[3] <= kMaxInput &&
         are_numbers(description.mean, -kMaxMean) && are_numbers(description.std, kMinStd) &&
         description.layout == "NCHW" && description.dtype == "float32" &&
         (description.device == "cpu" || description.device == "opencl");
}

Description Described() {
  Description description;
  std::istringstream preprocess(BundleFile("preprocess.json")), network(BundleFile("network.json"));
  try {
    dmlc::JSONReader reader(&preprocess);
    dmlc::JSONObjectReadHelper fields;
    fields.DeclareField("resize", &description.resize);
    fields.DeclareField("crop", &description.crop);
    fields.DeclareField("mean", &description.mean);
    fields.DeclareField("std", &description.std);
    fields.DeclareField("input", &description.input);
    fields.DeclareField("shape", &description.shape);
    fields.DeclareField("layout", &description.layout);
    fields.DeclareField("dtype", &description.dtype);
    fields.ReadAllFields(&reader);
    dmlc::JSONReader network_reader(&network);
    dmlc::JSONObjectReadHelper network_fields;
    for (auto& [name, value] : std::vector<std::pair<const char*, std::string*>>{
             {"device", &description.device}, {"device_name", &description.device_name},
             {"device_kind", &description.device_kind}, {"target", &description.target},
             {"precision", &description.precision}, {"records", &description.records}, {"tvm", &description.tvm}}) {
      network_fields.DeclareField(name, value);
    }
    network_fields.DeclareField("params_bytes", &description.params_bytes);
    network_fields.ReadAllFields(&network_reader);
    if (!IsWhole(description)) Fail("not as it was written");
  } catch (const std::exception&) {
    Fail(Folder() + "preprocess.json or network.json is damaged: export the bundle again");
  }
  return description;
}

// A wrong name at the end is reported before hours of work.
void CheckImage(const std::string& path) {
  try {
    image::CheckFile(path);
  } catch (const std::runtime_error& error) {
    Fail(path + ": " + error.what());
  }
}

// (1, 3, height, width) of one photograph: shorter side to `resize`, centre crop, (pixel - mean) / std.
void Preprocess(const std::string& path, const Description& description, float* data) {
  const Image image = format::Read(path);
  const int length = description.resize, crop_height = description.shape[2], crop_width = description.shape[3];
  const bool upright = image.height > image.width;
  const int64_t longer = int64_t(length) * std::max(image.height, image.width) / std::min(image.height, image.width);
  if (longer * length > kMaxResizedPixels) {
    Fail(path + ": has " + std::to_string(image.width) + "x" + std::to_string(image.height) +
         " pixels: too many when the shorter side has " + std::to_string(length));
  }
  const Image resized = resize::Resized(image, upright ? longer : length, upright ? length : longer);
  const int top = (resized.height - crop_height) / 2, left = (resized.width - crop_width) / 2;
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < crop_height; ++y) {
      for (int x = 0; x < crop_width; ++x) {
        const uint8_t pixel = resized.rgb[3 * (size_t(resized.width) * (top + y) + left + x) + c];
        *data++ = (pixel - description.mean[c]) / description.std[c];
      }
    }
  }
}

Elf64_Ehdr ElfHeader(const std::string& path, int64_t* size) {
  Elf64_Ehdr header{};
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  *size = file.seekg(0, std::ios::end).tellg();
  return header;
}

// The system's loader says badly that a library is another machine's, and crashes for half of one.
void CheckLibrary(const std::string& library, const std::string& target) {
  if (access(library.c_str(), R_OK)) Fail(library + " is not there: run make network.so");
  int64_t size;
  const int machine = ElfHeader("/proc/self/exe", &size).e_machine;
  const Elf64_Ehdr header = ElfHeader(library, &size);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) || (header.e_ident[EI_CLASS] == ELFCLASS64 &&
      size < int64_t(header.e_shoff + uint64_t(header.e_shentsize) * header.e_shnum))) {
    Fail(library + " is damaged: copy it again");
  }
  if (header.e_machine != machine) Fail(library + " is for another machine: it was compiled for " + target);
}

std::string instructions_missing;

// Instructions that the compiler could use (AVX-512, say) but this processor lacks end the program with SIGILL.
void OnIllegalInstruction(int) {
  if (write(STDERR_FILENO, instructions_missing.data(), instructions_missing.size()) < 0) _exit(2);
  _exit(1);
}

void LoadOpenCL() {
  if (tvm::runtime::RuntimeEnabled("opencl")) return;
  const char* given = std::getenv("OPENCL_LIBRARY");
  bool found = false;
  for (const char* name : {given ? given : "libOpenCL.so.1", given ? given : "libOpenCL.so"}) {
    found = found || dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  }
  if (!found) Fail("no OpenCL library (libOpenCL.so.1): install the device's driver, or name one by OPENCL_LIBRARY");
  const std::string plugin = Folder() + "libtvm_opencl.so";
  if (access(plugin.c_str(), R_OK)) Fail(plugin + " is not there: run make libtvm_opencl.so");
  void* library = dlopen(plugin.c_str(), RTLD_NOW | RTLD_GLOBAL);
  void* fit = library ? dlsym(library, "FitPocl") : nullptr;
  if (!fit) Fail(plugin + " cannot be loaded: remove it, and run make libtvm_opencl.so (" + dlerror() + ")");
  reinterpret_cast<void (*)(int)>(fit)(cores::Usable());
}

// The kind of device that TVM takes: "GPU" if any platform has one, else "processor"; "" if this process has not loaded
// OpenCL's library.
std::string OpenCLKind() {
  using GetPlatforms = int (*)(uint32_t, void**, uint32_t*);
  using GetDevices = int (*)(void*, uint64_t, uint32_t, void**, uint32_t*);
  const auto get_platforms = reinterpret_cast<GetPlatforms>(dlsym(RTLD_DEFAULT, "clGetPlatformIDs"));
  const auto get_devices = reinterpret_cast<GetDevices>(dlsym(RTLD_DEFAULT, "clGetDeviceIDs"));
  if (!get_platforms || !get_devices) return "";
  uint32_t count = 0, devices = 0;
  get_platforms(0, nullptr, &count);
  std::vector<void*> platforms(count);
  if (count) get_platforms(count, platforms.data(), nullptr);
  for (void* platform : platforms) {
    if (get_devices(platform, /*CL_DEVICE_TYPE_GPU*/ 4, 0, nullptr, &devices) == 0 && devices) return "GPU";
  }
  return "processor";
}

// For TVM, which would take half of the processors.
void SetThreads() {
  if (getenv("TVM_NUM_THREADS") || getenv("OMP_NUM_THREADS")) return;
  if (const int usable = cores::Usable()) setenv("TVM_NUM_THREADS", std::to_string(usable).c_str(), 1);
}

class Network {
 public:
  explicit Network(const Description& description) : description_(description) {
    const std::string library = Folder() + "network.so";
    CheckLibrary(library, description.target);
    instructions_missing = "predict: error: " + library + " uses instructions that this processor does not have: it "
                           "was compiled for " + description.target + "\n";
    signal(SIGILL, OnIllegalInstruction);
    const bool opencl = description.device == "opencl";
    if (opencl) LoadOpenCL();
    const DLDevice device{opencl ? kDLOpenCL : kDLCPU, 0};
    tvm::runtime::TVMRetValue exists;
    tvm::runtime::DeviceAPI::Get(device)->GetAttr(device, tvm::runtime::kExist, &exists);
    if (!int(exists)) Fail("no " + description.device + " device found");
    if (opencl && !description.device_kind.empty()) WarnOfKind(description, device);
    const PackedFunc* create = Registry::Get("tvm.graph_executor.create");
    if (!create) Fail("TVM's runtime has no graph executor");
    executor_ = (*create)(BundleFile("graph.json"), Module::LoadFromFile(library), int(device.device_type), 0);
    const std::string params = BundleFile("network.params");
    if (int64_t(params.size()) != description.params_bytes) {  // TVM takes an array that is cut short
      Fail(Folder() + "network.params is damaged: copy it again");
    }
    if (int(executor_.GetFunction("get_input_index")(description.input)) < 0) {
      Fail(Folder() + "preprocess.json or graph.json is damaged: the network has no input " + description.input);
    }
    executor_.GetFunction("load_params")(TVMByteArray{params.data(), params.size()});
    set_input_ = executor_.GetFunction("set_input");
    run_ = executor_.GetFunction("run");
    get_output_ = executor_.GetFunction("get_output");
  }

  // float32 of the input's shape to probabilities (N x classes).
  std::vector<float> Predict(const std::vector<float>& data) {
    const DLDevice cpu{kDLCPU, 0};
    NDArray input = NDArray::Empty(tvm::ShapeTuple(description_.shape), {kDLFloat, 32, 1}, cpu);
    input.CopyFromBytes(data.data(), data.size() * sizeof(float));
    set_input_(description_.input, input);
    run_();
    const NDArray output = get_output_(0);
    if (output.DataType() != tvm::runtime::DataType::Float(32)) Fail("the network's output is not float32");
    const auto shape = output.Shape();
    std::vector<float> probabilities(std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>()));
    output.CopyToBytes(probabilities.data(), probabilities.size() * sizeof(float));
    return probabilities;
  }

 private:
  static void WarnOfKind(const Description& description, DLDevice device) {
    const std::string taken = OpenCLKind();
    if (taken.empty() || taken == description.device_kind) return;
    tvm::runtime::TVMRetValue name;
    tvm::runtime::DeviceAPI::Get(device)->GetAttr(device, tvm::runtime::kDeviceName, &name);
    std::fprintf(stderr, "predict: warning: compiled for a %s (%s), runs on a %s (%s): it may be slow\n",
                 description.device_kind.c_str(), description.device_name.c_str(), taken.c_str(),
                 name.operator std::string().c_str());
  }

  const Description& description_;
  Module executor_;
  PackedFunc set_input_, run_, get_output_;
};

std::vector<std::string> Labels() {
  std::istringstream text(BundleFile("labels.txt"));
  std::vector<std::string> labels;
  for (std::string line; std::getline(text, line);) labels.push_back(line);
  return labels;
}

void CheckFinite(const std::string& path, const float* probabilities, size_t count) {
  if (!std::all_of(probabilities, probabilities + count, [](float value) { return std::isfinite(value); })) {
    Fail("the network's output for " + path + " is not finite: its weights hold NaN or infinity, or numbers that lead "
         "there (training may have diverged)");
  }
}

void PrintTop5(const float* probabilities, const std::vector<std::string>& labels) {
  std::vector<int> order(labels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return probabilities[a] > probabilities[b]; });
  for (int rank = 0; rank < int(std::min<size_t>(5, order.size())); ++rank) {
    const int label = order[rank];
    std::printf("top-%d: %d %s (%.4f)\n", rank + 1, label, labels[label].c_str(), probabilities[label]);
  }
}

// Photographs are prepared a batch at a time: all of them together may not fit into memory.
void Prepare(const std::vector<std::string>& paths, const Description& description, std::vector<float>* data) {
  const size_t size = 3 * description.shape[2] * description.shape[3];
  data->assign(description.shape[0] * size, 0.0f);
  for (size_t i = 0; i < paths.size(); ++i) Preprocess(paths[i], description, &(*data)[i * size]);
}

void DumpInput(const std::vector<std::string>& paths, const Description& description, const std::string& out) {
  std::ofstream file(out, std::ios::binary);
  std::vector<float> data(3 * description.shape[2] * description.shape[3]);
  for (const std::string& path : paths) {
    Preprocess(path, description, data.data());
    file.write(reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float));
  }
  file.close();
  if (!file) Fail(out + ": cannot be written");
}

void Run(const Arguments& arguments) {
  if (fcntl(STDOUT_FILENO, F_GETFD) < 0) Fail("standard output is closed");
  const Description description = Described();
  const std::vector<std::string> labels = Labels();
  for (const std::string& path : arguments.images) CheckImage(path);
  if (!arguments.dump_input.empty()) return DumpInput(arguments.images, description, arguments.dump_input);
  Network network(description);
  const size_t batch = description.shape[0];
  std::vector<float> input;
  for (size_t first = 0; first < arguments.images.size(); first += batch) {
    const size_t count = std::min(batch, arguments.images.size() - first);
    const auto paths = arguments.images.begin() + first;
    Prepare({paths, paths + count}, description, &input);
    std::vector<float> probabilities;
    std::vector<double> times;
    for (int i = 0; i < std::max(1, arguments.repeat); ++i) {
      const auto start = std::chrono::steady_clock::now();
      probabilities = network.Predict(input);
      times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    if (probabilities.size() != batch * labels.size()) Fail("labels.txt does not fit the network");
    for (size_t i = 0; i < count; ++i) CheckFinite(paths[i], &probabilities[i * labels.size()], labels.size());
    for (size_t i = 0; i < count; ++i) {
      std::printf("%s\n", paths[i].c_str());
      PrintTop5(&probabilities[i * labels.size()], labels);
    }
    if (arguments.repeat) {
      std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
      std::printf("elapsed: %.1fms (median of %d runs)\n", times[times.size() / 2], arguments.repeat);
    }
    if (std::fflush(stdout)) Fail(std::string("standard output: ") + std::strerror(errno));
  }
}

// Of TVM's error what it says, without the file, the line and the stack around it.
std::string WithoutStack(const std::string& text) {
  const size_t at = text.find("Check failed");
  if (at == text.npos) return text.substr(0, text.find('\n'));
  std::string line = "TVM cannot load or run the network: " + text.substr(at, text.find('\n', at) - at);
  for (char& letter : line) letter = ' ' <= letter && letter <= '~' ? letter : '?';  // of a damaged file
  return line;
}

int Failed(std::string line) {
  for (char& letter : line) letter = (0 <= letter && letter < ' ') || letter == 127 ? '?' : letter;  // of a file's name
  std::fprintf(stderr, "predict: error: %s\n", line.c_str());
  return 1;
}

int main(int count, char** values) {
  SetThreads();
  setenv("TVM_BACKTRACE_LIMIT", "0", 0);  // nobody sees TVM's stacks here, and it reads past the names it puts in them
  try {
    Run(Parsed(count, values));
    return 0;
  } catch (const dmlc::Error& error) {
    return Failed(WithoutStack(error.what()));
  } catch (const std::bad_alloc&) {
    return Failed("out of memory");
  } catch (const std::exception& error) {
    return Failed(error.what());
  }
}

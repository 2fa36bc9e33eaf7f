// PoCL makes code for the processor that its LLVM takes this one for. An LLVM that is older than the processor errs:
// that of PyPI's PoCL takes AMD's Zen 4 for Zen 3, which has no AVX-512, and Zen 5 for "generic", for which its Clang
// compiles nothing (pocl/pocl#1049). PoCL has no option for it. Here the name in its record of the device is replaced
// by that of a processor that LLVM has known for long and that has the same vectors.
//
// Where the record has the name differs between versions of PoCL. But the device's version ends with "-TRIPLE-NAME",
// and in the record a pointer to TRIPLE is followed by one to NAME. Where there is no such pair, nothing is changed.
// Memory is read through /proc/self/mem, for which a word that is no pointer is an error and no more.
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr size_t kWords = 256, kLongest = 64;
constexpr const char *kAvx512 = "skylake-avx512", *kAvx2 = "haswell", *kOther = "x86-64";

bool held = false;  // to AVX2

// The name of a processor with the vectors of this one, as far as they may be used; null if they are not known.
const char* Equivalent() {
#ifdef __x86_64__
  if (!held && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return kAvx2;
  return kOther;
#endif
  return nullptr;
}

class Memory {
 public:
  ~Memory() { close(file_); }

  template <typename T>
  bool Read(std::uintptr_t address, T* to) const {
    return pread(file_, to, sizeof(T), static_cast<off_t>(address)) == static_cast<ssize_t>(sizeof(T));
  }

  // The string at an address; "" if there is none.
  std::string String(std::uintptr_t address) const {
    std::array<char, kLongest> text;
    const ssize_t size = pread(file_, text.data(), text.size(), static_cast<off_t>(address));
    return size > 0 && std::memchr(text.data(), 0, size) ? text.data() : "";
  }

 private:
  int file_ = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
};

std::string Version(cl_device_id device) {
  std::array<char, 1024> version{};
  clGetDeviceInfo(device, CL_DEVICE_VERSION, version.size() - 1, version.data(), nullptr);
  return version.data();
}

// Whether code for `name` should be code for `equivalent`: its vectors are shorter, or longer than they may be.
bool IsWrong(const std::string& name, const std::string& equivalent) {
  if (held) return name != equivalent;
  if (name == "generic") return true;
  return equivalent == kAvx512 && (name == "znver1" || name == "znver2" || name == "znver3");
}

}  // namespace

// The name of the processor that the device's code is made for from here on; null if PoCL's own is left.
extern "C" const char* FitPoclDevice(cl_device_id device) {
  const std::string version = Version(device);
  const char* equivalent = Equivalent();
  if (!equivalent || version.find(" HSTR: ") == std::string::npos) return nullptr;  // not known, or not PoCL's
  const Memory memory;
  const auto record = reinterpret_cast<std::uintptr_t>(device);
  for (size_t word = 0; word < kWords; ++word) {
    std::array<std::uintptr_t, 2> pair{};
    if (!memory.Read(record + word * sizeof(pair[0]), &pair)) break;
    const std::string triple = memory.String(pair[0]), name = memory.String(pair[1]);
    const size_t place = triple.empty() ? std::string::npos : version.rfind("-" + triple + "-");
    if (place == std::string::npos) continue;
    const std::string own = version.substr(place + triple.size() + 2);
    if (!IsWrong(own, equivalent)) continue;
    if (name == equivalent) return equivalent;  // replaced before
    if (name != own) continue;
    reinterpret_cast<const char**>(record)[word + 1] = strdup(equivalent);  // PoCL may free it
    return equivalent;
  }
  return nullptr;
}

// To compare what runs on most processors, on one that has AVX-512. Before devices are fitted.
extern "C" void HoldPoclToAvx2() { held = true; }

extern "C" int KeepPoclAwake(int cores);

// The same for all processors; and PoCL's threads, in a process that may use so many cores.
extern "C" void FitPocl(int cores) {
  cl_uint count = 0;
  if (clGetPlatformIDs(0, nullptr, &count)) return;
  std::vector<cl_platform_id> platforms(count);
  clGetPlatformIDs(count, platforms.data(), nullptr);
  for (cl_platform_id platform : platforms) {
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_CPU, 0, nullptr, &count)) continue;
    std::vector<cl_device_id> devices(count);
    clGetDeviceIDs(platform, CL_DEVICE_TYPE_CPU, count, devices.data(), nullptr);
    for (cl_device_id device : devices) FitPoclDevice(device);
  }
  KeepPoclAwake(cores);  // of the library that clGetPlatformIDs has loaded
}

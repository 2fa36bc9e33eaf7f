// Code in this process is told that the processor has AVX2 and no later vectors, however it asks. For
// benchmarks/inference.py, to compare programs on AVX2 that have no option for it.
//
// Linux can have CPUID end in SIGSEGV in a thread and those that it starts (arch_prctl; "cpuid_fault" in
// /proc/cpuinfo). The handler then asks in its place, and leaves of the answer what Intel's Haswell had.
#ifdef __x86_64__
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>

namespace {

constexpr char kCpuid[] = "\x0f\xa2";
constexpr unsigned kFeatures = 7;  // the leaf of AVX2 and all that came after it
constexpr unsigned kHaswell = bit_FSGSBASE | bit_BMI | bit_AVX2 | bit_BMI2;

bool Allow(bool cpuid) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, cpuid) == 0; }

void Answer(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  if (std::memcmp(reinterpret_cast<const void*>(registers[REG_RIP]), kCpuid, 2) != 0) {  // an error of the program
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  const auto leaf = static_cast<unsigned>(registers[REG_RAX]), part = static_cast<unsigned>(registers[REG_RCX]);
  unsigned a, b, c, d;
  Allow(true);
  __cpuid_count(leaf, part, a, b, c, d);
  Allow(false);
  if (leaf == kFeatures) {
    b = part == 0 ? b & kHaswell : 0;
    a = c = d = 0;
  }
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

}  // namespace
#endif

// Returns whether this processor and its Linux can. Before the program is loaded, which asks when it is.
extern "C" int HoldToAvx2() {
#ifdef __x86_64__
  struct sigaction action {};
  action.sa_sigaction = Answer;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGSEGV, &action, nullptr) == 0 && Allow(false);
#else
  return 0;
#endif
}

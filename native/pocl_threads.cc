// PoCL's threads meet after each kernel of a network, and one that finds nothing to do sleeps. To wake it takes about
// as long as a small kernel does. PoCL has no option for it. Here its calls of pthread_cond_wait lead to a function
// that first looks for a tenth of a millisecond whether another thread has work.
//
// They also take the parts of a kernel's work in the order in which they come, the first of which is the first half for
// two threads. Here a thread that comes first lets those with lower numbers pass: each then has about the part of a map
// that it had a layer before, in its own core's cache.
//
// The calls are found in the tables of PoCL's library where the dynamic linker notes where they go. Only conditions
// that are variables of the library itself are meant, those that its threads share: a program that waits for an answer
// sleeps as before.
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <utility>

namespace {

constexpr auto kPatience = std::chrono::microseconds(100), kTurn = std::chrono::microseconds(30);
// kernels without turns after one to which a thread did not come: few if that is chance, many if other programs have the
// cores, which waiting would take from them
constexpr int kLeastHurried = 2, kMostHurried = 512;

std::atomic<std::uintptr_t> begin{UINTPTR_MAX}, end{0};  // of PoCL's library, or libraries, in memory
std::atomic<unsigned> wakes{0};
std::atomic<int> spare_cores{0};
std::atomic<int> threads{0};              // of PoCL's that have waited for work
thread_local int number = -1;             // of such a thread
std::atomic<void*> parts{nullptr};        // the mutex around the parts of the last kernel's work
std::atomic<int> turn{0};                 // the thread that may take its first part
std::atomic<int> hurry{0};                // the kernels for which any may
std::atomic<int> hurried{kLeastHurried};  // how many those will be the next time

bool OfPocl(const pthread_cond_t* condition) {
  const auto address = reinterpret_cast<std::uintptr_t>(condition);
  return begin <= address && address < end;
}

bool TakeCore() {
  if (spare_cores.fetch_sub(1) > 0) return true;
  ++spare_cores;
  return false;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Condition>
bool Soon(std::chrono::steady_clock::duration patience, Condition come) {
  const auto last = std::chrono::steady_clock::now() + patience;
  do {
    for (int i = 0; i < 16; ++i) {
      if (come()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < last);
  return false;
}

// Returns too if nothing woke it, as POSIX allows: its callers look again, and call again. No call both releases the
// mutex to stay awake and sleeps after it: what happens between the two would be missed.
int Wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  thread_local bool sleepy = false;
  if (!OfPocl(condition)) return pthread_cond_wait(condition, mutex);
  if (number < 0) number = threads++;
  if (sleepy || !TakeCore()) {
    sleepy = false;
    return pthread_cond_wait(condition, mutex);
  }
  const unsigned seen = wakes;
  pthread_mutex_unlock(mutex);
  sleepy = !Soon(kPatience, [seen] { return wakes != seen; });
  ++spare_cores;
  return pthread_mutex_lock(mutex);
}

int Broadcast(pthread_cond_t* condition) {
  ++wakes;
  return pthread_cond_broadcast(condition);
}

int Signal(pthread_cond_t* condition) {
  ++wakes;
  return pthread_cond_signal(condition);
}

// A mutex that these threads make is that of a kernel which is about to start.
int Init(pthread_mutex_t* mutex, const pthread_mutexattr_t* attributes) {
  if (number >= 0) {
    if (hurry > 0) --hurry;
    turn = 0;
    parts = mutex;
  }
  return pthread_mutex_init(mutex, attributes);
}

int Lock(pthread_mutex_t* mutex) {
  if (number < 0 || parts != mutex || turn > number) return pthread_mutex_lock(mutex);
  if (!hurry && turn < number) {
    const bool come = Soon(kTurn, [mutex] { return turn >= number || parts != mutex; });
    if (!come) hurry = hurried.load();
    hurried = come ? std::max(hurried / 2, kLeastHurried) : std::min(hurried * 2, kMostHurried);
  }
  const int error = pthread_mutex_lock(mutex);
  turn = number + 1;
  return error;
}

#ifdef __LP64__  // whose tables have entries of the form Rela

const struct {
  const char* name;
  void* to;
} kRedirected[] = {{"pthread_cond_wait", reinterpret_cast<void*>(Wait)},
                   {"pthread_cond_broadcast", reinterpret_cast<void*>(Broadcast)},
                   {"pthread_cond_signal", reinterpret_cast<void*>(Signal)},
                   {"pthread_mutex_init", reinterpret_cast<void*>(Init)},
                   {"pthread_mutex_lock", reinterpret_cast<void*>(Lock)}};

// In memory that may be read alone from when the library was loaded on.
bool Write(void** place, void* value, bool read_only) {
  const auto page_size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  void* page = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(place) / page_size * page_size);
  if (read_only && mprotect(page, page_size, PROT_READ | PROT_WRITE)) return false;
  __atomic_store_n(place, value, __ATOMIC_RELEASE);
  if (read_only) mprotect(page, page_size, PROT_READ);
  return true;
}

int Redirect(dl_phdr_info* library, size_t, void* count) {
  const char* slash = std::strrchr(library->dlpi_name, '/');
  if (std::strncmp(slash ? slash + 1 : library->dlpi_name, "libpocl", std::strlen("libpocl"))) return 0;
  const ElfW(Addr) base = library->dlpi_addr;
  ElfW(Addr) read_only = 0, read_only_end = 0;
  const ElfW(Dyn)* entry = nullptr;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = library->dlpi_phdr[i];
    const ElfW(Addr) first = base + part.p_vaddr, last = first + part.p_memsz;
    if (part.p_type == PT_LOAD) {
      begin = std::min<std::uintptr_t>(begin, first);
      end = std::max<std::uintptr_t>(end, last);
    } else if (part.p_type == PT_GNU_RELRO) {
      read_only = first;
      read_only_end = last;
    } else if (part.p_type == PT_DYNAMIC) {
      entry = reinterpret_cast<const ElfW(Dyn)*>(first);
    }
  }
  std::array<ElfW(Addr), DT_NUM> value{};
  for (; entry && entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag < DT_NUM) value[entry->d_tag] = entry->d_un.d_ptr;
  }
  // which the linker of glibc has made absolute, others not
  const auto address = [&](int tag) { return value[tag] < base ? base + value[tag] : value[tag]; };
  const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(address(DT_SYMTAB));
  const auto* names = reinterpret_cast<const char*>(address(DT_STRTAB));
  for (const auto& [table, size] : {std::pair(DT_RELA, DT_RELASZ), std::pair(DT_JMPREL, DT_PLTRELSZ)}) {
    const auto* place = reinterpret_cast<const ElfW(Rela)*>(address(table));
    for (const auto* last = place + value[size] / sizeof(*place); place < last; ++place) {
      const auto symbol = ELF64_R_SYM(place->r_info);
      if (!symbol || place->r_addend) continue;
      for (const auto& call : kRedirected) {
        if (std::strcmp(names + symbols[symbol].st_name, call.name)) continue;
        const ElfW(Addr) at = base + place->r_offset;
        *static_cast<int*>(count) +=
            Write(reinterpret_cast<void**>(at), call.to, read_only <= at && at < read_only_end);
      }
    }
  }
  return 0;
}

#endif

}  // namespace

// For a process that may use so many cores: at most one fewer of PoCL's threads stay awake, since one has the work that
// the others wait for. Returns how many of PoCL's calls it redirected.
extern "C" int KeepPoclAwake(int cores) {
  int count = 0;
#ifdef __LP64__
  if (end || cores < 2) return count;
  dl_iterate_phdr(Redirect, &count);
  spare_cores = cores - 1;
#endif
  return count;
}

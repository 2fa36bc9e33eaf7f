"""For which processor PoCL makes code where its LLVM does not know this one, on records that are like PoCL's; how its
threads wait, in a library that is like PoCL's."""
import ctypes
import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.base.machine import processor_flags, usable_cores
from tests.conftest import ROOT

TRIPLE = "x86_64-unknown-linux-gnu"
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= {*processor_flags()}
AVX2 = {"avx2", "fma", "bmi2"} <= {*processor_flags()}
OURS = "skylake-avx512" if AVX512 else "haswell" if AVX2 else "x86-64"
DRIVER = """
#include <CL/cl.h>
#include <cstring>
extern "C" {
const char* version = "";
cl_int clGetDeviceInfo(cl_device_id, cl_device_info, size_t size, void* to, size_t*) {
  std::strncpy(static_cast<char*>(to), version, size);
  return CL_SUCCESS;
}
cl_int clGetPlatformIDs(cl_uint, cl_platform_id*, cl_uint*) { return CL_INVALID_VALUE; }
cl_int clGetDeviceIDs(cl_platform_id, cl_device_type, cl_uint, cl_device_id*, cl_uint*) { return CL_INVALID_VALUE; }
}
"""
# two threads that hand a number over as PoCL's threads do work; and that take work, the second of them a bit earlier
THREADS = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static long number, goal;
static void* play(void* parity) {
  pthread_mutex_lock(&mutex);
  while (number < goal) {
    if (number % 2 == (long) parity) {
      if (number % 100 == 0) usleep(1000);  // longer than the other stays awake
      ++number;
      pthread_cond_broadcast(&condition);
    } else {
      pthread_cond_wait(&condition, &mutex);
    }
  }
  pthread_mutex_unlock(&mutex);
  return 0;
}
long hand_over(long times) {
  pthread_t other;
  goal = times;
  pthread_create(&other, 0, play, (void*) 1);
  play(0);
  pthread_join(other, 0);
  return number;
}
void* wait_function(void) { return (void*) pthread_cond_wait; }

static pthread_mutex_t parts;
static volatile long waiting, started, kernel, taken, arrived;
static volatile long firsts[2];
static void use_core(long number) {
  cpu_set_t usable, one;
  pthread_getaffinity_np(pthread_self(), sizeof(usable), &usable);
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &usable) && !number--) CPU_SET(core, &one);
  }
  pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}
static void wait_once(void) {
  pthread_mutex_lock(&mutex);
  ++waiting;
  while (!started) pthread_cond_wait(&condition, &mutex);
  pthread_mutex_unlock(&mutex);
}
static void* take(void* of) {
  const long me = (long) of;
  use_core(me);
  wait_once();
  for (long i = 1; i <= goal && firsts[0] < 10; ++i) {
    __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
    while (arrived < 2 * i) sched_yield();  // a barrier of the system would wake one of them much later
    if (me == 1) {
      pthread_mutex_init(&parts, 0);
      taken = 0;
      kernel = i;
    } else {
      while (kernel != i) sched_yield();
      for (volatile int later = 0; later < 1000; ++later);
    }
    pthread_mutex_lock(&parts);
    if (!taken) ++firsts[me];
    taken = 1;
    pthread_mutex_unlock(&parts);
  }
  return 0;
}
long taken_first_by_the_first(long times) {
  pthread_t threads[2];
  goal = times;
  for (long i = 0; i < 2; ++i) {
    pthread_create(threads + i, 0, take, (void*) i);
    for (long now = 0; now <= i;) {
      pthread_mutex_lock(&mutex);
      now = waiting;
      pthread_mutex_unlock(&mutex);
    }
  }
  pthread_mutex_lock(&mutex);
  started = 1;
  pthread_cond_broadcast(&condition);
  pthread_mutex_unlock(&mutex);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], 0);
  return firsts[0];
}
"""
HAND_OVER = """
import ctypes, sys
plugin, threads = (ctypes.CDLL(path) for path in sys.argv[1:3])
threads.wait_function.restype = ctypes.c_void_p
before = threads.wait_function()
redirected = plugin.KeepPoclAwake(int(sys.argv[3])), plugin.KeepPoclAwake(int(sys.argv[3]))
firsts = threads.taken_first_by_the_first(int(sys.argv[4]))
print(*redirected, threads.wait_function() == before, firsts, threads.hand_over(2000))
"""
OF_PYPI = """
import ctypes, sys
import common.inference.drivers
from pyopencl import _cl
ctypes.CDLL(_cl.__file__, ctypes.RTLD_GLOBAL)
print(ctypes.CDLL(sys.argv[1]).KeepPoclAwake(2))
"""

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86's processors, x86's PoCL")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The path of the plug-in's part for PoCL, with a driver that it is told of."""
    folder = tmp_path_factory.mktemp("pocl")
    (folder / "driver.cc").write_text(DRIVER)
    headers = Path(find_spec("tvm").submodule_search_locations[0], "3rdparty", "OpenCL-Headers")
    sources = folder / "driver.cc", *(ROOT / "native" / f"pocl_{name}.cc" for name in ("processor", "threads"))
    subprocess.run([os.environ.get("CXX", "g++"), "-shared", "-Wl,-Bsymbolic", "-fPIC", "-std=c++17", "-O2", "-Wall",
                    "-Werror", "-Wno-cpp", f"-I{headers}", "-DCL_TARGET_OPENCL_VERSION=120", *sources, "-pthread", "-o",
                    folder / "fit.so"], check=True)
    return folder / "fit.so"


@pytest.fixture(scope="module")
def library(built):
    return opened(built)


def opened(path):
    library = ctypes.CDLL(str(path))
    library.FitPoclDevice.restype = ctypes.c_char_p
    return library


def fitted(library, version, words):
    """(what FitPoclDevice returns, of each word of the record the string that it points at, or the word)."""
    told = ctypes.c_char_p.in_dll(library, "version")
    told.value = version.encode()
    texts = [ctypes.create_string_buffer(word.encode()) if isinstance(word, str) else word for word in words]
    record = (ctypes.c_size_t * 300)(*(text if isinstance(text, int) else ctypes.addressof(text) for text in texts))
    found = library.FitPoclDevice(ctypes.byref(record))
    again = library.FitPoclDevice(ctypes.byref(record))
    assert found == again
    return found and found.decode(), [ctypes.string_at(value).decode() if isinstance(word, str) else value
                                      for word, value in zip(words, record)]


WILD = [1, 0xdeadbeef, 2**63 + 8]  # words that are no pointers
NAMES = [("generic", OURS), *((f"znver{i}", OURS if AVX512 else None) for i in (1, 2, 3)), ("haswell", None)]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_a_processor_that_llvm_does_not_know_gets_a_name_that_it_does(library, name, expected):
    version = f"OpenCL 3.0 PoCL HSTR: pthread-{TRIPLE}-{name}"
    words = [*WILD, "pthread", "AuthenticAMD", TRIPLE, name, *WILD]
    assert fitted(library, version, words) == (expected, [*words[:6], expected or name, *WILD])


@pytest.mark.skipif(not AVX2, reason="this processor has no AVX2")
@pytest.mark.parametrize(("name", "expected"), [
    ("generic", "haswell"), ("znver3", "haswell"), ("skylake-avx512", "haswell"), ("haswell", None)])
def test_a_processor_is_held_to_avx2(built, tmp_path, name, expected):
    held = opened(shutil.copy(built, tmp_path))  # another copy: it stays held
    held.HoldPoclToAvx2()
    version = f"OpenCL 3.0 PoCL HSTR: pthread-{TRIPLE}-{name}"
    assert fitted(held, version, ["pthread", TRIPLE, name, *WILD]) == (
        expected, ["pthread", TRIPLE, expected or name, *WILD])


@pytest.mark.parametrize(("version", "words"), [
    (f"OpenCL 3.0 PoCL HSTR: pthread-{TRIPLE}-generic", [*WILD, "generic", TRIPLE]),
    (f"OpenCL 3.0 PoCL HSTR: pthread-{TRIPLE}-generic", ["aarch64-unknown-linux-gnu", "generic"]),
    (f"OpenCL 3.0 Another {TRIPLE}-generic", [TRIPLE, "generic"]), ("", WILD)],
    ids=["other order", "other triple", "not PoCL", "no version"])
def test_a_record_of_another_form_stays_as_it_is(library, version, words):
    assert fitted(library, version, words) == (None, words)


@pytest.mark.parametrize(("name", "flags", "cores", "found"), [
    ("libpocl-of-a-distribution", "lazy", 2, True), ("libpocl", "relro,-z,now", 2, True), ("libpocl", "lazy", 1, False),
    ("libother", "lazy", 2, False)], ids=["", "in read-only memory", "one core", "not PoCL"])
def test_threads_that_stay_awake_miss_nothing_and_take_turns(built, tmp_path, name, flags, cores, found):
    (tmp_path / "threads.c").write_text(THREADS)
    path = tmp_path / f"{name}.so.2"
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-pthread", f"-Wl,-z,{flags}",
                    tmp_path / "threads.c", "-o", path], check=True)
    told = subprocess.run([sys.executable, "-c", HAND_OVER, built, path, str(cores), "20000" if found else "0"],
                          check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert (told[0] != "0", told[1:3], told[4]) == (found, ["0", str(not found)], "2000")
    assert usable_cores() == 1 or told[3] == ("10" if found else "0")


def test_the_threads_of_pypis_pocl_are_found(built):
    told = subprocess.run([sys.executable, "-c", OF_PYPI, built], check=True, capture_output=True, text=True, cwd=ROOT)
    assert told.stdout == "4\n"

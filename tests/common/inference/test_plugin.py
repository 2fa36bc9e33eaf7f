"""For which processor PoCL makes code where its LLVM does not know this one, on records that are like PoCL's."""
import ctypes
import os
import platform
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.base.machine import processor_flags
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

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86's processors")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocl")
    (folder / "driver.cc").write_text(DRIVER)
    headers = Path(find_spec("tvm").submodule_search_locations[0], "3rdparty", "OpenCL-Headers")
    subprocess.run([os.environ.get("CXX", "g++"), "-shared", "-Wl,-Bsymbolic", "-fPIC", "-std=c++17", "-Wall",
                    "-Werror", "-Wno-cpp", f"-I{headers}", "-DCL_TARGET_OPENCL_VERSION=120", folder / "driver.cc",
                    ROOT / "native" / "pocl_processor.cc", "-o", folder / "fit.so"], check=True)
    library = ctypes.CDLL(str(folder / "fit.so"))
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


@pytest.mark.parametrize(("version", "words"), [
    (f"OpenCL 3.0 PoCL HSTR: pthread-{TRIPLE}-generic", [*WILD, "generic", TRIPLE]),
    (f"OpenCL 3.0 PoCL HSTR: pthread-{TRIPLE}-generic", ["aarch64-unknown-linux-gnu", "generic"]),
    (f"OpenCL 3.0 Another {TRIPLE}-generic", [TRIPLE, "generic"]), ("", WILD)],
    ids=["other order", "other triple", "not PoCL", "no version"])
def test_a_record_of_another_form_stays_as_it_is(library, version, words):
    assert fitted(library, version, words) == (None, words)

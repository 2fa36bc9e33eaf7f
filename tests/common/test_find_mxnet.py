"""The threads that MXNet takes; GPUs that it cannot run on; NVIDIA's libraries and Arm's. Driver and libraries here
only say what they are."""
import os
import subprocess
import sys
from ctypes.util import find_library

import pytest

from common.base.machine import usable_cores
from symbols._cuda import LIBRARIES
from tests.conftest import ROOT

DRIVER = """
extern "C" int cuDriverGetVersion(int* version) { *version = CUDA; return 0; }
extern "C" int cuInit(unsigned) { return STATUS; }
extern "C" int cuDeviceGetCount(int* count) { *count = 2; return STATUS; }
extern "C" int cuDeviceGet(int* device, int number) { *device = number; return STATUS; }
extern "C" int cuDeviceGetName(char* name, int, int) { __builtin_strcpy(name, "NVIDIA Stub"); return STATUS; }
extern "C" int cuDeviceGetAttribute(int* value, int attribute, int device) {  // the first one is a Volta
  *value = attribute == 75 ? (device ? CAPABILITY / 10 : 7) : (device ? CAPABILITY % 10 : 0);
  return STATUS;
}
"""
NO_DEVICE = 100


def compile_library(path, source, *options):
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["g++", "-shared", "-fPIC", "-x", "c++", "-", "-x", "none", *options, "-o", str(path)],
                   input=source, text=True, check=True)


def python(code, **env):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **env})


def test_mxnet_takes_a_thread_for_each_core_that_it_may_use():
    threads = """
import ctypes, re
import common.find_mxnet
library = re.search(r"\\S*/libgomp\\S*", open("/proc/self/maps").read())[0]
print(ctypes.CDLL(library).omp_get_max_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    one = f"import os\nos.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    for before, given, expected in (("", {}, usable_cores()), (one, {}, 1), ("", {"OMP_NUM_THREADS": "3"}, 3)):
        done = subprocess.run([sys.executable, "-c", before + threads], cwd=ROOT, env={**environment, **given},
                              capture_output=True, text=True, check=True)
        assert int(done.stdout) == expected


@pytest.mark.parametrize(("cuda", "capability", "status", "gpus", "said"), [
    (12080, 120, 0, "0,1", ("GPU 1, NVIDIA Stub", "12.0", "8.9", "OpenCL")),
    (12040, 90, 0, "1", ("9.0",)),
    (11040, 37, 0, "1", ("3.7",)),
    # what it can run on: then MXNet itself is asked, of which this build sees none
    (12040, 90, 0, "0", ("MXNet sees 0 GPUs",)),
    (11000, 89, 0, "0,1", ("MXNet sees 0 GPUs",)),
    (12040, 90, NO_DEVICE, "0", ("MXNet sees 0 GPUs",)),
    (10020, 70, 0, "0", ("driver", "10.2", "11.0")),
])
def test_a_gpu_or_driver_that_mxnet_cannot_run_on_is_one_line(tmp_path, cuda, capability, status, gpus, said):
    compile_library(tmp_path / "libcuda.so.1", DRIVER, f"-DCUDA={cuda}", f"-DCAPABILITY={capability}",
                    f"-DSTATUS={status}")
    done = python("from common.base.errors import reported\nwith reported('x.py'):\n    from common.find_mxnet import "
                  f"contexts\n    contexts('{gpus}')", LD_LIBRARY_PATH=str(tmp_path))
    line, = done.stderr.splitlines()
    assert done.returncode == 1 and all(words in line for words in said), line


def test_libraries_of_wheels_are_loaded_if_the_system_has_none(tmp_path):
    """A package of MXNet's name needs the last of them, in a place that the system's loader does not know."""
    for wheel, library in LIBRARIES:
        compile_library(tmp_path / "nvidia" / wheel / "lib" / library, f"int {wheel};", f"-Wl,-soname,{library}")
    compile_library(tmp_path / "mxnet" / "libmxnet.so", "extern int cudnn; int* mxnet() { return &cudnn; }",
                    str(tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.8"))
    (tmp_path / "mxnet" / "__init__.py").write_text(
        "import ctypes, pathlib, types\nctypes.CDLL(str(pathlib.Path(__file__).with_name('libmxnet.so')))\n"
        "def pack(): pass\nrecordio = types.SimpleNamespace(pack=pack, pack_img=pack)\n")
    code = "from symbols._mxnet import mx\nprint(mx.__file__)"
    done = python(code, PYTHONPATH=str(tmp_path))
    assert done.stdout.startswith(str(tmp_path)), done.stderr

    (tmp_path / "nvidia" / "nccl" / "lib" / "libnccl.so.2").unlink()
    done = python("import common.find_mxnet", PYTHONPATH=str(tmp_path))
    assert "libcudnn.so.8" in done.stderr.splitlines()[-1] and "requirements-cu117.txt" in done.stderr


ARMS = ("libarmpl_lp64_mp.so", "libamath.so", "libastring.so")
OPENBLAS, LAPACKE = "libopenblas.so.0", "liblapacke.so.3"


@pytest.fixture
def for_arm(tmp_path):
    """MXNet as in its wheel for ARM: linked to Arm's libraries, which are not there, it calls OpenBLAS and LAPACKE."""
    folder, theirs = tmp_path / "mxnet", tmp_path / "theirs"
    for name in ARMS:
        compile_library(theirs / name, "", f"-Wl,-soname,{name}")
    for name, function in ((OPENBLAS, "cblas_sgemm"), (LAPACKE, "LAPACKE_sgesv")):
        compile_library(tmp_path / "system" / name, f'extern "C" int {function}() {{ return 20; }}',
                        f"-Wl,-soname,{name}")
    compile_library(folder / "libmxnet.so", """
        extern "C" int cblas_sgemm(), LAPACKE_sgesv();
        extern "C" int mxnet() { return cblas_sgemm() + LAPACKE_sgesv() + 2; }""", "-Wl,--no-as-needed",
                    *(str(theirs / name) for name in ARMS), "-Wl,--disable-new-dtags,-rpath,$ORIGIN")
    (folder / "__init__.py").write_text(
        "import ctypes, pathlib\nmxnet = ctypes.CDLL(str(pathlib.Path(__file__).with_name('libmxnet.so'))).mxnet\n")
    (tmp_path / "mxnet-1.9.1.dist-info").mkdir()
    (tmp_path / "mxnet-1.9.1.dist-info" / "METADATA").write_text("Name: mxnet\nVersion: 1.9.1\n")
    return tmp_path


def make_arm(folder, **env):
    return subprocess.run(["make", "-C", "native", f"BUILD={folder / 'build'}", f"PYTHON={sys.executable}", "arm"],
                          cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(folder), **env})


def test_what_mxnet_for_arm_is_linked_to_is_built_of_openblas_and_lapacke(for_arm):
    made = make_arm(for_arm, LIBRARY_PATH=str(for_arm / "system"))
    assert made.returncode == 0, made.stderr
    done = python("import mxnet; print(mxnet.mxnet())", PYTHONPATH=str(for_arm),
                  LD_LIBRARY_PATH=str(for_arm / "system"))
    assert done.stdout == "42\n", done.stderr


@pytest.mark.skipif(find_library("openblas") is not None, reason="OpenBLAS is installed")
def test_without_openblas_the_build_and_the_import_say_what_to_install(for_arm):
    made = make_arm(for_arm)
    assert made.returncode and "apt-get install libopenblas0 liblapacke\n" in made.stderr
    for missing in (ARMS[0], OPENBLAS):
        done = python("import common.find_mxnet", PYTHONPATH=str(for_arm))
        assert missing in (line := done.stderr.splitlines()[-1]) and "apt-get install libopenblas0 liblapacke" in line
        make_arm(for_arm, LIBRARY_PATH=str(for_arm / "system"))

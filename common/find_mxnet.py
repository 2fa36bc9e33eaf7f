"""How MXNet is found and checked here; the devices that --gpus names.

    from common.find_mxnet import mx

Everything that needs MXNet imports it from here. MXNet has to come before TVM in one process: TVM loads its LLVM for
everyone, and MXNet then crashes on it. (`common.inference.runtime` owns what comes after: pyopencl, then TVM.)
"""
import os
import re
import sys

from common.base import nvidia
from common.base.errors import InputError
from common.base.machine import THREADS, check_environment, usable_cores

if "tvm" in sys.modules and "mxnet" not in sys.modules:
    raise ImportError("import common.find_mxnet before TVM: MXNet crashes when it is loaded after it")

check_environment({  # what MXNet ends the process on, or waits for without end
    "OMP_NUM_THREADS": THREADS, "MXNET_CPU_WORKER_NTHREADS": THREADS,
    "MXNET_ENGINE_TYPE": "NaiveEngine|ThreadedEngine|ThreadedEnginePerDevice", "DMLC_ROLE": "worker|server|scheduler"})
# of itself it takes half of the machine's processors, whether they are threads of cores or not
os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
if sys.flags.optimize > 1:
    raise InputError("MXNet needs docstrings: run Python without -OO, or PYTHONOPTIMIZE=2")

NEEDS = {  # libraries in the loader's message: what brings them
    "libarmpl|libamath|libastring|openblas|lapack":
        f"for ARM it needs: apt-get install libopenblas0 liblapacke && make -C native arm PYTHON={sys.executable}",
    "libcuda.so": "a build for GPUs needs NVIDIA's driver",
    "": "a build for GPUs needs CUDA of its version: pip install --no-deps -r requirements-cu117.txt"}
try:
    from symbols._mxnet import mx
except ModuleNotFoundError as error:
    if error.name != "mxnet":
        raise
    raise ModuleNotFoundError("MXNet is not installed: pip install -r requirements.txt, and from Python 3.13 on pip "
                              "install --no-deps mxnet==1.9.1", name="mxnet") from None
except OSError as error:  # a library that it is linked to
    needs = next(needs for libraries, needs in NEEDS.items() if re.search(libraries, str(error)))
    raise ModuleNotFoundError(f"MXNet cannot be loaded: {error} ({needs})", name="mxnet") from None

__all__ = ["contexts", "mx"]

CUDA = (11, 0)  # what a driver must run at least, for MXNet built with any CUDA 11
# MXNet has machine code for the compute capabilities 5.0, 6.0, 7.0, 8.0 and 8.6, and no PTX: it runs on these and on
# what has the same major number and a larger minor one
MAJORS = range(5, 9)


def contexts(gpus: str | None) -> list:
    """[mx.cpu()] for an empty string or None, else the GPUs of a list such as "0,1"."""
    if not gpus:
        return [mx.cpu()]
    try:
        numbers = [int(n) for n in gpus.split(",")]
    except ValueError:
        raise InputError(f"--gpus {gpus}: give numbers with commas between, as in 0,1") from None
    _check_nvidia(gpus, numbers)
    available = mx.context.num_gpus()
    if any(not 0 <= n < available for n in numbers):
        raise InputError(f"--gpus {gpus}: MXNet sees {available} GPUs here"
                         + ("" if available else " (for NVIDIA: make setup MXNET=mxnet-cu117==1.9.1)"))
    return [mx.gpu(n) for n in numbers]


def _check_nvidia(gpus, numbers):
    """Before MXNet meets what it cannot run on."""
    cuda = nvidia.driver_cuda()
    if cuda and cuda < CUDA:
        raise InputError(f"--gpus {gpus}: NVIDIA's driver runs CUDA {cuda[0]}.{cuda[1]} at most, and MXNet needs "
                         f"{CUDA[0]}.{CUDA[1]}: install a driver from 450.80 on")
    for number, (name, (major, minor)) in enumerate(nvidia.gpus()):
        if number in numbers and major not in MAJORS:
            raise InputError(f"--gpus {gpus}: MXNet has no code for GPU {number}, {name} of compute capability "
                             f"{major}.{minor}: it trains on {MAJORS[0]}.0 to {MAJORS[-1]}.9 (Maxwell to Ada). "
                             "Inference runs on this one by OpenCL: from_mxnet.py")

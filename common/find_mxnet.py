"""How MXNet is found and checked here; the devices that --gpus names.

    from common.find_mxnet import mx

Everything that needs MXNet imports it from here. MXNet has to come before TVM in one process: TVM loads its LLVM for
everyone, and MXNet then crashes on it. (`common.inference.runtime` owns what comes after: pyopencl, then TVM.)
"""
import sys

from common.base.errors import InputError
from common.base.machine import THREADS, check_environment

if "tvm" in sys.modules and "mxnet" not in sys.modules:
    raise ImportError("import common.find_mxnet before TVM: MXNet crashes when it is loaded after it")

check_environment({  # what MXNet ends the process on, or waits for without end
    "OMP_NUM_THREADS": THREADS, "MXNET_CPU_WORKER_NTHREADS": THREADS,
    "MXNET_ENGINE_TYPE": "NaiveEngine|ThreadedEngine|ThreadedEnginePerDevice", "DMLC_ROLE": "worker|server|scheduler"})
if sys.flags.optimize > 1:
    raise InputError("MXNet needs docstrings: run Python without -OO, or PYTHONOPTIMIZE=2")

try:
    from symbols._mxnet import mx
except ModuleNotFoundError as error:
    if error.name != "mxnet":
        raise
    raise ModuleNotFoundError("MXNet is not installed: pip install -r requirements.txt (Python 3.10 to 3.12)",
                              name="mxnet") from None
except OSError as error:  # a library that it is linked to
    raise ModuleNotFoundError(f"MXNet cannot be loaded: {error} (a build for GPUs needs NVIDIA's driver, CUDA of its "
                              "version, cuDNN and NCCL)", name="mxnet") from None

__all__ = ["contexts", "mx"]


def contexts(gpus: str | None) -> list:
    """[mx.cpu()] for an empty string or None, else the GPUs of a list such as "0,1"."""
    if not gpus:
        return [mx.cpu()]
    try:
        numbers = [int(n) for n in gpus.split(",")]
    except ValueError:
        raise InputError(f"--gpus {gpus}: give numbers with commas between, as in 0,1") from None
    available = mx.context.num_gpus()
    if any(not 0 <= n < available for n in numbers):
        raise InputError(f"--gpus {gpus}: MXNet sees {available} GPUs here"
                         + ("" if available else " (for NVIDIA: make setup MXNET=mxnet-cu117==1.9.1)"))
    return [mx.gpu(n) for n in numbers]

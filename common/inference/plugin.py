"""TVM's OpenCL runtime, which its wheel lacks: the plug-in that native/ builds."""
import ctypes
from pathlib import Path
from typing import Any

from common.base.errors import InputError
from common.base.machine import load_library, usable_cores

PLUGIN = Path(__file__).resolve().parent.parent.parent / "native" / "build" / "libtvm_opencl.so"
_loaded: list[ctypes.CDLL] = []


def load_plugin() -> None:
    """Add OpenCL to the TVM that this process has imported. Raises InputError if that is not possible."""
    if not PLUGIN.exists():
        raise InputError(f"{PLUGIN} is not built: run make setup (or make -C native PYTHON=... for another Python); "
                         "--target llvm works without it")
    from pyopencl import _cl
    ctypes.CDLL(_cl.__file__, ctypes.RTLD_GLOBAL)  # with its libOpenCL, whose functions the plug-in calls
    try:
        library = load_library(PLUGIN, ctypes.RTLD_GLOBAL)
        library.FitPocl(usable_cores())
    except (OSError, AttributeError) as error:
        raise InputError(f"{PLUGIN} cannot be loaded, build it again with make -B -C native ({error})") from None
    library.FitPoclDevice.restype = ctypes.c_char_p
    _loaded[:] = [library]


def fitted_processor(device: Any) -> str:
    """LLVM's name of the processor for which PoCL makes the code of `device`, of pyopencl, if native/pocl_processor.cc
    chose it; else ""."""
    names = [library.FitPoclDevice(ctypes.c_void_p(device.int_ptr)) for library in _loaded]
    return names[0].decode() if names and names[0] else ""

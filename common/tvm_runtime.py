"""Import TVM with an OpenCL runtime that works: the one place that knows the order the libraries must come in.

    from common.tvm_runtime import tvm, relay

MXNet, where it is needed at all, comes first (`common.find_mxnet`), then pyopencl with its drivers loaded, then TVM:
TVM loads its LLVM for everyone, and a driver that brings another LLVM (PoCL) crashes when it is loaded after it.
"""
import ctypes
import os
from contextlib import suppress
from pathlib import Path

from common.errors import InputError

os.environ.setdefault("TOPHUB_LOCATION", "NONE")  # or every build tries to download tuning logs

PLUGIN = Path(__file__).resolve().parent.parent / "native" / "build" / "libtvm_opencl.so"
NO_OPENCL = ("install your GPU's OpenCL driver, or for this processor: pip install pocl-binary-distribution; "
             "--target llvm works without OpenCL")


def _platforms() -> list:
    """OpenCL's platforms, as (platform, devices); empty where there is no loader, driver or device."""
    try:
        import pyopencl
    except ImportError:
        return []
    found = []
    with suppress(pyopencl.Error):  # there is no platform at all
        for platform in pyopencl.get_platforms():
            with suppress(pyopencl.Error):  # one broken driver does not hide the others
                found.append((platform, platform.get_devices()))
    return found


PLATFORMS = _platforms()

import tvm  # noqa: E402
from tvm import relay  # noqa: E402
from tvm.contrib import cc, graph_executor  # noqa: E402
from tvm.relay.frontend import mxnet as frontend  # noqa: E402

__all__ = ["cc", "frontend", "graph_executor", "host_cpu", "list_devices", "opencl_device", "relay", "tvm"]


def opencl_device():
    """TVM's OpenCL device: the first one of the first platform with a GPU, else with a processor.

    Raises InputError where there is none, or where the plug-in that runs it is not built.
    """
    if not tvm.runtime.enabled("opencl"):
        if not PLATFORMS:
            raise InputError(f"no OpenCL platform found: {NO_OPENCL}")
        _load_plugin()
    device = tvm.opencl(0)
    if not device.exist:
        raise InputError(f"no OpenCL platform has a GPU or a processor: {NO_OPENCL}")
    return device


def _load_plugin():
    if not PLUGIN.exists():
        raise InputError(f"{PLUGIN} is not built: run make setup (or make -C native PYTHON=... for another Python); "
                         "--target llvm works without it")
    from pyopencl import _cl
    ctypes.CDLL(_cl.__file__, ctypes.RTLD_GLOBAL)  # and so its libOpenCL, whose functions the plug-in calls
    try:
        ctypes.CDLL(str(PLUGIN), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise InputError(f"{PLUGIN} cannot be loaded, build it again with make -B -C native ({error})") from None


def list_devices():
    """Yields a line for each OpenCL platform and device, and for what the targets llvm and opencl run on."""
    for platform, devices in PLATFORMS:
        yield f"{platform.name} ({platform.version.strip()})"
        for device in devices:
            yield (f"  {device.name.strip()} ({device.version.strip()}, {device.max_compute_units} compute units, "
                   f"{device.global_mem_size / 2**30:.1f} GiB)")
    yield f"--target llvm runs on: this processor ({host_cpu()})"
    yield f"--target opencl runs on: {opencl_device().device_name}"


def device_name(device) -> str:
    if device.device_type == tvm.cpu().device_type:
        return f"this processor ({host_cpu()})"
    return device.device_name


def host_cpu() -> str:
    """LLVM's name of this processor (`-mcpu=native` would silently fall back to a generic one)."""
    return tvm.target.codegen.llvm_get_system_cpu()

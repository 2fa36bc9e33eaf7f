"""TVM's runtime, and the devices that it runs networks on.

    from common.inference.runtime import graph_executor, tvm

The order in one process: MXNet (`common.find_mxnet`) if it is needed at all, then OpenCL's drivers, then TVM. Only
TVM's runtime library is loaded, unless all of TVM was imported before this module (`common.compiler` does).
"""
import importlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any, NamedTuple

from common.base.errors import InputError
from common.base.machine import THREADS, check_environment, processor_flags, processor_name, usable_cores
from common.inference.choices import kind_of
from common.inference.drivers import PLATFORMS
from common.inference.plugin import fitted_processor, load_plugin

NO_OPENCL = ("install your GPU's OpenCL driver, or for this processor: pip install pyopencl pocl-binary-distribution "
             "(on ARM: apt-get install pocl-opencl-icd); --target llvm works without OpenCL")
ONLY_RUNTIME = "TVM_USE_RUNTIME_LIB"
# in a vector of the code that LLVM makes for a processor of this name, with which the version of PoCL's device ends
LLVM_FLOATS = {"znver1": 8, "znver2": 8, "znver3": 8, "haswell": 8, "x86-64-v3": 8, "x86-64-v2": 4, "x86-64": 4,
               "generic": 4}


def _import_tvm():
    """TVM as it was imported already, else with its runtime library alone, else (if it has none) with all of it."""
    if "tvm" in sys.modules:
        return sys.modules["tvm"]
    check_environment({"TVM_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS})  # TVM ends the process on too many
    if not {"TVM_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():  # or TVM would take half of the processors
        os.environ["TVM_NUM_THREADS"] = str(usable_cores())
    before = os.environ.get(ONLY_RUNTIME)
    said = io.StringIO()
    os.environ[ONLY_RUNTIME] = "1"
    try:
        with redirect_stderr(said):
            return importlib.import_module("tvm")
    except RuntimeError:  # a TVM without this library
        del os.environ[ONLY_RUNTIME]
        return importlib.import_module("tvm")
    finally:
        os.environ.pop(ONLY_RUNTIME, None)  # or the compiler's process would load it too
        if before is not None:
            os.environ[ONLY_RUNTIME] = before
        sys.stderr.write("".join(line for line in said.getvalue().splitlines(keepends=True)
                                 if not line.startswith("Loading runtime library")))


tvm = _import_tvm()
graph_executor = importlib.import_module("tvm.contrib.graph_executor")

__all__ = ["device_name", "device_of", "graph_executor", "list_devices", "opencl_device", "tvm"]


def device_of(target: str) -> Any:
    """TVM's device for a target string. Raises InputError if this machine or this TVM has none of its kind."""
    kind = kind_of(target)
    if kind == "opencl":
        return opencl_device()
    if kind == "llvm":
        return tvm.cpu()
    try:
        if tvm.runtime.enabled(kind) and (device := tvm.device(kind)).exist:
            return device
    except (tvm.error.TVMError, ValueError):
        pass
    raise InputError(f"target {target!r} cannot run here: this TVM or this machine has no {kind}")


def opencl_device() -> Any:
    """TVM's OpenCL device: the first one of the first platform that has a GPU, else of the first with a processor.

    Raises InputError if there is none, or if the plug-in that runs it is not built.
    """
    if not tvm.runtime.enabled("opencl"):
        if not PLATFORMS:
            raise InputError(f"no OpenCL platform found: {NO_OPENCL}")
        load_plugin()
    device = tvm.opencl(0)
    if not device.exist:
        raise InputError(f"no OpenCL platform has a GPU or a processor of OpenCL 1.2 or later: {NO_OPENCL}")
    return device


def list_devices() -> Iterator[str]:
    """Yields a line for each OpenCL platform and device, and for what the targets llvm and opencl run on."""
    for platform_, devices in PLATFORMS:
        yield f"{platform_.name} ({platform_.version.strip()})"
        for device in devices:
            yield (f"  {device.name.strip()} ({device.version.strip()}, {device.max_compute_units} compute units, "
                   f"{device.global_mem_size / 2**30:.1f} GiB)")
    yield f"--target llvm runs on: {device_name(tvm.cpu())}"
    yield f"--target opencl runs on: {opencl_device().device_name}"


def device_name(device: Any) -> str:
    """The name of TVM's `device`, as its driver gives it, or of this processor."""
    if device.device_type == tvm.cpu().device_type:
        return f"this processor ({processor_name()})"
    return device.device_name


class Device(NamedTuple):
    """`floats`: how many its vectors hold if it is a processor under OpenCL, else 0. `flags`: of /proc/cpuinfo."""
    name: str
    floats: int
    flags: tuple


def describe(target: str) -> Device:
    """The device that `target`, a TVM target string, runs on. Raises InputError if there is none."""
    device = device_of(target)
    if kind_of(target) != "opencl":
        return Device(processor_name(), 0, processor_flags())
    name = device.device_name
    floats = max((vector_floats(device, fitted_processor(device)) for device in processors(name)), default=0)
    return Device(name, floats, processor_flags() if floats else ())


def vector_floats(device: Any, fitted: str = "") -> int:
    """How many floats a vector holds in the code of `device`, of pyopencl, `fitted` to a processor by the plug-in: PoCL
    tells those of this one, though its LLVM may be older than that, and use shorter ones."""
    processor = f"-{fitted}" if fitted else device.version
    return min([device.native_vector_width_float,
                *(floats for name, floats in LLVM_FLOATS.items() if processor.endswith(f"-{name}"))])


def processors(name: str) -> list:
    """The processors under OpenCL, of pyopencl, with the name of a TVM device."""
    if not PLATFORMS:
        return []
    import pyopencl
    return [device for _, devices in PLATFORMS for device in devices
            if device.name == name and device.type & pyopencl.device_type.CPU]

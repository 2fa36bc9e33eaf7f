"""OpenCL kernels as the driver built them, kept beside the library that they belong to: of the seconds that a first run
takes, the driver's compiler takes most."""
import json
import os
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from common.base.machine import usable_cores
from common.inference.plugin import fitted_processor
from common.inference.runtime import opencl_device, processors, tvm

ROOT = Path(__file__).resolve().parents[2]
KERNELS = "kernels"
FUNCTION = re.compile(r"^// Function: (.*)\n", re.MULTILINE)  # between the kernels of a module's source
_libraries = {}  # {(device, inode): tvm.runtime.Module}


def load_library(folder: str | Path) -> tvm.runtime.Module:
    """The tvm.runtime.Module of network.so in `folder`, with the kernels that are kept beside it.

    A file is loaded once and stays: its code remembers the module that it first ran in, and would use it after it is
    freed.
    """
    file = Path(folder) / "network.so"
    identity = file.stat().st_dev, file.stat().st_ino
    if identity not in _libraries:
        library = tvm.runtime.load_module(str(file))
        try:
            _set_kernels(library, file.with_name(KERNELS))
        except tvm.error.TVMError:  # the driver refuses them, and builds its own
            library = tvm.runtime.load_module(str(file))
        _libraries[identity] = library
    return _libraries[identity]


def keep_kernels(folder: str | Path) -> None:
    """Have the OpenCL driver build the kernels of network.so, in a process for each core, and write beside it what the
    driver returns, unless it fails: then it builds them when the network is opened.

    Raises InputError if there is no OpenCL device, OSError if the file cannot be written.
    """
    device = opencl_device()
    library = load_library(folder)
    modules = _opencl_modules(library)
    if not modules or not find_spec("pyopencl"):
        return
    _, *parts = FUNCTION.split(modules[0].get_source())
    sources = sorted(zip(parts[::2], parts[1::2]), key=lambda kernel: len(kernel[1]))
    count = min(usable_cores(), len(sources))
    fitted = any(map(fitted_processor, processors(device.device_name)))
    shares = [{"device": device.device_name, "fitted": fitted, "kernels": dict(sources[i::count]),
               "parent": os.getpid()} for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        built = list(pool.map(_built, shares))
    if all(built):
        (Path(folder) / KERNELS).write_bytes(struct.pack("<Q", len(sources)) + b"".join(built))
        _set_kernels(library, Path(folder) / KERNELS)  # it is in use from here on


def _built(share):
    """What `common.inference.opencl_binaries` prints; nothing if it fails."""
    process = subprocess.run([sys.executable, "-m", "common.inference.opencl_binaries"], cwd=ROOT, check=False,
                             input=json.dumps(share).encode(), capture_output=True)
    return b"" if process.returncode else process.stdout


def _set_kernels(library, file):
    if file.exists():
        for module in _opencl_modules(library):
            module.get_function("opencl.SetPreCompiledPrograms")(bytearray(file.read_bytes()))


def _opencl_modules(library):
    return [module for module in library.imported_modules if module.type_key == "opencl"]

"""OpenCL kernels as the driver built them, kept beside the library that they belong to: of the seconds that a first run
takes, the driver's compiler takes most."""
from contextlib import suppress
from pathlib import Path

from common.inference.runtime import opencl_device, tvm

KERNELS = "kernels"
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
    """Have the OpenCL driver build the kernels of network.so, and write beside it what the driver returns.

    Raises InputError if there is no OpenCL device, OSError if the file cannot be written.
    """
    opencl_device()
    # of native/: missing in a TVM that was built with OpenCL
    binaries = tvm.get_global_func("opencl.program_binaries", allow_missing=True)
    modules = _opencl_modules(load_library(folder))
    if binaries and modules:
        with suppress(tvm.error.TVMError):
            (Path(folder) / KERNELS).write_bytes(binaries(modules[0]))


def _set_kernels(library, file):
    if file.exists():
        for module in _opencl_modules(library):
            module.get_function("opencl.SetPreCompiledPrograms")(bytearray(file.read_bytes()))


def _opencl_modules(library):
    return [module for module in library.imported_modules if module.type_key == "opencl"]

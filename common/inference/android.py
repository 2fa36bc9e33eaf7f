"""The CMake project in a bundle for Android: TVM's runtime as sources, which the NDK compiles."""
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from common.base.errors import InputError
from common.inference.systems import architecture

NATIVE = Path(__file__).resolve().parents[2] / "native"
ABIS = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}  # the NDK's name of a processor
API_LEVEL = "24"  # Android 7, if the triple says no other
# of TVM: what runs a graph from a library, and what that includes
RUNTIME = (
    *(f"src/runtime/{name}.cc" for name in (
        "c_runtime_api", "container", "cpu_device_api", "dso_library", "file_utils", "graph_executor/graph_executor",
        "library_module", "logging", "memory/memory_manager", "module", "ndarray", "object", "packed_func", "profiling",
        "registry", "thread_pool", "threading_backend", "workspace_pool")),
    "src/runtime/*.h", "src/runtime/graph_executor/*.h", "src/runtime/memory/*.h", "src/support/utils.h",
    "include/tvm/runtime/**/*.h", "3rdparty/dlpack/include/**/*.h", "3rdparty/dmlc-core/include/**/*.h",
    "3rdparty/dlpack/LICENSE", "3rdparty/dmlc-core/LICENSE")
OPENCL = (
    *(f"src/runtime/{name}.cc" for name in (
        "source_utils", "opencl/opencl_device_api", "opencl/opencl_module", "opencl/texture_pool",
        "opencl/opencl_wrapper/opencl_wrapper")),
    "src/runtime/opencl/*.h", "src/runtime/spirv/spirv_shader.h", "3rdparty/OpenCL-Headers/CL/*.h",
    "3rdparty/OpenCL-Headers/LICENSE")
SPAN = "include/tvm/support/span.h"  # of native/: TVM's package lacks it


def copy_runtime(folder: Path, opencl: bool) -> None:
    """Copy TVM's runtime into `folder`, as src/, include/ and 3rdparty/. Raises InputError if this TVM lacks it."""
    package = Path(find_spec("tvm").submodule_search_locations[0])
    home = next((home for home in (package, package.parents[1]) if (home / "src" / "runtime").is_dir()), package)
    for pattern in (*RUNTIME, *(OPENCL if opencl else ())):
        found = list(home.glob(pattern))
        if not found:
            raise InputError(f"{home / pattern} is not there: a bundle for Android needs the TVM of "
                             "requirements-inference.txt, or one with its sources")
        for path in found:
            _copy(path, folder / path.relative_to(home))
    if not (folder / SPAN).exists():
        _copy(NATIVE / SPAN, folder / SPAN)


def _copy(source, destination):
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def cmake_options(triple: str) -> dict[str, str]:
    """What README.md says to CMake: the NDK's `abi` ("" if Android has none for it), and the `api_level`."""
    level = re.search(r"\d+$", triple)
    return {"abi": ABIS.get(architecture(triple), ""), "api_level": level[0] if level else API_LEVEL}

"""NVIDIA's libraries for a build of MXNet for GPUs, from their wheels (requirements-cu117.txt)."""
import ctypes
from importlib.util import find_spec
from pathlib import Path

# (folder of the wheel, library), each after those that it needs
LIBRARIES = (
    ("cuda_runtime", "libcudart.so.11.0"), ("nvtx", "libnvToolsExt.so.1"), ("cuda_nvrtc", "libnvrtc.so.11.2"),
    ("cublas", "libcublasLt.so.11"), ("cublas", "libcublas.so.11"), ("cufft", "libcufft.so.10"),
    ("curand", "libcurand.so.10"), ("cusparse", "libcusparse.so.11"), ("cusolver", "libcusolver.so.11"),
    ("nccl", "libnccl.so.2"), ("cudnn", "libcudnn.so.8"),
)


def load_libraries() -> bool:
    """Load them for everything that is loaded later; False if they are not all installed."""
    wheels = find_spec("nvidia")
    paths = [next(Path(folder).glob(f"{wheel}/lib/{library}"), None) for wheel, library in LIBRARIES
             for folder in wheels.submodule_search_locations] if wheels else [None]
    if None in paths:
        return False
    for path in paths:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    return True

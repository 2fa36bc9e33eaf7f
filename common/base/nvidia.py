"""What NVIDIA's driver says of its GPUs. It is asked directly: CUDA and MXNet need not be there."""
import ctypes
from contextlib import suppress

CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver can run, such as (11, 7); None without a driver."""
    with suppress(OSError, AttributeError):
        version = _read(ctypes.CDLL("libcuda.so.1").cuDriverGetVersion, ctypes.c_int())
        return version // 1000, version % 1000 // 10
    return None


def gpus() -> list[tuple[str, tuple[int, int]]]:
    """[(name, compute capability), ...] in the order in which CUDA counts them; [] without a driver or a GPU."""
    found = []
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        _check(driver.cuInit(0))
        for number in range(_read(driver.cuDeviceGetCount, ctypes.c_int())):
            device = _read(driver.cuDeviceGet, ctypes.c_int(), number)
            major, minor = (_read(driver.cuDeviceGetAttribute, ctypes.c_int(), part, device) for part in CAPABILITY)
            name = ctypes.create_string_buffer(256)
            _check(driver.cuDeviceGetName(name, len(name), device))
            found.append((name.value.decode(errors="replace"), (major, minor)))
    return found


def _read(function, value, *arguments):
    """What a function of the driver writes to its first argument, of the type of `value`."""
    _check(function(ctypes.byref(value), *arguments))
    return value.value


def _check(status):
    if status:
        raise OSError(f"NVIDIA's driver: error {status}")

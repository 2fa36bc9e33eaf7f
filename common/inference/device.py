"""What is known of the device that a target runs on, here: what a network is compiled and tuned for."""
from typing import Any, NamedTuple

from common.inference.drivers import PLATFORMS
from common.inference.runtime import device_of
from common.inference.target_string import kind_of
from common.processor import processor_flags, processor_name


class Device(NamedTuple):
    """`floats`: how many its vectors hold, of OpenCL on a processor; 0 of other devices. `flags`: of /proc/cpuinfo."""
    name: str
    floats: int
    flags: tuple


def describe(target: str) -> Device:
    """The device that `target`, a TVM target string, runs on. Raises InputError where there is none."""
    device = device_of(target)
    if kind_of(target) != "opencl":
        return Device(processor_name(), 0, processor_flags())
    name = device.device_name
    floats = max((d.native_vector_width_float for _, devices in PLATFORMS for d in devices
                  if d.name == name and _is_processor(d)), default=0)
    return Device(name, floats, processor_flags() if floats else ())


def _is_processor(device: Any) -> bool:
    import pyopencl
    return bool(device.type & pyopencl.device_type.CPU)

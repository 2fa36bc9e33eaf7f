"""What is known of the device that a target runs on, here: what a network is compiled and tuned for."""
import re
from pathlib import Path
from typing import NamedTuple

from common.inference.drivers import PLATFORMS
from common.inference.runtime import device_of, processor_name


class Device(NamedTuple):
    """`floats`: how many its vectors hold, of OpenCL on a processor; 0 of other devices. `flags`: of /proc/cpuinfo."""
    name: str
    floats: int
    flags: tuple


def describe(target: str) -> Device:
    """The device that `target`, a TVM target string, runs on. Raises InputError where there is none."""
    device = device_of(target)
    if target.split()[0] != "opencl":
        return Device(processor_name(), 0, processor_flags())
    name = device.device_name
    floats = max((d.native_vector_width_float for _, devices in PLATFORMS for d in devices
                  if d.name == name and _is_processor(d)), default=0)
    return Device(name, floats, processor_flags() if floats else ())


def _is_processor(device) -> bool:
    import pyopencl
    return bool(device.type & pyopencl.device_type.CPU)


def processor_flags() -> tuple:
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return tuple(found.group(1).split()) if found else ()

"""The precisions that a network is compiled in, and what each needs beside a checkpoint and of a device.

float32; float16: half-precision arithmetic and weights, softmax in float32; int8: see `common.compiler.quantize`.
"""
from pathlib import Path
from typing import Any

from common.errors import InputError

PRECISIONS = ("float32", "float16", "int8")
HALF = "cl_khr_fp16"  # OpenCL's extension of half-precision arithmetic


def calibration_file(prefix: str | Path, epoch: int) -> str:
    """Beside a checkpoint's parameters: what tools/calibrate.py measured of them, for int8."""
    return f"{prefix}-{epoch:04d}-int8.json"


def files_of(precision: str, prefix: str | Path, epoch: int) -> list:
    """The files that compiling for `precision` reads beside those of the checkpoint."""
    return [calibration_file(prefix, epoch)] if precision == "int8" else []


def check_device(precision: str, device: Any) -> None:
    """Raises InputError where `device` (tvm.runtime.Device), an OpenCL device, cannot compute in `precision`."""
    if precision != "float16":
        return
    from common.inference.drivers import PLATFORMS  # not above: what reads arguments imports this module

    name = device.device_name.strip()
    for _, devices in PLATFORMS:
        if any(found.name.strip() == name and HALF in found.extensions.split() for found in devices):
            return
    raise InputError(f"--precision float16: {name} has no half-precision arithmetic ({HALF}); give float32 or int8")

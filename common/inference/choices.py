"""What a network can be compiled for: a TVM target string (read without TVM), a precision, and tuning records.

Precisions: float32; float16: half-precision arithmetic and weights, softmax in float32; int8: see
`common.compiler.quantize`.
"""
from pathlib import Path
from typing import Any

from common.base.errors import InputError

PRECISIONS = ("float32", "float16", "int8")
HALF = "cl_khr_fp16"  # OpenCL's extension of half-precision arithmetic
FOLDER = Path(__file__).resolve().parents[2] / "tuning"
AUTO = "auto"


def kind_of(target: str) -> str:
    """The first word of a target: opencl, llvm ...; "" if it is empty."""
    return target.split()[0] if target.split() else ""


def files_of(precision: str, prefix: str | Path, epoch: int) -> list:
    """The files that compiling for `precision` reads besides those of the checkpoint."""
    from common.checkpoint.int8 import calibration_file  # not above: what reads arguments imports this module

    return [calibration_file(prefix, epoch)] if precision == "int8" else []


def check_device(precision: str, device: Any) -> None:
    """Raises InputError if `device` (tvm.runtime.Device), an OpenCL device, cannot compute in `precision`."""
    if precision != "float16":
        return
    from common.inference.drivers import PLATFORMS  # not above, for the same reason

    name = device.device_name.strip()
    for _, devices in PLATFORMS:
        if any(found.name.strip() == name and HALF in found.extensions.split() for found in devices):
            return
    raise InputError(f"--precision float16: {name} has no half-precision arithmetic ({HALF}); give float32 or int8")


def record_files(records: str | Path | None) -> list:
    """The files of records that may be used: all in tuning/ for AUTO, a single file, or none (None)."""
    return [] if records is None else sorted(FOLDER.glob("*.json")) if records == AUTO else [records]

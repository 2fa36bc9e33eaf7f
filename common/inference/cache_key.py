"""The name of a compiled network in the cache: a hash of all that it is made from, and of what makes it."""
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, check_size
from common.base.machine import processor_identity
from common.checkpoint.params import checkpoint_files
from common.inference.choices import files_of, kind_of, record_files
from common.inference.drivers import PLATFORMS
from common.inference.plugin import fitted_processor
from common.inference.runtime import tvm

ROOT = Path(__file__).resolve().parents[2]
# all that a compiler's process imports of this repository
SOURCES = ("common/compile.py", "common/base", "common/checkpoint", "common/compiler", "common/inference", "symbols")


def key_of(identity: str, prefix: str | Path, epoch: int, data_shape: Sequence[int], target: str, precision: str,
           records: str | Path | None) -> str:
    """32 hexadecimal digits. `identity`: that of the network, by common.checkpoint.fold. The checkpoint's numbers count
    only where files of `precision` are made from them. `records`: a path of tuning records, None, or AUTO of
    common.inference.choices.

    Raises InputError for a missing file.
    """
    calibration = files_of(precision, prefix, epoch)
    files = [*filter(os.path.exists, calibration), *record_files(records), *sources()]  # the compiler says what lacks
    if calibration:
        files.append(Path(checkpoint_files(prefix, epoch)[1]))
    made_of = {
        "network": identity, "files": [_sha256(file) for file in files],
        "data_shape": list(map(int, data_shape)), "target": target, "precision": precision,
        "tuned": records is not None,
        "tvm": [tvm.__version__, *_libraries()], "processor": processor_identity(),
        "opencl": [] if kind_of(target) == "llvm" else _opencl()}
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def sources() -> list[Path]:
    """The Python files of SOURCES."""
    return sorted(path for name in SOURCES for path in ([ROOT / name] if name.endswith(".py")
                                                        else (ROOT / name).glob("*.py")))


def _sha256(file):
    check_size(file, MOST_WEIGHTS)
    try:
        return digest(file, "sha256")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None


def _libraries():
    """(name, bytes, time) of TVM's libraries: a TVM that is built again here keeps its version."""
    folder = Path(tvm._ffi.base._LIB._name).parent
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("libtvm*.so"))]


def _opencl():
    return [(platform.name, platform.version, device.name, device.version, device.driver_version,
             fitted_processor(device)) for platform, devices in PLATFORMS for device in devices]

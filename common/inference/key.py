"""The name of a compiled network in the cache: a hash of everything that it is made of, and made by."""
import hashlib
import json
from pathlib import Path

from common.errors import InputError
from common.inference.drivers import PLATFORMS
from common.inference.runtime import tvm
from common.params_file import checkpoint_files

COMMON = Path(__file__).resolve().parent.parent
TUNING = COMMON.parent / "tuning"
IDENTIFYING = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags",
               "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")  # of /proc/cpuinfo


def key_of(prefix, epoch: int, data_shape, target: str, precision: str, records) -> str:
    """Hexadecimal digits. `records` is the path of tuning records, None, or "auto".

    Raises InputError for a missing file.
    """
    sources = [path for folder in (COMMON, COMMON / "compiler") for path in sorted(folder.glob("*.py"))]
    files = [*checkpoint_files(prefix, epoch), *_records(records), *sources]
    made_of = {
        "files": [_sha256(file) for file in files],
        "data_shape": list(map(int, data_shape)), "target": target, "precision": precision,
        "tuned": records is not None,
        "tvm": [tvm.__version__, *_libraries()], "processor": _processor(),
        "opencl": [] if target.split()[:1] == ["llvm"] else _opencl()}
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def _records(records):
    return [] if records is None else sorted(TUNING.glob("*.json")) if records == "auto" else [records]


def _sha256(file):
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None


def _libraries():
    """(name, bytes, time) of TVM's libraries: of a TVM that is built here, the version stays."""
    folder = Path(tvm._ffi.base._LIB._name).parent
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("libtvm*.so"))]


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return []
    fields = (line.partition(":") for line in lines)
    return [(name.strip(), value.strip()) for name, _, value in fields if name.strip() in IDENTIFYING]


def _opencl():
    return [(platform.name, platform.version, device.name, device.version, device.driver_version)
            for platform, devices in PLATFORMS for device in devices]

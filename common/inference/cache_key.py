"""The name of a compiled network in the cache: a hash of everything that it is made from, and of what makes it."""
import hashlib
import json
import os
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, check_size
from common.base.machine import processor_identity
from common.checkpoint.params import checkpoint_files
from common.inference.choices import files_of, kind_of, record_files
from common.inference.drivers import PLATFORMS
from common.inference.runtime import tvm

ROOT = Path(__file__).resolve().parent.parent.parent
COMPILER = "common/compile.py"
# `from package import name, (...)`, or `import module`
IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+)?import[ \t]+(\([^)]*\)|.*)", re.MULTILINE)


def key_of(prefix: str | Path, epoch: int, data_shape: Sequence[int], target: str, precision: str,
           records: str | Path | None) -> str:
    """32 hexadecimal digits. `records`: a path of tuning records, None, or AUTO of common.inference.choices.

    Raises InputError for a missing file.
    """
    calibration = filter(os.path.exists, files_of(precision, prefix, epoch))  # the compiler says how to make it
    files = [*checkpoint_files(prefix, epoch), *calibration, *record_files(records), *modules_of(ROOT / COMPILER)]
    made_of = {
        "files": [_sha256(file) for file in files],
        "data_shape": list(map(int, data_shape)), "target": target, "precision": precision,
        "tuned": records is not None,
        "tvm": [tvm.__version__, *_libraries()], "processor": processor_identity(),
        "opencl": [] if kind_of(target) == "llvm" else _opencl()}
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def modules_of(program: Path) -> list:
    """Paths of `program`, a Python file, and of all modules of this repository that it imports, directly or not."""
    found, left = set(), [program]
    while left:
        path = left.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        for name in _imported(path.read_text(encoding="utf-8")):
            module = ROOT.joinpath(*name.split("."))
            left += [module.with_suffix(".py"), module / "__init__.py"]
    return sorted(found)


def _imported(source):
    """Names of modules, of their packages, and of what is imported from them, which may be modules too.

    (Python's own parser would take a tenth of the time that a network from the cache needs for its first answer.)
    """
    for package, names in IMPORT.findall(source):
        for name in re.findall(r"[\w.]+", names):
            yield from accumulate((f"{package}.{name}" if package else name).split("."), "{}.{}".format)


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
    return [(platform.name, platform.version, device.name, device.version, device.driver_version)
            for platform, devices in PLATFORMS for device in devices]

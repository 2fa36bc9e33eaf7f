"""The name of a compiled network in the cache: a hash of everything that it is made of, and made by."""
import ast
import hashlib
import json
import os
from itertools import accumulate
from pathlib import Path

from common.errors import InputError
from common.inference.drivers import PLATFORMS
from common.inference.precision import files_of
from common.inference.runtime import tvm
from common.params_file import checkpoint_files

ROOT = Path(__file__).resolve().parent.parent.parent
COMPILER = "common/compile.py"
IDENTIFYING = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags",
               "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")  # of /proc/cpuinfo


def key_of(prefix, epoch: int, data_shape, target: str, precision: str, records) -> str:
    """Hexadecimal digits. `records` is the path of tuning records, None, or "auto".

    Raises InputError for a missing file.
    """
    calibration = filter(os.path.exists, files_of(precision, prefix, epoch))  # the compiler says how to make one
    files = [*checkpoint_files(prefix, epoch), *calibration, *_records(records), *modules_of(ROOT / COMPILER)]
    made_of = {
        "files": [_sha256(file) for file in files],
        "data_shape": list(map(int, data_shape)), "target": target, "precision": precision,
        "tuned": records is not None,
        "tvm": [tvm.__version__, *_libraries()], "processor": _processor(),
        "opencl": [] if target.split()[:1] == ["llvm"] else _opencl()}
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def modules_of(program: Path) -> list:
    """Paths of `program`, a Python file, and of all modules of this repository that it imports, and they import."""
    found, left = set(), [program]
    while left:
        path = left.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        for name in _imported(ast.parse(path.read_bytes())):
            module = ROOT.joinpath(*name.split("."))
            left += [module.with_suffix(".py"), module / "__init__.py"]
    return sorted(found)


def _imported(tree):
    """Names of modules and of their packages, and of what is imported from them, which may be modules too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield from accumulate(name.split("."), "{}.{}".format)


def _records(records):
    return [] if records is None else sorted((ROOT / "tuning").glob("*.json")) if records == "auto" else [records]


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

"""Tuning records: the fastest schedule of each convolution on a device, in `tuning/<device>.json`.

    {"device": "name of the device, or null", "kind": "llvm", "layout": "nchw16c", "needs": ["avx512f"],
     "tvm": "0.19.0", "records": [an AutoTVM record each]}

`needs` are flags of /proc/cpuinfo. The records fit a target of that kind and layout on that device, or, if it is null,
on any processor with the flags.
"""
import json
import math
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import tvm
from tvm import autotvm

from common.base.errors import InputError, last_line
from common.base.files import read_json, written_atomically
from common.compiler.blocked import layout_of
from common.inference.choices import AUTO, record_files
from common.inference.runtime import Device

NEEDS = {"nchw16c": ("avx512f",), "nchw8c": ("avx2", "fma")}  # layout: flags of x86 processors with such vectors
ABOUT: dict[str, type | tuple] = {"device": (str, type(None)), "kind": str, "layout": str, "needs": list, "tvm": str,
                                  "records": list}


class Records(NamedTuple):
    """The tuning records of a file, and what they were measured for."""
    path: Path
    about: dict    # the file without the records
    records: list  # (autotvm.MeasureInput, autotvm.MeasureResult)


def load(path: str | Path) -> Records:
    """Raises InputError for a file that is missing or holds no tuning records."""
    return _decoded(_undecoded(path))


def _undecoded(path: str | Path) -> Records:
    """As `load`, with the records as they are in the file."""
    with _refused(path):
        content = read_json(path, "tuning records of tools/tune.py")
        if any(not isinstance(content[key], kind) for key, kind in ABOUT.items()):
            raise ValueError("a value of another type")
        if not all(isinstance(flag, str) for flag in content["needs"]):
            raise ValueError("a flag that is no string")
        return Records(Path(path), content, content.pop("records"))


def _decoded(records: Records) -> Records:
    with _refused(records.path):
        return records._replace(records=[_record(row) for row in records.records])


@contextmanager
def _refused(path):
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except Exception as error:  # of many kinds: TVM does not know a target or a knob
        reason = f"{type(error).__name__}: {last_line(error)}"
        raise InputError(f"{path}: not tuning records of tools/tune.py ({reason})") from None


def _record(row):
    if set(row) != {"input", "config", "result", "version", "tvm_version"} or not isinstance(row["input"][1], str):
        raise ValueError("not an AutoTVM record")
    if not str(row["input"][0]).strip():
        raise ValueError("a record without a target")  # TVM would end the process
    record = autotvm.record.decode(json.dumps(row))
    if record is None or not all(math.isfinite(cost) and cost > 0 for cost in record[1].costs):
        raise ValueError("a record without a time")
    hash(record[0].task.workload)  # what a network's layers are looked up by
    autotvm.record.encode(*record)
    return record


def save(records: Records) -> None:
    """Write them to their path, atomically."""
    rows = [json.loads(autotvm.record.encode(*record)) for record in records.records]
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    head = json.dumps(records.about, indent=1).removesuffix("\n}")
    with written_atomically(records.path) as partial:
        Path(partial).write_text(f'{head},\n "records": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


def about(target: tvm.target.Target, device: Device, any_processor: bool) -> dict:
    """What the file says about records measured for `target` on `device`: which targets they fit."""
    layout = layout_of(target)
    return {"device": None if any_processor and layout else device.name, "kind": target.kind.name, "layout": layout,
            "needs": list(NEEDS.get(layout, ())), "tvm": tvm.__version__}


def choose(wanted: str | Path | None, target: tvm.target.Target,
           device: Device | None = None) -> Records | None:
    """The Records that `wanted` asks for: those in the file at that path, none (None), or those that fit best (AUTO).

    `device`: what `target` is for; None for another machine's, of which the target tells no more than its vectors.
    Records of this very device fit best, then those that need the most flags. For AUTO, files that cannot be used are
    passed over, with a line on standard output, and so are files of another TVM.
    """
    if wanted is None:
        return None
    if wanted != AUTO:
        return load(wanted)
    found = []
    for path in record_files(AUTO):
        with _passed_over():
            found.append(_undecoded(path))
    fitting = [records for records in found if _fits(records.about, target, device)]
    fitting.sort(key=lambda records: (records.about["device"] is None, -len(records.about["needs"])))
    for records in fitting:
        with _passed_over():
            return _decoded(records)
    return None


@contextmanager
def _passed_over():
    try:
        yield
    except InputError as error:
        print(f"warning: {error}; passed over", flush=True)


def _fits(about, target, device):
    layout = layout_of(target)
    same = {"kind": target.kind.name, "layout": layout, "tvm": tvm.__version__}
    if any(about[key] != value for key, value in same.items()):
        return False
    if device is None:  # nothing is known of it but, of a processor, that it has the vectors of the target's layout
        if target.kind.name != "llvm":
            return False
        device = Device("", 0, NEEDS.get(layout, ()))
    return about["device"] in (None, device.name) and set(about["needs"]) <= set(device.flags)

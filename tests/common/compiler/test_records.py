"""Tuning records: which fit a device, and what is no such file."""
import json
import os

import pytest

from common.base.errors import InputError
from common.compiler import records
from common.compiler.targets import resolve_target
from common.inference import choices
from common.inference.runtime import Device
from tests import tuning_records

AVX2 = ("avx2", "fma")
ROW = tuning_records.row((4, 2))
UNKNOWN_TO_TVM = (ROW | {"input": ["nonsense -x", "conv2d.blocked", [], {}]},
                  ROW | {"input": [" ", "conv2d.blocked", [], {}]},
                  ROW | {"config": {"index": 0, "code_hash": None, "entity": [["tile", "zz", 1]]}},
                  ROW | {"input": ["llvm", "conv2d.blocked", [{}], {}]},
                  ROW | {"config": {"index": 1e999, "code_hash": None, "entity": []}},
                  ROW | {"result": [[10 ** 400], 0, 1, 1]})


def write(folder, name, **changes):
    tuning_records.write(folder / f"{name}.json", **changes)


def test_those_that_fit_best_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "FOLDER", tmp_path)
    haswell, opencl = resolve_target("llvm -mcpu=haswell"), resolve_target("opencl", 8)
    assert records.choose("auto", haswell, Device("A", 0, AVX2)) is None
    write(tmp_path, "any")
    write(tmp_path, "avx2", needs=["avx2"])
    write(tmp_path, "this-one", device="A")
    write(tmp_path, "opencl", kind="opencl")
    write(tmp_path, "other-layout", layout="nchw16c", device="A", needs=["avx512f"])
    for target, device, name in [(haswell, Device("A", 0, AVX2), "this-one"), (haswell, Device("B", 0, AVX2), "avx2"),
                                 (haswell, Device("B", 0, ()), "any"), (opencl, Device("C", 8, ()), "opencl")]:
        assert records.choose("auto", target, device).path.stem == name
    assert records.choose(None, haswell, Device("A", 0, AVX2)) is None
    assert records.choose("auto", haswell, None).path.stem == "avx2"  # another machine's: it has what the target needs
    assert records.choose("auto", opencl, None) is None  # of a device that nothing is known of
    assert records.choose(tmp_path / "any.json", opencl, None).path.stem == "any"  # asked for by name


def test_what_cannot_be_used_is_passed_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choices, "FOLDER", tmp_path)
    haswell, device = resolve_target("llvm -mcpu=haswell"), Device("A", 0, AVX2)
    write(tmp_path, "another-tvm", device="A", tvm="0.18.0")
    write(tmp_path, "another-layout", layout="nchw16c", records=[3])  # is not looked into
    write(tmp_path, "any")
    assert records.choose("auto", haswell, device).path.stem == "any" and capsys.readouterr().out == ""
    (tmp_path / "half.json").write_text('{"device"')
    os.mkfifo(tmp_path / "pipe.json")
    for number, wrong in enumerate(([3], *([wrong] for wrong in UNKNOWN_TO_TVM))):
        write(tmp_path, f"rows{number}", device="A", records=wrong)
    write(tmp_path, "flags", needs=[[]])
    assert records.choose("auto", haswell, device).path.stem == "any"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(".json: ")[0] for line in lines] == [
        f"warning: {tmp_path / name}" for name in ("flags", "half", "pipe", *(f"rows{i}" for i in range(7)))]
    assert records.choose(tmp_path / "another-tvm.json", haswell, device).path.stem == "another-tvm"


def test_what_is_no_file_of_records(tmp_path):
    for changes in ({"kind": 3}, {"records": 1}, {"needs": None}, {"records": [3]}, {"records": [{"v": 0.1}]},
                    {"records": [ROW | {"result": [[float("nan")], 0, 1, 1]}]}, {"records": [ROW | {"input": []}]},
                    {"records": [ROW | {"more": 1}]}, {"records": [ROW | {"config": {}}]},
                    *({"records": [wrong]} for wrong in UNKNOWN_TO_TVM)):
        write(tmp_path, "bad", **changes)
        with pytest.raises(InputError, match="bad.json: not tuning records") as error:
            records.load(tmp_path / "bad.json")
        assert "\n" not in str(error.value)
    (tmp_path / "bad.json").write_text('{"device"')
    with pytest.raises(InputError, match="bad.json: not tuning records"):
        records.load(tmp_path / "bad.json")
    with pytest.raises(InputError, match="none.json: No such file"):
        records.load(tmp_path / "none.json")


def test_what_is_read_is_written_as_it_was(tmp_path):
    write(tmp_path, "first", records=[tuning_records.row(tile) for tile in ((4, 2), (3, 4))])
    found = records.load(tmp_path / "first.json")
    again = found._replace(path=tmp_path / "again.json")
    records.save(again)
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "again"))
    assert second == first
    assert [record[0].config["tile"].val for record in found.records] == [[4, 2], [3, 4]]

"""The benchmark of a training step, on a few small ones."""
import csv
import sys

import pytest

from benchmarks import training


@pytest.mark.long
def test_a_run(tmp_path, capsys):
    out, profile = tmp_path / "training.csv", tmp_path / "profile.csv"
    args = training.get_args_parser().parse_args([
        "--contenders", "mxnet", "mxnet-fused", "--sides", "32", "--batch-size", "2", "--rounds", "1", "--seconds", "1",
        "--frameworks", sys.executable, "--out", str(out), "--profile", str(profile)])
    training.main(args)
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == ["MXNet", "MXNet, fused BatchNorm"]
    assert all(float(row["images_per_s"]) > 0 and int(row["steps"]) > 0 for row in rows)
    assert rows[0]["contender"] in capsys.readouterr().out
    with open(profile, newline="") as file:
        found = {(row["contender"], row["operator"]) for row in csv.DictReader(file)}
    assert {("MXNet", "Convolution"), ("MXNet, fused BatchNorm", "_BatchNormClip"),
            ("MXNet, fused BatchNorm", "_backward_BatchNormClip")} <= found
    assert ("MXNet, fused BatchNorm", "_backward_clip") not in found

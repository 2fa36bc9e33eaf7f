"""benchmarks/photographs.py: what MXNet, TVM and ONNX Runtime answer is counted alike."""
import csv
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.long
def test_every_runner_and_precision_has_a_row(checkpoint, photographs, tmp_path):
    (tmp_path / "synset.txt").write_text("".join(f"{name}\n" for name in (
        *sorted(folder.name for folder in photographs.iterdir()), *(f"other{n}" for n in range(8)))))
    done = subprocess.run([sys.executable, "benchmarks/photographs.py", photographs, "--model-prefix", checkpoint,
                           "--image-shape", "3,64,64", "--synset", tmp_path / "synset.txt", "--out",
                           tmp_path / "out.csv"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out.csv", newline="") as file:
        rows = {(row["runner"], row["precision"]): row for row in csv.DictReader(file)}
    assert {("MXNet", "float32"), ("TVM llvm", "float32"), ("TVM opencl", "float32"),
            ("ONNX Runtime", "float32")} <= rows.keys()
    for runner in ("MXNet", "TVM llvm", "TVM opencl", "ONNX Runtime"):
        row = rows[runner, "float32"]
        assert row["top_1"] == rows["MXNet", "float32"]["top_1"] and row["photographs"] == "103"
        assert float(row["max_difference"]) < 5e-5 and float(row["top_1_low"]) <= float(row["top_1"])
    assert "int8: left out: " in done.stderr

"""benchmarks/runtimes.py with the runtimes that the tests have, and benchmarks/int8.py's intervals."""
import csv
import subprocess
import sys

import pytest
from scipy.stats import binomtest

from benchmarks.int8 import interval
from tests.conftest import ROOT


def test_what_is_installed_is_compared_and_the_rest_left_out(checkpoint, photographs, tmp_path):
    done = subprocess.run([sys.executable, "benchmarks/runtimes.py", "--model-prefix", checkpoint, "--images",
                           photographs, "--count", "3", "--image-shape", "3,64,64", "--out", tmp_path / "out.csv"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out.csv", newline="") as file:
        rows = {(row["format"], row["runtime"]): row for row in csv.DictReader(file)}
    row = rows["onnx", "ONNX Runtime"]
    assert float(row["max_difference"]) < 5e-5 and row["photographs"] == "3"
    assert "onnx-int8: left out: " in done.stderr and "tools/calibrate.py" in done.stderr
    assert "timm: left out: " in done.stderr  # its first expansion is no identity
    assert "onnx in MNN: left out: " in done.stderr or ("onnx", "MNN") in rows


@pytest.mark.parametrize("right, images", [(0, 10), (8, 10), (178, 200), (860, 860)])
def test_intervals_are_wilsons(right, images):
    assert interval(right, images) == pytest.approx(binomtest(right, images).proportion_ci(0.95, "wilson"), abs=1e-5)

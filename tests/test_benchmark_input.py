"""The benchmark of what feeds training, on a few images."""
import csv

import pytest

from benchmarks import input as benchmark
from benchmarks import photographs

NAMES = ("decode", "opencv", "opencv-ra", "opencv-cutmix", "mxnet")


@pytest.mark.long
def test_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(photographs, "SKIMAGE", ())  # scikit-image is for benchmarks alone
    out = tmp_path / "input.csv"
    benchmark.main(benchmark.get_args_parser().parse_args([
        "--contenders", *NAMES, "--cores", "1", "--images", "20",
        "--batch-size", "8", "--rounds", "1", "--seconds", "1", "--out", str(out)]))
    with open(out, newline="") as file:
        rows = {row["contender"]: row for row in csv.DictReader(file)}
    assert list(rows) == [benchmark.RUNNERS[name].label for name in NAMES]
    assert all(float(row["images_per_s"]) > 0 and row["images"] == "16" for row in rows.values())
    assert rows["decoding alone, simplejpeg"]["of_bound"] == "1.00"
    assert rows["ImageRecordIter"]["times_image_record_iter"] == "1.00"
    shown = capsys.readouterr().out
    assert all(label in shown for label in rows)

import json
import os
import re
import subprocess
import sys
from functools import partial

import cv2
import numpy as np
import pytest

from common.base.errors import InputError
from common.curves.picture import BEHIND, COLORS, Curve, points
from common.curves.read import read_run
from tests.commands import refusal, run
from tests.conftest import ROOT
from tools import plot_training

NEW, OTHER = COLORS[:2]


def metrics(path, epochs, begin=0, seconds=1800.0, loss=True):
    """A run's metrics: `epochs` epochs of two groups of 10 batches, each of so many seconds."""
    lines = [{"event": "start", "epoch": begin, "batch": 0, "time": "2026-11-23T10:00:00"}]
    for epoch in range(begin, begin + epochs):
        values = {"top-1": 0.1 + 0.01 * epoch, "top-5": 0.4 + 0.01 * epoch, "lr": 0.05 * 0.9 ** epoch,
                  "images_per_s": 200 + epoch % 7, **({"loss": 2 * 0.9 ** epoch} if loss else {})}
        lines += [{"event": "batches", "epoch": epoch, "batch": batch, "batches": 20, **values} for batch in (10, 20)]
        lines.append({"event": "epoch", "epoch": epoch, "batches": 20, "seconds": seconds, "lr_end": 0.01, **values})
        lines.append({"event": "validation", "epoch": epoch, "top-1": 0.2, "top-5": 0.6, "images": 364})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


plot = partial(run, plot_training)


def seen(path, color):
    """In which quarters of the picture a line of this color is: loss, accuracy, learning rate, throughput."""
    picture = cv2.imread(str(path))[:-70, :, ::-1]  # the legend is below
    same = (picture == [int(color[i:i + 2], 16) for i in (1, 3, 5)]).all(axis=2)
    quarters = [part for half in np.array_split(same, 2) for part in np.array_split(half, 2, axis=1)]
    least = 60 if color == BEHIND else 3  # the edges of letters have a few pixels of any grey
    return [part.sum() >= least for part in quarters]


def test_every_run_is_in_every_panel_that_it_has_values_for(tmp_path):
    runs = metrics(tmp_path / "a-metrics.jsonl", 12), metrics(tmp_path / "b-metrics.jsonl", 9, begin=5, loss=False)
    plot(*runs, "--published", "1_0", "-o", tmp_path / "x.png")
    assert cv2.imread(str(tmp_path / "x.png")).shape[1] == 1000
    for color, panels in ((NEW, [1, 1, 1, 1]), (OTHER, [0, 1, 1, 1]), (BEHIND, [0, 1, 1, 0])):
        assert seen(tmp_path / "x.png", color) == panels, color
    plot(runs[0], "-o", tmp_path / "y.png")
    assert seen(tmp_path / "y.png", NEW) == [1, 1, 1, 1]
    assert seen(tmp_path / "y.png", OTHER) == seen(tmp_path / "y.png", BEHIND) == [0, 0, 0, 0]


def test_a_log_of_several_workers_is_told_of(tmp_path, capsys):
    (tmp_path / "x.log").write_text("".join(f"Node[{node}] Epoch[{epoch}] Train-accuracy=0.{epoch + node}\n"
                                            for epoch in (1, 2) for node in (0, 1)))
    plot(tmp_path / "x.log", "--published", "1_0", "-o", tmp_path / "x.png")
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"warning: {tmp_path}/x.log: .*Node\[0\].*Node\[1\].*\n", err)
    assert out == f"{tmp_path}/x.png\n" and seen(tmp_path / "x.png", NEW)[1]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    run = metrics(tmp_path / "a-metrics.jsonl", 3)
    for name in ("x.png", "y.png"):
        plot(run, "-o", tmp_path / name)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_few_epochs_of_a_log_are_seen(tmp_path, epochs):
    (tmp_path / "x.log").write_text("".join(
        f"Epoch[{e}] Batch [0-20]\tSpeed: 90.0 samples/sec\taccuracy=0.3\nEpoch[{e}] Train-accuracy=0.{4 + e}\n"
        f"Epoch[{e}] Train-cross-entropy=2.{9 - e}\nEpoch[{e}] Validation-accuracy=0.{3 + e}\n" for e in range(epochs)))
    plot(tmp_path / "x.log", "-o", tmp_path / "x.png")
    assert seen(tmp_path / "x.png", NEW) == [1, 1, 0, 1]


def test_published_curves_alone_and_in_files(tmp_path):
    plot("--published", "1_4", "--x", "hours", "-o", tmp_path / "x.png")
    plot("--published", ROOT / "data" / "published" / "published-training-curve-1_4.csv", "--x", "hours",
         "-o", tmp_path / "y.png")
    for name in ("x.png", "y.png"):
        assert any(seen(tmp_path / name, NEW)) and not any(seen(tmp_path / name, BEHIND))


def test_the_axes(tmp_path):
    run = read_run(metrics(tmp_path / "a", 3, begin=4))
    curve = Curve("a", NEW, run)
    x, y = points(curve, "train_top1", "epoch")
    assert x.tolist() == [5, 6, 7] and y == pytest.approx([0.14, 0.15, 0.16])
    assert points(curve, "train_top1", "hours")[0] == pytest.approx([0.5, 1, 1.5])
    assert points(curve, "lr", "epoch")[0] == pytest.approx([4.5, 5, 5, 5.5, 6, 6, 6.5, 7, 7])
    assert points(curve, "lr", "hours")[0] == pytest.approx([0.25, 0.5, 0.5, 0.75, 1, 1, 1.25, 1.5, 1.5])
    np.testing.assert_allclose(points(curve, "lr", "epoch")[1], np.repeat(0.05 * 0.9 ** np.arange(4, 7), 3))
    assert [len(axis) for axis in points(curve, "val_loss", "epoch")] == [0, 0]

    run = read_run(metrics(tmp_path / "b", 1))
    x, y = points(Curve("b", NEW, run), "train_loss", "epoch")
    assert x.tolist() == [0.5, 1] and y.tolist() == [2, 2]


def test_hours_need_the_time_of_every_epoch_but_the_last(tmp_path):
    text = "".join(f"Epoch[{e}] Train-accuracy=0.5\nEpoch[{e}] Time cost=3600\n" for e in range(3))
    (tmp_path / "x").write_text(text + "Epoch[3] Train-accuracy=0.6\n")
    assert points(Curve("x", NEW, read_run(tmp_path / "x")), "train_top1", "hours")[0].tolist() == [1, 2, 3]
    (tmp_path / "x").write_text(text.replace("Epoch[1] Time", "Epoch[1] time of"))
    with pytest.raises(InputError, match="x: no time of epoch 1 .*--x hours"):
        plot(tmp_path / "x", "--x", "hours", "-o", tmp_path / "x.png")


def test_values_that_come_now_and_then_are_joined_but_rates_are_not(tmp_path):
    (tmp_path / "x").write_text("".join(
        ("Update[9]: Change learning rate to 0.1\n" if e == 2 else "") + f"Epoch[{e}] Train-accuracy=0.5\n"
        + (f"Epoch[{e}] Validation-accuracy=0.5\n" if e % 2 else "") for e in range(4)))
    curve = Curve("x", NEW, read_run(tmp_path / "x"))
    assert points(curve, "val_top1", "epoch")[0].tolist() == [2, 4]
    np.testing.assert_equal(points(curve, "lr", "epoch")[1], [np.nan, np.nan, 0.1, 0.1])


def test_any_label_can_be_drawn(tmp_path):
    labels = ["$x_1$", "_a", "\udcff", "x" * 500, "", "a\nb", "{}%s\\alpha"]
    plot(*(metrics(tmp_path / str(i), 3 + i) for i in range(len(labels))), "--labels", ",".join(labels),
         "-o", tmp_path / "x.png")
    picture = cv2.imread(str(tmp_path / "x.png"))
    assert picture.shape[1] == 1000 and seen(tmp_path / "x.png", COLORS[len(labels) - 1]) == [1, 1, 1, 1]


def test_numbers_of_any_size_can_be_drawn(tmp_path):
    values = [0.0, 1e99, -1e99, 1e-99, 5.0]
    (tmp_path / "x").write_text("".join(json.dumps(
        {"event": "epoch", "epoch": epoch, "loss": value, "top-1": value, "lr": value, "images_per_s": value,
         "seconds": abs(value)}) + "\n" for epoch, value in enumerate(values)))
    for axis in ("epoch", "hours"):
        plot(tmp_path / "x", "--x", axis, "-o", tmp_path / "x.png")
        assert cv2.imread(str(tmp_path / "x.png")) is not None


@pytest.mark.parametrize("arguments, message", [
    ([], "nothing to draw"),
    (["missing.jsonl"], "missing.jsonl: No such file"),
    (["RUN", "--labels", "a,b"], "--labels a,b: 2 names for 1 runs"),
    (["RUN"] * 8, "8 runs"),
    (["RUN", "--published", "2_0"], "--published 2_0: give 1_0, 1_4 or a FILE.csv"),
    (["--published", "missing.csv"], "missing.csv: No such file"),
    (["RUN", "-o", "no/such/folder/x.png"], "no/such/folder/x.png: No such file"),
    (["RUN", "-o", "/dev/null/x.png"], ": Not a directory"),
    (["RUN", "-o", "x.jpg"], "-o x.jpg: give the name of a .png file"),
    (["BEGUN", "--x", "hours"], "BEGUN: "),
    (["BEGUN"], "BEGUN: there is nothing to draw in it yet"),
    (["RUN", "EMPTY"], "EMPTY: the file is empty"),
])
def test_it_refuses_in_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    metrics(tmp_path / "RUN", 2)
    (tmp_path / "BEGUN").write_text("Epoch[0] Batch [0-20]\tSpeed: 90.0 samples/sec\taccuracy=0.3\n")
    (tmp_path / "EMPTY").write_text("")
    assert message in refusal(capsys, plot_training, *arguments)
    assert sorted(os.listdir(tmp_path)) == ["BEGUN", "EMPTY", "RUN"]


def test_a_picture_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def savefig(self, path, **_):
        with open(path, "wb") as file:
            file.write(b"\x89PNG")
        raise OSError(28, "No space left on device")
    plot(metrics(tmp_path / "a", 2), "-o", tmp_path / "x.png")
    old = (tmp_path / "x.png").read_bytes()
    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(OSError, match="No space left"):
        plot(metrics(tmp_path / "a", 3), "-o", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == old and sorted(os.listdir(tmp_path)) == ["a", "x.png"]


def test_as_a_command(tmp_path):
    (tmp_path / "x.log").write_text("Epoch[0] Train-accuracy=0.5\n")
    process = subprocess.run([sys.executable, ROOT / "tools" / "plot_training.py", "x.log"], cwd=tmp_path,
                             capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (0, "training.png\n", "")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")

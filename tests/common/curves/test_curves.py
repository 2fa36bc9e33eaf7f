import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.base.errors import InputError
from common.curves.read import read_published, read_run
from common.find_mxnet import mx
from tests.conftest import ROOT

NAN = float("nan")


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def start(epoch, batch=0):
    return {"event": "start", "epoch": epoch, "batch": batch, "time": "2026-11-23T10:00:00"}


def batches(epoch, batch, loss):
    return {"event": "batches", "epoch": epoch, "batch": batch, "batches": 40, "loss": loss, "top-1": 0.25, "lr": 0.045,
            "images_per_s": 240.5, "data_wait": 0.03}


def whole_epoch(epoch, loss, **more):
    return {"event": "epoch", "epoch": epoch, "batches": 40, "loss": loss, "top-1": 0.5, "top-5": 0.75, "lr": 0.045,
            "lr_end": 0.0441, "images_per_s": 250, "seconds": 6.5, **more}


def validation(epoch, top1, **more):
    return {"event": "validation", "epoch": epoch, "top-1": top1, "top-5": 0.875, "images": 364, **more}


def test_metrics_of_a_run(tmp_path):
    run = read_run(write(tmp_path / "x", start(0), batches(0, 20, 2.5), whole_epoch(0, 2.0),
                         validation(0, 0.625, **{"loss": 1.5, "ema-top-1": 0.5, "ema-loss": 9}), batches(1, 20, 1.75)))
    assert {name: column.tolist() for name, column in run.epochs.items()} == {
        "epoch": [0], "train_loss": [2], "train_top1": [0.5], "train_top5": [0.75], "val_loss": [1.5],
        "val_top1": [0.625], "val_top5": [0.875], "ema_top1": [0.5], "lr": [0.045], "images_per_s": [250],
        "seconds": [6.5]}
    np.testing.assert_equal({name: column.tolist() for name, column in run.batches.items()}, {
        "epoch": [0, 1], "batch": [20, 20], "batches": [40, 40], "train_loss": [2.5, 1.75], "train_top1": [0.25] * 2,
        "train_top5": [NAN, NAN], "lr": [0.045] * 2, "images_per_s": [240.5] * 2})


def test_the_top_k_that_is_there(tmp_path):
    run = read_run(write(tmp_path / "x", {"event": "validation", "epoch": 0, "top-1": 0.5, "top-2": 0.75}))
    assert (run.k, run.epochs["val_top5"].tolist(), run.epochs["val_top1"].tolist()) == (2, [0.75], [0.5])
    run = read_run(write(tmp_path / "x", {"event": "epoch", "epoch": 0, "top-10": 0.9, "top-5": 0.75, "top-3": 0.6}))
    assert (run.k, run.epochs["train_top5"].tolist()) == (5, [0.75])


def test_after_a_resume_the_later_values_count(tmp_path):
    killed = [start(0), batches(0, 20, 9.0), batches(0, 40, 8.0), whole_epoch(0, 8.5), validation(0, 0.1),
              batches(1, 20, 7.0), batches(1, 40, 6.0), whole_epoch(1, 6.5), validation(1, 0.2), batches(2, 20, 5.0)]
    run = read_run(write(tmp_path / "x", *killed, start(1, 20), batches(1, 40, 4.0), whole_epoch(1, 4.5)))
    assert run.epochs["train_loss"].tolist() == [8.5, 4.5]
    np.testing.assert_equal(run.epochs["val_top1"], [0.1, NAN])
    assert list(zip(run.batches["epoch"], run.batches["batch"], run.batches["train_loss"])) == [
        (0, 20, 9), (0, 40, 8), (1, 20, 7), (1, 40, 4)]


def test_a_file_cut_anywhere_is_that_of_its_whole_lines(tmp_path):
    entries = [start(0), batches(0, 20, 2.5), whole_epoch(0, 2.0), validation(0, 0.6), batches(1, 20, 1.5)]
    text = write(tmp_path / "x", *entries).read_bytes()
    seen = set()
    for size in range(text.index(b"\n", 80) + 1, len(text) + 1):
        (tmp_path / "x").write_bytes(text[:size])
        whole = text[:size + 1].count(b"\n")  # also one that lacks nothing but its end
        expected = read_run(write(tmp_path / "y", *entries[:whole]))
        run = read_run(tmp_path / "x")
        np.testing.assert_equal((run.epochs, run.batches), (expected.epochs, expected.batches))
        seen.add(whole)
    assert seen == {2, 3, 4, 5}


def test_a_line_that_was_cut_short_before_the_process_went_on(tmp_path):
    lines = [json.dumps(entry) for entry in (start(0), batches(0, 20, 2.5), whole_epoch(0, 2.0))]
    resumed = [json.dumps(entry) for entry in (start(0, 20), whole_epoch(0, 1.0))]
    for cut in ([lines[2][:50]], [lines[2][:50], resumed[0][:9]]):
        (tmp_path / "x").write_text("\n".join([*lines[:2], *cut, *resumed]) + "\n")
        run = read_run(tmp_path / "x")
        assert run.epochs["train_loss"].tolist() == [1] and run.batches["train_loss"].tolist() == [2.5]


@pytest.mark.parametrize("line, message", [
    ("{", "line 2: not JSON"), ("[" * 100_000, "line 2: not JSON"), ("[1]", 'line 2: no "event"'),
    ('{"event": 1}', 'line 2: no "event"'), ('{"event": "epoch"}', 'line 2: "epoch" is missing'),
    ('{"event": "epoch", "epoch": true}', 'line 2: "epoch" is true'),
    ('{"event": "epoch", "epoch": -1}', 'line 2: "epoch" is -1'),
    ('{"event": "epoch", "epoch": 0, "loss": "2.5"}', 'line 2: "loss" is "2.5"'),
    ('{"event": "epoch", "epoch": 0, "loss": NaN}', 'line 2: "loss" is NaN'),
    ('{"event": "validation", "epoch": 0, "top-5": [1]}', r'line 2: "top-5" is \[1\]'),
    ('{"event": "epoch", "epoch": 0, "lr": 1e999}', 'line 2: "lr" is Infinity'),
    ('{"event": "epoch", "epoch": 0, "lr": 1' + "0" * 400 + "}", 'line 2: "lr" is 1000'),
    ('{"event": "batches", "epoch": 0, "batch": 41, "batches": 40}', 'line 2: "batch" 41 of 40'),
    ('{"event": "batches", "epoch": 0, "batch": 0, "batches": 0}', 'line 2: "batch" 0 of 0'),
    ('{"event": "start", "epoch": 1.5, "batch": 0}', 'line 2: "epoch" is 1.5'),
])
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, message):
    (tmp_path / "x").write_text(json.dumps(start(0)) + f"\n{line}\n" + json.dumps(whole_epoch(0, 1.0)) + "\n")
    with pytest.raises(InputError, match=message) as error:
        read_run(tmp_path / "x")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("content, message", [
    (b"", "the file is empty"), (b"\n \n", "the file is empty"), (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a text file"),
    (b"x" * 2 ** 21, "line 1: not a text file"), (b"Hello\n", "about training"), (b'{"event": "st', "about training"),
    ("Epoch[0] Train-accuracy=0.5\n".encode("utf-16"), "not a text file"),
])
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_run(tmp_path / "x")


# logs of MXNet -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def module_log(tmp_path_factory):
    """A log that Module.fit wrote in three epochs of 7 batches of 4, and the rates that it used at the epochs' ends."""
    path, rates = tmp_path_factory.mktemp("log") / "train.log", []
    rng = np.random.RandomState(0)
    images = mx.io.NDArrayIter(rng.rand(28, 6).astype(np.float32), rng.randint(0, 10, 28), batch_size=4)
    module = mx.mod.Module(mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=10),
                                                name="softmax"))
    metric = mx.metric.CompositeEvalMetric([
        mx.metric.Accuracy(), mx.metric.TopKAccuracy(top_k=5), mx.metric.CrossEntropy()])
    handler, root = logging.FileHandler(path), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s:%(name)s:%(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        module.fit(images, eval_data=images, num_epoch=3, eval_metric=metric, validation_metric=metric,
                   optimizer_params={"learning_rate": 0.5,
                                     "lr_scheduler": mx.lr_scheduler.FactorScheduler(7, factor=0.5, base_lr=0.5)},
                   batch_end_callback=mx.callback.Speedometer(4, 2),
                   epoch_end_callback=lambda *_: rates.append(module._optimizer.learning_rate))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
    return path, rates


def test_a_log_of_modules_fit_reads_as_mxnets_parse_log_does(module_log):
    path, rates = module_log
    run = read_run(path)
    tool = Path(mx.__file__).parent / "tools" / "parse_log.py"
    metrics = ("accuracy", "top_k_accuracy_5", "cross-entropy")
    process = subprocess.run([sys.executable, "-W", "ignore", tool, path, "--format", "none",
                              "--metric-names", *metrics], capture_output=True, text=True, check=True)
    rows = [[float(cell) for cell in line.split("\t")] for line in process.stdout.splitlines()[1:]]
    columns = ("epoch", "train_top1", "train_top5", "train_loss", "val_top1", "val_top5", "val_loss", "seconds")
    assert len(rows) == 3
    for row, values in zip(rows, zip(*(run.epochs[column] for column in columns))):
        assert values[:-1] == pytest.approx([row[0] - 1, *row[1:-1]], abs=1e-6)
        assert values[-1] == pytest.approx(row[-1], abs=0.051)
    np.testing.assert_allclose(run.epochs["lr"], [NAN, *rates[1:]], rtol=1e-5)
    assert rates == [0.5, 0.25, 0.125]
    assert run.k == 5 and np.isnan(run.epochs["ema_top1"]).all()


def test_the_groups_of_batches_of_such_a_log(module_log):
    path, _ = module_log
    run = read_run(path)
    assert list(zip(run.batches["epoch"], run.batches["batch"])) == [(e, b) for e in range(3) for b in (2, 4, 6)]
    speeds = [float(speed) for speed in re.findall(r"Speed: ([\d.]+)", path.read_text())]
    assert run.batches["images_per_s"].tolist() == speeds
    np.testing.assert_allclose(run.epochs["images_per_s"], [3 / np.sum(1 / np.array(speeds[i:i + 3]))
                                                            for i in (0, 3, 6)])
    assert np.isfinite(run.batches["train_loss"]).all()


OLD = """{0}start with arguments Namespace(batch_size=160, lr=0.045)
[12:00:00] src/io/iter_image_recordio_2.cc:170: ImageRecordIOParser2: data/train.rec, use 4 threads for decoding..
{0}Epoch[0] Batch [20]\tSpeed: 100.00 samples/sec\tTrain-accuracy=0.125000
{0}Epoch[0] Batch [20]\tSpeed: 100.00 samples/sec\tTrain-top_k_accuracy_5=0.250000
{0}Epoch[0] Batch [20]\tSpeed: 100.00 samples/sec\tTrain-cross-entropy=6.500000
{0}Epoch[0] Batch [40]\tSpeed: 300.00 samples/sec\tTrain-accuracy=0.250000
{0}Epoch[0] Resetting Data Iterator
{0}Epoch[0] Train-accuracy=0.375000
{0}Epoch[0] Train-top_k_accuracy_5=0.500000
{0}Epoch[0] Train-cross-entropy=nan
{0}Epoch[0] Time cost=12.500
{0}Saved checkpoint to "model/x-0001.params"
{0}Epoch[0] Validation-accuracy=0.437500
{0}Epoch[0] Validation-top_k_accuracy_5=0.625000
{0}Update[45]: Change learning rate to 4.41000e-02
{0}Epoch[1] Batch [20]\tSpeed: inf samples/sec\taccuracy=0.500000
{0}Epoch[1] Train-accuracy=0.562500
{0}Update[89]: now learning rate arrived at 1.00000e-08, will not change in the future
{0}Epoch[2] Train-accuracy=0.750000
"""


@pytest.mark.parametrize("prefix", ["", "INFO:root:", "2017-07-01 12:00:00,123 ", "[12:00:00] ", "12:00:00 ",
                                    "2017-07-01 12:00:00,123 Node[0] ", "epoch 0:  44%|####4     | 20/45 [00:01]\r"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_older_form_of_logs(tmp_path, prefix, end):
    (tmp_path / "x.log").write_bytes(OLD.format(prefix).replace("\n", end).encode())
    run = read_run(tmp_path / "x.log")
    np.testing.assert_equal(run.epochs, {
        "epoch": [0, 1, 2], "train_loss": [NAN] * 3, "train_top1": [0.375, 0.5625, 0.75],
        "train_top5": [0.5, NAN, NAN], "val_loss": [NAN] * 3, "val_top1": [0.4375, NAN, NAN],
        "val_top5": [0.625, NAN, NAN], "ema_top1": [NAN] * 3, "lr": [NAN, 0.0441, 1e-8],
        "images_per_s": [150, NAN, NAN], "seconds": [12.5, NAN, NAN]})
    np.testing.assert_equal(run.batches, {
        "epoch": [0, 0, 1], "batch": [20, 40, 20], "batches": [NAN] * 3, "train_loss": [6.5, NAN, NAN],
        "train_top1": [0.125, 0.25, 0.5], "train_top5": [0.25, NAN, NAN], "lr": [NAN, NAN, 0.0441],
        "images_per_s": [100, 300, NAN]})


def log(path, *lines):
    path.write_text("".join(f"INFO:root:{line}\n" for line in lines))
    return read_run(path)


def test_a_log_that_starts_again_forgets_what_it_repeats(tmp_path):
    first = [f"Epoch[{epoch}] Train-accuracy=0.{epoch + 1}" for epoch in range(4)]
    run = log(tmp_path / "x", "start with arguments Namespace()", *first,
              "start with arguments Namespace()", "Epoch[2] Train-accuracy=0.9")
    assert run.epochs["train_top1"].tolist() == [0.1, 0.2, 0.9]
    assert log(tmp_path / "x", *first, "Epoch[2] Train-accuracy=0.9").epochs["train_top1"].tolist() == [
        0.1, 0.2, 0.9, 0.4]
    again = log(tmp_path / "x", *GLUON_CV.splitlines(), *GLUON_CV.splitlines()[:3])
    assert (again.epochs["epoch"].tolist(), again.batches["batch"].tolist()) == ([], [49, 99])


def test_a_rate_that_was_not_logged_is_not_known(tmp_path):
    epochs = [f"Epoch[{epoch}] Train-accuracy=0.5" for epoch in range(6)]
    run = log(tmp_path / "x", epochs[0], "Update[11]: Change learning rate to 1.00000e-01", epochs[1],
              "Update[21]: Change learning rate to 1.00000e-02", epochs[2], epochs[3],  # one of these by a new process
              "Update[11]: Change learning rate to 5.00000e-02", epochs[4])
    np.testing.assert_equal(run.epochs["lr"], [NAN, 0.1, NAN, NAN, 0.05])
    run = log(tmp_path / "x", "Adjust learning rate to 4.500000e-02 for epoch 4", epochs[4],
              "start with arguments Namespace(lr=0.05)", epochs[5])
    np.testing.assert_equal(run.epochs["lr"], [0.045, NAN])
    run = log(tmp_path / "x", "Update[21]: Change learning rate to 1.00000e-02", epochs[2],
              "start with arguments Namespace(lr=0.05)", epochs[3], "Update[11]: Change learning rate to 5.00000e-02")
    np.testing.assert_equal(run.epochs["lr"], [0.01, NAN])


def test_a_log_with_rates_in_its_lines_and_averaged_weights(tmp_path):
    run = log(tmp_path / "x", "Epoch[0] Batch [0-20]\tSpeed: 100.00 samples/sec\taccuracy=0.25\tlr=0.045\tdata-wait=3%",
              "Epoch[0] Train-accuracy=0.5", "Epoch[0] Learning-rate=0.0441", "Epoch[0] Validation-ema-accuracy=0.75")
    assert (run.epochs["lr"].tolist(), run.batches["lr"].tolist()) == ([0.045], [0.045])
    assert run.epochs["ema_top1"].tolist() == [0.75] and np.isnan(run.epochs["val_top1"]).all()
    run = log(tmp_path / "x", "Epoch[0] Train-accuracy=0.5", "Epoch[0] Learning-rate=0.0441")
    assert run.epochs["lr"].tolist() == [0.0441]


GLUON_CV = """Namespace(batch_size=128, data_dir='~/.mxnet/datasets/imagenet', lr=0.4, num_epochs=2)
Epoch[0] Batch [49]\tSpeed: 331.600000 samples/sec\taccuracy=0.125000\tlr=0.002600
Epoch[0] Batch [99]\tSpeed: 995.100000 samples/sec\taccuracy=0.250000\tlr=0.005200
[Epoch 0] training: accuracy=0.375000
[Epoch 0] speed: 1226 samples/sec\ttime cost: 1044.890219
[Epoch 0] validation: err-top1=0.750000 err-top5=0.375000
Epoch[1] Batch [49]\tSpeed: 331.600000 samples/sec\trmse=0.031250\tlr=0.007800
[Epoch 1] training: rmse=0.030000
[Epoch 1] speed: 1230 samples/sec\ttime cost: 1000.000000
[Epoch 1] validation: err-top1=0.500000 err-top5=nan
"""
OLDER_GLUON_CV = """Epoch[0] Batch [49]\tSpeed: 331.600000 samples/sec\ttop1-err=0.875000\ttop5-err=0.750000
[Epoch 0] training: err-top1=0.625000 err-top5=0.500000 loss=6.500000
[Epoch 0] time cost: 12.500000
[Epoch 0] validation: err-top1=0.750000 err-top5=0.375000
"""
GLUON = """Starting new image-classification task:, Namespace(batch_norm=False, batch_size=32, lr=0.1)
Epoch[0] Batch [49]\tSpeed: 331.600000 samples/sec\taccuracy=0.125000, top_k_accuracy_5=0.250000
[Epoch 0] training: accuracy=0.375000, top_k_accuracy_5=0.500000
[Epoch 0] time cost: 12.500000
[Epoch 0] validation: accuracy=0.250000, top_k_accuracy_5=0.625000
[Epoch 0] Saving checkpoint to resnet50_v1_best.params with Accuracy: 0.2500
"""


@pytest.mark.parametrize("text, epochs, batches", [
    (GLUON_CV, {"train_top1": [0.375, NAN], "val_top1": [0.25, 0.5], "val_top5": [0.625, NAN], "lr": [0.0052, 0.0078],
                "images_per_s": [1226, 1230], "seconds": [1044.890219, 1000]},
     {"batch": [49, 99, 49], "train_top1": [0.125, 0.25, NAN], "lr": [0.0026, 0.0052, 0.0078],
      "images_per_s": [331.6, 995.1, 331.6]}),
    (OLDER_GLUON_CV, {"train_top1": [0.375], "train_top5": [0.5], "train_loss": [6.5], "val_top1": [0.25],
                      "val_top5": [0.625], "images_per_s": [331.6], "seconds": [12.5]},
     {"batch": [49], "train_top1": [0.125], "train_top5": [0.25], "images_per_s": [331.6]}),
    (GLUON, {"train_top1": [0.375], "train_top5": [0.5], "val_top1": [0.25], "val_top5": [0.625],
             "images_per_s": [331.6], "seconds": [12.5]},
     {"batch": [49], "train_top1": [0.125], "train_top5": [0.25], "images_per_s": [331.6]}),
], ids=["GluonCV", "older GluonCV", "MXNet"])
@pytest.mark.parametrize("prefix", ["", "INFO:root:", "2019-02-04 12:00:00,123 INFO "])
def test_the_logs_of_gluons_scripts(tmp_path, text, epochs, batches, prefix):
    """As scripts/classification/imagenet/train_imagenet.py of GluonCV writes them, and
    example/gluon/image_classification.py of MXNet."""
    run = log(tmp_path / "x", *(prefix + line for line in text.splitlines()))
    for columns, expected in ((run.epochs, epochs), (run.batches, batches)):
        expected = {"epoch": columns["epoch"], **expected}
        np.testing.assert_equal(columns, {name: expected.get(name, [NAN] * len(values))
                                          for name, values in columns.items()})
    assert run.epochs["epoch"].tolist() == list(range(len(epochs["train_top1"])))


def test_of_several_workers_one_is_drawn(tmp_path):
    """fit.py says which of them speaks; here the second one begins, and goes further."""
    lines = [f"Node[{node}] {line}" for line in OLD.format("").splitlines() for node in (1, 0)]
    run = log(tmp_path / "x", *[line.replace("=0.", "=0.9") if "Node[1]" in line else line for line in lines],
              "Node[1] Epoch[3] Train-accuracy=0.9", "Node[12] Epoch[3] Train-accuracy=0.9")
    alone = log(tmp_path / "y", *[line for line in lines if "Node[0]" in line])
    np.testing.assert_equal((run.epochs, run.batches), (alone.epochs, alone.batches))
    assert run.note == "the curve is that of Node[0]; Node[1], Node[12] left out" and not alone.note


def test_damaged_files_are_read_or_refused(tmp_path):
    entries = write(tmp_path / "x", start(0), batches(0, 20, 2.5), whole_epoch(0, 2.0), validation(0, 0.6)).read_bytes()
    rng = np.random.RandomState(0)
    outcomes = set()
    for content in (entries, OLD.encode(), GLUON_CV.encode()):
        for _ in range(300):
            damaged = bytearray(content)
            for place in rng.randint(0, len(content), 3):
                damaged[place] = rng.choice(list(b'0e[]{}":,.-\n\xffEn'))
            (tmp_path / "x").write_bytes(damaged)
            try:
                run = read_run(tmp_path / "x")
            except InputError as error:
                assert "\n" not in str(error)
                outcomes.add("refused")
            else:
                assert not any(np.isinf(column).any() for column in (*run.epochs.values(), *run.batches.values()))
                outcomes.add("read")
    assert outcomes == {"read", "refused"}


# published curves ----------------------------------------------------------------------------------------------------

PUBLISHED = ROOT / "data" / "published"


@pytest.mark.parametrize("name, first, last", [("1_0", 0, 234), ("1_4", 86, 267)])
def test_published_curves(name, first, last):
    run = read_published(PUBLISHED / f"published-training-curve-{name}.csv")
    assert run.epochs["epoch"].tolist() == list(range(first, last + 1)) and run.k == 5
    for column in ("train_top1", "train_top5", "val_top1", "val_top5", "lr", "seconds"):
        assert np.isfinite(run.epochs[column]).all(), column
    assert (run.epochs["val_top5"] > run.epochs["val_top1"]).all()
    assert np.isnan(run.epochs["train_loss"]).all() and not len(run.batches["epoch"])


def test_the_published_rate_is_that_after_the_epochs_decay():
    lr = read_published(PUBLISHED / "published-training-curve-1_0.csv").epochs["lr"]
    stages = ((0, 86, 0.045, 0.98), (86, 187, 0.008, 0.98), (187, 218, 0.001, 0.98), (218, 235, 0.0005, 0.95))
    expected = [rate * factor ** (epoch - begin + 1)
                for begin, end, rate, factor in stages for epoch in range(begin, end)]
    np.testing.assert_allclose(lr, expected, rtol=1e-5)


@pytest.mark.parametrize("text, message", [
    ("", "no epoch"), ("epoch,val_top1\n", "no epoch"), ("a,b\n0,1\n", "not a published curve"),
    ("epoch,x\n0,1\n", "not a published curve"), ("epoch,val_top1\n0\n", "line 2: 1 cells"),
    ("epoch,val_top1\n0,0.5\n0.5,0.5\n", "line 3: epoch '0.5'"),
    ("epoch,val_top1\n0,high\n", "line 2: val_top1 'high'"),
    ("epoch,val_top1\n0,nan\n", "line 2: val_top1 'nan'"), ("epoch,val_top1\n0,1e999\n", "line 2: val_top1 '1e999'"),
])
def test_other_tables_are_refused(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_published(tmp_path / "x.csv")

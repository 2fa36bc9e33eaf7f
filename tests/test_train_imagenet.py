"""train_imagenet.py as a user runs it, but for resuming and several workers."""
import json
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import eval_imagenet
import train_imagenet
from common.base.errors import InputError
from common.checkpoint.params import load_params
from common.find_mxnet import mx
from common.images.recordio import image_record
from common.training.options import NETWORKS
from tests.images import images

pytestmark = pytest.mark.usefixtures("logged_to_stderr")


def train(packed, prefix, *arguments):
    train_imagenet.main([
        "--data-train", f"{packed}.rec", "--num-classes", "2", "--multiplier", "0.1", "--batch-size", "20",
        "--num-epochs", "2", "--lr", "0.01", "--disp-batches", "2", "--model-prefix", str(prefix), "--top-k", "0",
        "--image-shape", "3,48,48", *arguments])


def events(prefix, kind):
    with open(f"{prefix}-metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.parametrize("network", NETWORKS)
def test_training_logs_and_saves(network, packed, tmp_path, capfd):
    train(packed, tmp_path / "x", "--data-val", f"{packed}.rec", "--network", network, "--top-k", "5")
    assert sorted(os.listdir(tmp_path)) == [
        "x-0001.json", "x-0001.optimizer", "x-0001.params", "x-0002.json", "x-0002.optimizer", "x-0002.params",
        "x-best-0000.params", "x-best-preprocess.json", "x-best-symbol.json", "x-best-synset.txt", "x-metrics.jsonl",
        "x-preprocess.json", "x-symbol.json", "x-synset.txt"]
    assert (tmp_path / "x-synset.txt").read_text() == "n0001\nn0002\n"  # that of the records
    names = set(load_params(tmp_path / "x-0002.params"))
    assert {"arg:fc_weight", "arg:seq-6-block0-linear-conv2d_weight",
            "aux:last-1x1-conv-batchnorm_moving_var"} <= names and len(names) == 267
    log = capfd.readouterr().err
    for pattern in (r"Epoch\[0\] Batch \[0-2\]\tSpeed: \d+\.\d\d samples/sec\taccuracy=[01]\.\d{6}\ttop_k_accuracy_2=1",
                    r"Epoch\[1\] Train-accuracy=[01]\.\d{6}", r"Epoch\[1\] Time cost=\d+\.\d{3}",
                    r"Epoch\[1\] Validation-accuracy=[01]\.\d{6}", r"Epoch\[1\] Validation-images=103",
                    r"Network: \w+, 2 classes, [\d,]+ parameters, 0\.\d M multiply-adds an image of 3x48x48",
                    r"With multiplier 0.1",
                    r"epochs +batch +batches +learning rate +images +augmentation and more\n"
                    r".*0-1 +20 +6 +0\.01 x 0\.98 every epoch +shorter side 55-103, crop 48 ",
                    r"Estimated: 00:0\d to train, at the \d+ images/s of the first 2 batches"):
        assert re.search(pattern, log), pattern
    first, second = events(tmp_path / "x", "epoch")
    assert first["epoch"] == 0 and first["lr"] == 0.01 and first["lr_end"] == pytest.approx(0.0098)
    assert second["lr"] == pytest.approx(0.0098) and 0 < second["loss"] < 10 and 0 <= second["data_wait"] <= 1
    assert [event["images"] for event in events(tmp_path / "x", "validation")] == [103, 103]
    assert len(events(tmp_path / "x", "batches")) == 6 and len(events(tmp_path / "x", "start")) == 1


def test_both_definitions_train_to_the_same_weights(packed, tmp_path):
    for network in NETWORKS:
        train(packed, tmp_path / network, "--network", network, "--num-epochs", "1")
    symbol, gluon = (load_params(tmp_path / f"{network}-0001.params") for network in NETWORKS)
    assert symbol.keys() == gluon.keys()
    for name in symbol:
        np.testing.assert_allclose(symbol[name], gluon[name], atol=1e-5, rtol=1e-5, err_msg=name)


def test_training_starts_from_the_weights_of_a_checkpoint(packed, tmp_path):
    train(packed, tmp_path / "x", "--num-epochs", "1")
    for name in ("x-0001.json", "x-0001.optimizer"):
        (tmp_path / name).unlink()  # as another program would have left it
    train(packed, tmp_path / "x", "--load-epoch", "1", "--lr", "0")
    first, second = (load_params(tmp_path / f"x-000{epoch}.params") for epoch in (1, 2))
    assert (first["arg:fc_weight"] == second["arg:fc_weight"]).all()  # a rate of 0 changes no weight
    assert (first["aux:first-3x3-conv-batchnorm_moving_mean"]
            != second["aux:first-3x3-conv-batchnorm_moving_mean"]).any()


def test_fine_tuning_starts_from_weights_for_other_classes(packed, checkpoint, tmp_path):
    """Of the last layers alone: the others, their BatchNorm statistics too, stay as they were."""
    train(packed, tmp_path / "x", "--multiplier", "0.35", "--pretrained-model", f"{checkpoint}-0000.params",
          "--train-from", "last-1x1-conv", "--head-lr-mult", "10", "--num-epochs", "1")
    before, after = load_params(f"{checkpoint}-0000.params"), load_params(tmp_path / "x-0001.params")
    assert after["arg:fc_weight"].shape == (2, 1280) and before["arg:fc_weight"].shape == (10, 1280)
    for name in before:
        if not name.startswith("arg:fc_"):
            assert (before[name] != after[name]).any() == ("last-1x1-conv" in name), name
    assert "use_global_stats" not in (tmp_path / "x-symbol.json").read_text()


def test_fine_tuning_does_not_write_over_what_it_starts_from(packed, checkpoint, tmp_path):
    for end in ("0000.params", "0001-b00003.params", "ema-0002.params"):
        (tmp_path / f"small-{end}").write_bytes((checkpoint.parent / "small-0000.params").read_bytes())
        (tmp_path / "small-symbol.json").write_bytes((checkpoint.parent / "small-symbol.json").read_bytes())
        with pytest.raises(InputError, match=f"small-{end}: is read here, and would be overwritten"):
            train(packed, tmp_path / "small", "--multiplier", "0.35", "--pretrained-model", f"{tmp_path}/small-{end}")
        assert sorted(os.listdir(tmp_path)) == [f"small-{end}", "small-symbol.json"]
        (tmp_path / f"small-{end}").unlink()
    assert (tmp_path / "small-symbol.json").read_bytes() == (checkpoint.parent / "small-symbol.json").read_bytes()


@pytest.mark.parametrize("flags, changed", [
    ((), 53), (("--train-from", "last-1x1-conv"), 1), (("--train-from", "fc"), 0)])
def test_of_folded_weights_the_layers_that_are_trained_get_statistics(packed, checkpoint, tmp_path, flags, changed,
                                                                      capfd):
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(checkpoint), 0)
    aux_params = {name: array.zeros_like() if name.endswith("mean") else array.ones_like()
                  for name, array in aux_params.items()}
    mx.model.save_checkpoint(f"{tmp_path}/folded", 0, symbol, arg_params, aux_params)
    train(packed, tmp_path / "x", "--multiplier", "0.35", "--pretrained-model", f"{tmp_path}/folded-0000.params",
          "--num-epochs", "1", *flags)
    after = load_params(tmp_path / "x-0001.params")
    assert changed == sum((after[f"aux:{name}"] != array.asnumpy()).any()
                          for name, array in aux_params.items() if name.endswith("mean"))
    assert (f"folded-0000.params: BatchNorm is folded into the convolutions of {changed} layer"
            in capfd.readouterr().err) == bool(changed)


def test_weights_of_this_prefix_are_gone_on_from_as_they_are(packed, checkpoint, tmp_path):
    """--load-epoch: those of another network than the flags' stay what they are."""
    command = ["--num-classes", "2", "--multiplier", "0.1", "--strides", "first", "--num-epochs"]
    train(packed, tmp_path / "x", *command, "1")
    before = (tmp_path / "x-symbol.json").read_bytes()
    with pytest.raises(InputError, match="--strides published: .*x-0001.params is of a network with --strides first"):
        train(packed, tmp_path / "x", "--load-epoch", "1", "--strides", "published")
    train_imagenet.main(["--data-train", f"{packed}.rec", "--batch-size", "20", "--model-prefix", f"{tmp_path}/x",
                         "--load-epoch", "1", "--num-epochs", "2", "--top-k", "0"])
    assert (tmp_path / "x-symbol.json").read_bytes() == before


def test_what_the_description_of_the_records_says_is_taken(packed, tmp_path, capfd):
    """The number of classes; a number of examples that was copied from another command only counts for the rates."""
    train_imagenet.main(["--data-train", f"{packed}.rec", "--multiplier", "0.1", "--batch-size", "20", "--num-epochs",
                         "1", "--model-prefix", f"{tmp_path}/x", "--image-shape", "3,32,32", "--num-examples",
                         "1281167"])
    log = capfd.readouterr().err
    assert load_params(tmp_path / "x-0001.params")["arg:fc_weight"].shape[0] == 2
    assert "takes 1281167 images for an epoch (--num-examples), which trains on all 103" in log
    assert events(tmp_path / "x", "epoch")[0]["batches"] == 6 and "Learning-rate=0.045\n" in log
    train(packed, tmp_path / "y", "--num-classes", "3", "--num-epochs", "1")
    assert "lists 2 classes, the network has 3" in capfd.readouterr().err
    assert not (tmp_path / "y-synset.txt").exists()


def test_the_average_is_evaluated_and_saved_beside_the_weights(packed, tmp_path, capfd):
    train(packed, tmp_path / "x", "--data-val", f"{packed}.rec", "--ema", "0.9", "--keep", "1")
    assert {"x-ema-0002.params", "x-ema-symbol.json", "x-0002.params"} <= set(os.listdir(tmp_path))
    weights, average = (load_params(tmp_path / f"x-{name}0002.params") for name in ("", "ema-"))
    assert weights.keys() == average.keys()
    assert all((weights[name] != average[name]).any() for name in weights)
    assert "Epoch[1] Validation-ema-accuracy=" in capfd.readouterr().err
    assert set(events(tmp_path / "x", "validation")[0]) == {
        "event", "epoch", "images", "loss", "top-1", "ema-loss", "ema-top-1"}


def test_the_last_checkpoints_and_the_best_are_kept(packed, tmp_path):
    train(packed, tmp_path / "x", "--data-val", f"{packed}.rec", "--keep", "2", "--num-epochs", "6", "--lr", "0")
    info = json.loads((tmp_path / "x-0006.json").read_text())
    top_1 = [event["top-1"] for event in events(tmp_path / "x", "validation")]
    best = 1 + int(np.argmax(top_1))
    assert info["best"] == {"epoch": best, "top-1": max(top_1), "average": False}
    kept = sorted({best, 5, 6})
    assert sorted(name for name in os.listdir(tmp_path) if name.endswith(".params")) == [
        *(f"x-000{epoch}.params" for epoch in kept), "x-best-0000.params"]
    assert (tmp_path / "x-best-0000.params").read_bytes() == (tmp_path / f"x-000{best}.params").read_bytes()


def test_the_best_is_a_checkpoint_of_its_own(packed, tmp_path, capfd):
    """What the last lines say of it is so; weights can be started from it, and a run without one leaves none."""
    import eval_imagenet
    val = ["--data-val", f"{packed}.rec"]
    train(packed, tmp_path / "x", *val, "--ema", "0.8", "--lr", "0.1", "--num-epochs", "3")
    best, then = capfd.readouterr().err.splitlines()[-2:]
    scores = {(event["epoch"] + 1, average): event[f"{average}top-1"] for event in events(tmp_path / "x", "validation")
              for average in ("", "ema-")}
    (epoch, average), top_1 = max(scores.items(), key=lambda item: item[1])
    whose = " of the moving average" * bool(average)
    assert f"Best: validation top-1 {top_1:.4f}{whose} after epoch {epoch}, kept as {tmp_path}/x-best-0000" in best
    assert then.endswith(f"--model-prefix {tmp_path}/x-best --epoch 0")
    eval_imagenet.main(["--model-prefix", f"{tmp_path}/x-best", "--epoch", "0", *val])
    assert capfd.readouterr().out.startswith(f"top-1 {top_1:.4f} ")

    with pytest.raises(InputError, match="x-best-0000.params: is read here"):
        train(packed, tmp_path / "x", "--pretrained-model", f"{tmp_path}/x-best", "--overwrite", "1")
    train(packed, tmp_path / "y", "--pretrained-model", f"{tmp_path}/x-best", "--lr", "0", "--num-epochs", "1")
    one, other = (load_params(tmp_path / name) for name in ("x-best-0000.params", "y-0001.params"))
    assert all((one[name] == other[name]).all() for name in one if name.startswith("arg:"))
    assert "Next: python eval_imagenet.py --model-prefix" in capfd.readouterr().err.splitlines()[-1]
    train(packed, tmp_path / "x", "--overwrite", "1", "--num-epochs", "1")
    assert not list(tmp_path.glob("x-best*"))


def test_the_best_of_another_run_is_not_written_over(packed, trained, tmp_path):
    copied(trained, tmp_path, "0002.params", "symbol.json")
    for end in ("0002.params", "symbol.json"):
        (tmp_path / f"x-{end}").rename(tmp_path / f"x-best-{end.replace('2', '0')}")
    for arguments in ([], ["--resume"]):
        with pytest.raises(InputError, match="x-best-0000.params is there, of a run whose checkpoints are not; give "):
            train(packed, tmp_path / "x", *arguments)
    shutil.copy(f"{trained}-0002.json", tmp_path / "x-best-0002.json")
    with pytest.raises(InputError, match="x-best is the prefix of another run"):
        train(packed, tmp_path / "x", "--overwrite", "1")
    assert sorted(os.listdir(tmp_path)) == ["x-best-0000.params", "x-best-0002.json", "x-best-symbol.json"]


def test_validation_and_the_checkpoint_have_the_size_of_the_last_stage(packed, tmp_path, capfd):
    """From the first stage on: eval_imagenet.py finds the accuracies that training said."""
    recipe = tmp_path / "progressive.toml"
    recipe.write_text("multiplier = 0.1\nnum-classes = 2\nlr = 0.01\n[[stage]]\nepochs = 1\nimage-shape = [3, 32, 32]\n"
                      "auto-augment = 'ra'\nra-magnitude = 5\n"
                      "[[stage]]\nepochs = 1\nimage-shape = [3, 64, 64]\nrandom-erase = 0.25\n")
    train_imagenet.main(["--recipe", str(recipe), "--data-train", f"{packed}.rec", "--data-val", f"{packed}.rec",
                         "--batch-size", "20", "--top-k", "0", "--model-prefix", str(tmp_path / "x")])
    log = capfd.readouterr().err
    assert "an image of 3x64x64" in log
    assert re.search("crop 32 .*, auto-augment ra, ra-magnitude 5, ra-num-ops 2\n.*crop 64 .*, random-erase 0.25", log)
    assert json.loads((tmp_path / "x-preprocess.json").read_text())["crop"] == 64
    for epoch, event in enumerate(events(tmp_path / "x", "validation"), 1):
        eval_imagenet.main(["--model-prefix", f"{tmp_path}/x", "--epoch", str(epoch), "--data-val", f"{packed}.rec"])
        assert capfd.readouterr().out.startswith(f"top-1 {event['top-1']:.4f} ")


def test_mixup_and_label_smoothing_train(packed, tmp_path):
    train(packed, tmp_path / "x", "--mixup", "0.2", "--label-smoothing", "0.1", "--optimizer", "nag", "--no-wd", "1")
    assert np.isfinite(load_params(tmp_path / "x-0002.params")["arg:fc_weight"]).all()


def test_tensorboard_gets_events(packed, tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  that its format is the one read below
    train(packed, tmp_path / "x", "--data-val", f"{packed}.rec", "--tensorboard", str(tmp_path / "events"))
    file, = (tmp_path / "events").iterdir()
    content, tags = file.read_bytes(), set()
    while content:  # a TFRecord: length, its checksum, data, its checksum
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12:12 + length])
        tags |= {(value.tag, event.step) for value in event.summary.value}
        content = content[16 + length:]
    assert {("train/loss", 6), ("train/top-1", 12), ("validation/top-1", 12), ("batch/lr", 4)} <= tags


def test_a_loss_that_is_not_finite_ends_training(packed, tmp_path):
    train(packed, tmp_path / "x", "--num-epochs", "1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if "0001" in path.name}
    with pytest.raises(InputError, match=r"^epoch 1, batch \d, learning rate 1e\+20: the (loss|weights).*; .*x-0001 is "
                       "the last checkpoint"):
        train(packed, tmp_path / "x", "--lr", "1e20", "--lr-factor", "1", "--resume")
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if "0001" in path.name}
    assert not list(tmp_path.glob("x-0002*"))


def write_records(path, labels, **damaged):
    """Images with these labels; `damaged`: {"x7": what is in the place of image 7}."""
    image = images()["usual.jpg"][0]
    path.write_bytes(b"".join(image_record(label, number, damaged.get(f"x{number}", image))
                              for number, label in enumerate(labels)))
    return str(path)


def test_validation_begins_with_a_look_at_labels_and_headers(packed, tmp_path):
    """Not after an epoch."""
    labels = write_records(tmp_path / "labels.rec", range(1, 11))
    size = write_records(tmp_path / "size.rec", [0] * 9, x7=images()["claims-most-usual.jpg"][0])
    for arguments, message in (
            ([labels, "--num-classes", "10"], "labels.rec: record 9 has label 10, but .* classes are 0 to 9"),
            ([size], "size.rec: record 7: 65500x65500 pixels, more than")):
        with pytest.raises(InputError, match=message):
            train(packed, tmp_path / "x", "--data-val", *arguments)
    assert not list(tmp_path.glob("x*"))


def test_damaged_validation_images(packed, tmp_path, capfd):
    """An error after the epoch, which is saved, or before it; or left out and told."""
    rec = write_records(tmp_path / "val.rec", [0, 1] * 5, x3=images()["half.jpg"][0], x7=images()["half.png"][0])
    with pytest.raises(InputError, match="val.rec: record 3: damaged or truncated image"):
        train(packed, tmp_path / "x", "--data-val", rec, "--check-data", "1")
    assert not list(tmp_path.glob("x*"))
    with pytest.raises(InputError, match="val.rec: record 3: damaged or truncated image"):
        train(packed, tmp_path / "x", "--data-val", rec)
    assert (tmp_path / "x-0001.json").exists()
    train(packed, tmp_path / "y", "--data-val", rec, "--check-data", "1", "--skip-damaged", "--ema", "0.9")
    log = capfd.readouterr().err
    assert log.count("Validation-skipped=2\n") == 2 == log.count("Validation-images=8\n")


@pytest.mark.parametrize(("labels", "damaged", "message"), [
    ([0, 1] * 20 + [2], {}, "x.rec: record 40 has label 2"),
    ([0, 1] * 20, {"x9": "claims-most-usual.jpg"}, "x.rec: record 9: 65500x65500 pixels, more than"),
])
def test_what_mxnet_would_end_the_process_on_is_looked_for_first(packed, tmp_path, labels, damaged, message):
    rec = write_records(tmp_path / "x.rec", labels, **{at: images()[name][0] for at, name in damaged.items()})
    with pytest.raises(InputError, match=message):
        train(packed, tmp_path / "x", "--data-train", rec, "--num-examples", "40", "--data-backend", "mxnet")
    assert not list(tmp_path.glob("x-*"))


@pytest.mark.parametrize(("slip", "message"), [
    ("max-random-aspect-ratio = 1.5", "the aspect ratios go from -0.5 to 2.5"),
    ("batch-size = 21", "--batch-size 21 does not divide by the 2 devices"),
])
def test_slips_of_a_later_stage_are_told_before_the_first(packed, tmp_path, monkeypatch, slip, message):
    monkeypatch.setattr("common.training.setup.contexts", lambda gpus: [mx.cpu(0), mx.cpu(1)])
    (tmp_path / "x.toml").write_text(f"[[stage]]\nepochs = 1\n[[stage]]\nepochs = 1\n{slip}\n")
    with pytest.raises(InputError, match=re.escape(message)):
        train_imagenet.main(["--recipe", f"{tmp_path}/x.toml", "--data-train", f"{packed}.rec", "--num-classes", "2",
                             "--multiplier", "0.1", "--image-shape", "3,48,48", "--model-prefix", f"{tmp_path}/x"]
                            + ["--batch-size", "20"] * slip.startswith("max"))
    assert os.listdir(tmp_path) == ["x.toml"]


def test_training_refuses_what_it_cannot_use(packed, checkpoint, tmp_path):
    (tmp_path / "plain-0004.params").write_bytes((checkpoint.parent / "small-0000.params").read_bytes())
    before = sorted(os.listdir(tmp_path))
    for arguments, message in [
        (["--num-classes", "1"], "label 1, but the network's classes are 0 to 0"),
        (["--gpus", "7"], "--gpus 7: MXNet sees"),
        (["--gpus", "a"], "--gpus a"),
        (["--multiplier", "3"], "from 0.1 to 2.0"),
        (["--load-epoch", "5", "--num-epochs", "9"], "x-0005.params: No such file"),
        (["--model-prefix", f"{tmp_path}/plain", "--load-epoch", "4", "--multiplier", "0.35"],
         "--num-epochs 2: 4 epochs are completed already"),
        (["--batch-size", "104"], "--batch-size 104 is more than the 103 training images; give 103 at most"),
        (["--model-prefix", str(checkpoint), "--load-epoch", "0"], "--multiplier 0.1: "),
        (["--model-prefix", str(checkpoint), "--load-epoch", "0", "--multiplier", "0.35"], "has shape"),
        (["--pretrained-model", f"{checkpoint}-0000.params"], "--multiplier 0.1: "),
        (["--pretrained-model", f"{tmp_path}/nothing"], "nothing: No such file"),
        (["--train-from", "fd"], "--train-from fd: the network has no such layer"),
        (["--model-prefix", f"{tmp_path}/"], "beginning of the files' names"),
        (["--model-prefix", "."], "beginning of the files' names"),
        (["--model-prefix", f"{tmp_path}/{'x' * 240}"], "the name is too long"),
        (["--pretrained-model", "\0"], "null byte"),
        (["--model-prefix", "/dev/null/x"], "--model-prefix /dev/null/x"),
        (["--model-prefix", f"{tmp_path}/plain", "--resume"], "plain-0004.params holds weights alone"),
        (["--optimizer", "newton"], "--optimizer newton: MXNet has none of this name; give one of adadelta, "),
        (["--optimizer", "dcasgd"], "; give --mom 0, or one of "),
        (["--kv-store", "dist_sync"], "--kv-store dist_sync: start"),
        (["--gc-type", "2bit"], "--gc-type 2bit"),
        (["--dtype", "float16"], "--dtype float16"),
        (["--tensorboard", "/dev/null/x"], "--tensorboard /dev/null/x"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            train(packed, tmp_path / "x", *arguments)
        assert "\n" not in str(error.value)
    assert {*os.listdir(tmp_path)} - {"x-metrics.jsonl"} == {*before}
    for arguments, message in ((["--resume"], "--resume needs --model-prefix"),
                               (["--load-epoch", "1"], "--load-epoch needs --model-prefix")):
        with pytest.raises(InputError, match=message):
            train_imagenet.main(["--data-train", f"{packed}.rec", *arguments])


def test_what_may_surprise_is_warned_of(packed, tmp_path, capfd):
    """Images that are not square, state that is not all saved, another preprocessing, weights that are not used."""
    prefix = tmp_path / "x"

    def warned(*arguments):
        train(packed, prefix, "--optimizer", "nadam", "--batch-size", "103", "--num-epochs", "1", *arguments)
        return capfd.readouterr().err

    assert "--image-shape 3,48,64 is not square" in warned("--image-shape", "3,48,64")
    log = warned("--image-shape", "3,48,64", "--resume", "--num-epochs", "2", "--rgb-mean", "1,2,3")
    assert "--optimizer nadam has state that is not saved; the result will differ" in log
    assert "x-preprocess.json does not say what this run trains with" in log and "mean 1,2,3" in log
    start = f"{tmp_path}/x-0001.params"
    assert f"Starting from epoch 2 of {prefix}, not from --pretrained-model" in warned(
        "--pretrained-model", start, "--load-epoch", "2", "--num-epochs", "3")


def test_a_run_does_not_write_over_another(packed, tmp_path):
    train(packed, tmp_path / "x", "--num-epochs", "3")
    with pytest.raises(InputError, match="x: has checkpoints up to 0003; give --resume"):
        train(packed, tmp_path / "x")
    with pytest.raises(InputError, match="x: has checkpoints up to 0003"):
        train(packed, tmp_path / "x", "--load-epoch", "1")
    train(packed, tmp_path / "x", "--num-epochs", "1", "--overwrite", "1")
    assert [path.name for path in tmp_path.glob("*.params")] == ["x-0001.params"]
    os.unlink(tmp_path / "x-0001.json")
    os.unlink(tmp_path / "x-0001.optimizer")  # now it is one of plain MXNet
    with pytest.raises(InputError, match="x: has checkpoints up to 0001"):
        train(packed, tmp_path / "x")


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    """PREFIX of a run of two epochs."""
    prefix = tmp_path_factory.mktemp("trained") / "x"
    train(packed, prefix)
    return prefix


def copied(trained, folder, *ends):
    """{name: content} of files of that run, copied to `folder`."""
    return {path.name: path.read_bytes() for path in (Path(shutil.copy(f"{trained}-{end}", folder)) for end in ends)}


@pytest.mark.parametrize(("arguments", "refusal"), [
    ([], "x: has checkpoints up to 0002; give --resume to go on with that run, --overwrite 1 to write over them"),
    (["--load-epoch", "1"], "x: has checkpoints up to 0002"), (["--overwrite", "1"], None), (["--resume"], None),
    (["--load-epoch", "2", "--num-epochs", "3"], None)])
def test_a_checkpoint_that_was_copied_without_its_description_is_not_lost(packed, trained, tmp_path, arguments,
                                                                          refusal):
    started_from = ["0001.params"] if arguments == ["--load-epoch", "1"] else []
    before = copied(trained, tmp_path, "0002.params", "0002.optimizer", "symbol.json", *started_from)
    if refusal:
        with pytest.raises(InputError, match=refusal):
            train(packed, tmp_path / "x", *arguments)
    else:
        train(packed, tmp_path / "x", *arguments)
    goes_on = refusal or "--load-epoch" in arguments
    for name, content in before.items():
        moved = "" if goes_on or name.endswith(".json") else ".incomplete"
        assert (tmp_path / f"{name}{moved}").read_bytes() == content


@pytest.mark.parametrize("name", ["x-0002.params", "x-0000.params", "x-ema-0001.params"])
def test_weights_that_lie_there_are_not_mixed_with_those_of_a_run(packed, trained, tmp_path, name):
    """Nor is the symbol beside them written over."""
    copied(trained, tmp_path, "0002.params", "symbol.json", "preprocess.json")
    (tmp_path / "x-0002.params").rename(tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="has checkpoints up to 000"):
        train(packed, tmp_path / "x", "--ema", "0.9", "--multiplier", "0.2")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("arguments", [["--recipe", "cosine-150"], ["--mixup", "0.2"], ["--warmup-epochs", "5"]])
def test_benchmark_with_a_recipe(arguments, capfd):
    train_imagenet.main(["--benchmark", "1", "--multiplier", "0.1", "--batch-size", "2", "--image-shape", "3,32,32",
                         *arguments])
    assert "Epoch[0] Time cost=" in capfd.readouterr().err


@pytest.mark.long
def test_every_optimizer_that_is_offered_trains(packed, tmp_path):
    with pytest.raises(InputError, match="give one of ") as error:
        train(packed, tmp_path / "x", "--optimizer", "newton")
    offered = str(error.value).partition("give one of ")[2].split(", ")
    assert {"adam", "lbsgd", "nag", "rmsprop", "sgd"} < set(offered) and len(offered) == 16
    for name, mom in [*zip(offered, len(offered) * ["0.9"]), ("dcasgd", "0")]:
        train(packed, tmp_path / name, "--optimizer", name, "--mom", mom, "--num-epochs", "1", "--lr", "1e-4",
              "--num-examples", "20")
        train(packed, tmp_path / name, "--optimizer", name, "--mom", mom, "--num-epochs", "2", "--lr", "1e-4",
              "--num-examples", "20", "--resume")


def test_benchmark_needs_no_images(capfd):
    train_imagenet.main(["--benchmark", "1", "--multiplier", "0.1", "--batch-size", "2", "--image-shape", "3,32,32"])
    log = capfd.readouterr().err
    assert len(re.findall(r"Speed: \d+\.\d\d samples/sec", log)) == 2 and "Epoch[1]" not in log


def test_the_input_can_be_measured_alone(packed, tmp_path, capfd):
    train(packed, tmp_path / "x", "--test-io", "1")
    assert re.search(r"Batch \[6\]\tSpeed: \d+\.\d\d samples/sec", capfd.readouterr().err)
    assert os.listdir(tmp_path) == []


def test_float16_keeps_float32_where_it_matters():
    """MXNet has no float16 convolution for the processor: the types are inferred, nothing is run."""
    from common.training.training_symbol import training_symbol
    from symbols.mobilenetv2 import get_symbol
    symbol = training_symbol(get_symbol(10, 0.1), dtype="float16", loss_scale=128)
    arg_types, out_types, aux_types = symbol.infer_type(data=np.float32)
    types = dict(zip(symbol.list_arguments(), arg_types))
    assert types["fc_weight"] == types["first-3x3-conv-conv2d_weight"] == np.float16
    assert types["first-3x3-conv-batchnorm_gamma"] == np.float32 and set(aux_types) == set(out_types) == {np.float32}


def test_the_loss_scale_changes_nothing_but_the_gradients_on_the_way(packed, tmp_path):
    for scale in ("1", "64"):
        train(packed, tmp_path / scale, "--loss-scale", scale, "--num-epochs", "1")
    one, other = (load_params(tmp_path / f"{scale}-0001.params") for scale in ("1", "64"))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-5, rtol=1e-4, err_msg=name)


def test_two_devices_train_as_one(packed, tmp_path, monkeypatch):
    """But for BatchNorm, whose statistics are those of each device's part: with an equal learning rate of 0 for the
    weights the statistics are means, and the rest of the state goes both ways."""
    monkeypatch.setattr("common.training.setup.contexts", lambda gpus: [mx.cpu(0), mx.cpu(1)])
    train(packed, tmp_path / "x", "--num-epochs", "1", "--data-val", f"{packed}.rec", "--kv-store", "local")
    monkeypatch.undo()
    train(packed, tmp_path / "x", "--num-epochs", "2", "--data-val", f"{packed}.rec", "--resume")
    assert np.isfinite(load_params(tmp_path / "x-0002.params")["arg:fc_weight"]).all()
    monkeypatch.setattr("common.training.setup.contexts", lambda gpus: [mx.cpu(0), mx.cpu(1), mx.cpu(2)])
    with pytest.raises(InputError, match="--batch-size 20 does not divide by the 3 devices"):
        train(packed, tmp_path / "y")


@pytest.mark.parametrize("arguments", [
    ["--lr", "nan"], ["--lr", "1e300"], ["--wd", "inf"], ["--mom", "-1"], ["--batch-size", "0"], ["--random-crop", "7"],
    ["--seed", "-1"], ["--seed", "99999999999"], ["--image-shape", "3,31"], ["--rgb-std", "0,0,0"],
    ["--rgb-mean", "nan,0,0"], ["--kv-store", "redis"], ["--network", "resnet"], ["--benchmark", "-5"],
    ["--no-such-flag"],
])
def test_values_that_cannot_be_used_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_imagenet.get_args_parser().parse_args(arguments)
    line, = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2 and arguments[0] in line


def test_validation_scores_the_weights_that_are_saved(packed, tmp_path, capsys):
    """Those of each epoch, and their average too, as eval_imagenet.py scores them without a flag for the images."""
    import eval_imagenet
    train(packed, tmp_path / "x", "--data-val", f"{packed}.rec", "--ema", "0.8", "--lr", "0.1", "--rgb-std", "60,60,60",
          "--crop-ratio", "0.7")
    for event in events(tmp_path / "x", "validation"):
        for version in ("", "ema-"):
            capsys.readouterr()
            eval_imagenet.main(["--model-prefix", f"{tmp_path}/x{version and '-ema'}", "--epoch",
                                str(event["epoch"] + 1), "--data-val", f"{packed}.rec"])
            assert capsys.readouterr().out.startswith(f"top-1 {event[version + 'top-1']:.4f} ")


@pytest.mark.parametrize(("flag", "advice"), [
    ("--epochs=5", "--num-epochs"), ("--momentum", "--mom"), ("--weight-decay", "--wd"),
    ("--workers", "--data-nthreads"), ("--num-layers", "--multiplier"), ("--monitor", "leave it out")])
def test_flags_of_other_programs_are_answered(flag, advice, capsys):
    with pytest.raises(SystemExit):
        train_imagenet.main([flag, "7"])
    line, = capsys.readouterr().err.strip().splitlines()
    assert flag.partition("=")[0] in line and advice in line


def test_main_returns_what_was_measured_and_leaves_the_log_alone(packed):
    """As `fit` does for a script of one's own."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    measured = train_imagenet.main([
        "--data-train", f"{packed}.rec", "--data-val", f"{packed}.rec", "--num-classes", "2", "--multiplier", "0.1",
        "--image-shape", "3,28,28", "--batch-size", "20", "--num-epochs", "1"])
    assert 0 <= measured["validation"]["top-1"] <= 1 and measured["train"]["images_per_s"] > 0
    assert logging.getLogger().handlers == handlers and logging.getLogger().level == level
    with pytest.raises(InputError, match="image_shape"):
        train_imagenet.main(["--image-shape", "3,27,27", "--benchmark", "1"])
    with pytest.raises(InputError, match="--batch-size 104 is more than the 103"):
        train_imagenet.main(["--data-train", f"{packed}.rec", "--num-classes", "2", "--batch-size", "104"])

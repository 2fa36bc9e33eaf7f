"""Runs with all that changes the loss, the gradients and the updates: a teacher, class weights, clipping, AdamW."""
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import train_imagenet
from common import fit
from common.base.errors import InputError
from common.checkpoint.params import load_params
from common.data import get_rec_iter
from common.find_mxnet import mx
from common.training.recipe import parse
from tests.test_resume import KILL, final, start

pytestmark = pytest.mark.usefixtures("logged_to_stderr")

RECIPE = """
num-classes = 2
multiplier = 0.1
image-shape = [3, 32, 32]
rgb-std = [58.4, 57.1, 57.4]
lr = 0.002
optimizer = "adamw"
wd = 0.05
clip-grad-norm = 0.5
class-weights = "balanced"
temperature = 4.0
hard-weight = 0.3
label-smoothing = 0.1
ema = 0.9
teacher = "TEACHER"
[[stage]]
epochs = 2
batch-size = 20
mixup = 0.2
[[stage]]
epochs = 2
batch-size = 25
lr-mode = "cosine"
"""


@pytest.fixture(scope="module")
def teacher(packed, tmp_path_factory):
    """PREFIX of a wider network, for larger images."""
    prefix = tmp_path_factory.mktemp("teacher") / "wide"
    train_imagenet.main(["--data-train", f"{packed}.rec", "--num-classes", "2", "--multiplier", "0.2", "--batch-size",
                         "20", "--num-epochs", "2", "--lr", "0.01", "--image-shape", "3,48,48", "--top-k", "0",
                         "--model-prefix", str(prefix)])
    return prefix


@pytest.fixture(scope="module")
def command(packed, teacher, tmp_path_factory):
    """The arguments of a run with all of them, but for its prefix."""
    recipe = tmp_path_factory.mktemp("recipe") / "all.toml"
    recipe.write_text(RECIPE.replace("TEACHER", str(teacher)))
    return ["--recipe", str(recipe), "--data-train", f"{packed}.rec", "--data-val", f"{packed}.rec", "--top-k", "0",
            "--disp-batches", "1"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """PREFIX of the run that was not interrupted."""
    prefix = tmp_path_factory.mktemp("uninterrupted") / "x"
    train_imagenet.main([*command, "--model-prefix", str(prefix)])
    return prefix


def test_a_run_goes_on_at_an_epoch_exactly(command, whole, teacher, tmp_path, capfd):
    prefix = str(tmp_path / "x")
    train_imagenet.main([*command, "--model-prefix", prefix, "--num-epochs", "1"])
    log = capfd.readouterr().err
    assert f"Teacher: {teacher}-0002.params, of images of 3x48x48, mean (123.68, 116.78, 103.94), std (1.0, 1.0" in log
    assert "Class weights: 0.9904 to 1.01, of 2 classes that the records have images of" in log
    train_imagenet.main([*command, "--model-prefix", prefix, "--resume"])
    assert not re.search(r"Not as in .*: teacher|recipe is not .* (teacher|optimizer|weight)", capfd.readouterr().err)
    assert final(prefix) == final(whole)


# before a checkpoint inside the first epoch; half-written; at the first batches of the next stage
KILLS = (("run.save_state", "before", 3), ("state._write_description", "before", 1), ("run.save_state", "after", 12))


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_exactly(command, whole, tmp_path):
    for function, moment, number in KILLS:
        process = start([*command, "--resume", "--save-every", "1e-9"], tmp_path / "x",
                        KILL.format(function=function, moment=moment, number=number))
        log = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, log
    train_imagenet.main([*command, "--resume", "--model-prefix", str(tmp_path / "x")])
    assert final(tmp_path / "x") == final(whole)


@pytest.mark.parametrize("options", [["--teacher", ""], ["--class-weights", "none"], ["--clip-grad-norm", "0"],
                                     ["--hard-weight", "0.31"], ["--temperature", "5"], ["--optimizer", "adam"]],
                         ids=lambda options: options[0])
def test_each_of_them_changes_what_is_trained(command, whole, tmp_path, options):
    if options[0] == "--teacher":
        (tmp_path / "alone.toml").write_text(re.sub("teacher = .*", "", Path(command[1]).read_text()))
        options = ["--recipe", f"{tmp_path}/alone.toml"]
    train_imagenet.main([*command, "--model-prefix", f"{tmp_path}/other", "--num-epochs", "1", *options])
    one, other = (load_params(f"{prefix}-0001.params")["arg:fc_weight"] for prefix in (whole, tmp_path / "other"))
    assert (one != other).any()


def test_two_devices_compute_the_same_as_one(command, tmp_path, monkeypatch):
    """Where no BatchNorm has statistics of each device's part."""
    network = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc"),
                                   name="softmax")
    weights = []
    for devices in (1, 2):
        monkeypatch.setattr("common.training.setup.contexts", lambda gpus, n=devices: [mx.cpu(i) for i in range(n)])
        args = parse(train_imagenet.get_args_parser(), [*command, "--num-epochs", "1", "--model-prefix",
                                                        f"{tmp_path}/{devices}"])
        fit.fit(args, network, get_rec_iter)
        weights.append(load_params(tmp_path / f"{devices}-0001.params")["arg:fc_weight"])
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-4 * np.abs(weights[0]).max())


def test_another_teacher_in_the_place_of_the_first_is_told(command, teacher, tmp_path, capfd):
    copy = tmp_path / "wide"
    for end in ("0002.params", "symbol.json", "preprocess.json"):
        shutil.copy(f"{teacher}-{end}", f"{copy}-{end}")
    command = [*command, "--teacher", str(copy), "--model-prefix", f"{tmp_path}/x"]
    train_imagenet.main([*command, "--num-epochs", "1"])
    shutil.copy(f"{teacher}-0001.params", f"{copy}-0002.params")
    capfd.readouterr()
    train_imagenet.main([*command, "--num-epochs", "2", "--resume"])
    assert re.search(r"Not as in \S+x-0001: teacher [0-9a-f]{64} -> [0-9a-f]{64}; the result will differ",
                     capfd.readouterr().err)


def test_the_teacher_is_not_written_over(command, teacher, tmp_path):
    before = Path(f"{teacher}-0002.params").read_bytes()
    for more in (["--overwrite", "1"], ["--num-epochs", "3", "--load-epoch", "2"], ["--resume", "--num-epochs", "9"]):
        with pytest.raises(InputError, match="is read here, and would be overwritten"):
            train_imagenet.main([*command, "--model-prefix", str(teacher), "--multiplier", "0.2", *more])
    assert Path(f"{teacher}-0002.params").read_bytes() == before

"""A run that ends at any moment and is resumed ends with the weights of one that was not interrupted, bit for bit."""
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train_imagenet
from common.base.errors import InputError
from common.base.machine import usable_processors
from common.training.saved_state import newest_state
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("logged_to_stderr")

RECIPE = """
num-classes = 2
multiplier = 0.1
image-shape = [3, 32, 32]
lr = 0.02
ema = 0.9
max-random-rotate-angle = 10
random-erase = 0.5
[[stage]]
epochs = 2
batch-size = 20
auto-augment = "ta_wide"
mixup = 0.2
cutmix = 1.0
[[stage]]
epochs = 2
batch-size = 25
image-shape = [3, 48, 48]
auto-augment = "ra"
lr-mode = "cosine"
"""


@pytest.fixture(scope="module")
def command(packed, tmp_path_factory):
    """The arguments of a run with two stages, but for its prefix."""
    recipe = tmp_path_factory.mktemp("recipe") / "two-stages.toml"
    recipe.write_text(RECIPE)
    return ["--recipe", str(recipe), "--data-train", f"{packed}.rec", "--data-val", f"{packed}.rec", "--top-k", "0",
            "--disp-batches", "1"]


FINAL = ("0004.params", "ema-0004.params", "0004.optimizer", "best-0000.params")


@pytest.fixture(scope="module")
def expected(command, tmp_path_factory):
    """The files at the end of the run that was not interrupted."""
    prefix = tmp_path_factory.mktemp("uninterrupted") / "x"
    train_imagenet.main([*command, "--model-prefix", str(prefix)])
    return final(prefix)


def final(prefix):
    return [Path(f"{prefix}-{name}").read_bytes() for name in FINAL]


def start(command, prefix, code="", **options):
    """A process that trains; `code` runs in it first."""
    code += "\nimport runpy; runpy.run_path('train_imagenet.py', run_name='__main__')"
    return subprocess.Popen([sys.executable, "-c", code, *command, "--model-prefix", str(prefix)], cwd=ROOT,
                            stderr=subprocess.PIPE, text=True, **options)


KILL = """
import os, signal, common.training.run as run, common.training.saved_state as state
count = 0
def killed(function, moment):
    def call(*args):
        global count
        count += moment == "before"
        if count == {number} and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args)
        count += moment == "after"
        if count == {number} and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
{function} = killed({function}, "{moment}")
"""


# inside an epoch, before and while it is written; before the best is copied; inside an epoch, after it is written; at
# the end of a stage; in the validation that follows; in the first batches of the next stage
KILLS = (("run.save_state", "before", 3), ("state._write_description", "before", 1), ("run.keep_best", "before", 1),
         ("run.save_state", "after", 3), ("run.prune", "before", 4), ("run.describe_again", "before", 1),
         ("run.save_state", "after", 1))


@pytest.mark.parametrize("kills", [KILLS[1:2], pytest.param(KILLS, marks=pytest.mark.long)], ids=len)
def test_killed_in_saves_and_validation(command, expected, tmp_path, kills):
    """Saved at each batch, killed there, and resumed. What was half-written is set aside."""
    for function, moment, number in kills:
        process = start([*command, "--resume", "--save-every", "1e-9"], tmp_path / "x",
                        KILL.format(function=function, moment=moment, number=number))
        log = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, log
    train_imagenet.main([*command, "--resume", "--model-prefix", str(tmp_path / "x")])
    assert final(tmp_path / "x") == expected
    left = [path.name for path in tmp_path.glob("*-b0*")]
    assert len(left) == 3 and all(name.endswith(".incomplete") for name in left)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.long
def test_killed_inside_an_epoch_that_imagerecorditer_reads(command, tmp_path, capfd):
    """It can only begin an epoch at its first batch."""
    command = [*command, "--data-backend", "mxnet", "--auto-augment", "none", "--random-erase", "0"]
    train_imagenet.main([*command, "--model-prefix", str(tmp_path / "whole")])
    process = start([*command, "--save-every", "1e-9"], tmp_path / "x",
                    KILL.format(function="run.save_state", moment="after", number=4))
    assert process.communicate() and process.returncode == -signal.SIGKILL
    train_imagenet.main([*command, "--resume", "--model-prefix", str(tmp_path / "x")])
    assert "Reading over 4 batches of epoch 0, which are done" in capfd.readouterr().err
    assert final(tmp_path / "x") == final(tmp_path / "whole")
    assert newest_state(tmp_path / "x").info["pipeline"]["data_nthreads"] == usable_processors()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143),
                                              pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)])
def test_stopped_by_a_signal(command, expected, tmp_path, number, code):
    process = start([*command, "--seed", "0"], tmp_path / "x")
    line = ""
    while "Epoch[1] Batch [1-2]" not in line:
        line = process.stderr.readline()
        assert line, "the run ended by itself"
    process.send_signal(number)
    log = process.communicate()[1]
    assert process.returncode == code, log
    assert f"train_imagenet.py: stopped by {number.name} " in log.strip().splitlines()[-1]
    assert "--resume goes on from it" in log and "Traceback" not in log
    train_imagenet.main([*command, "--resume", "--model-prefix", str(tmp_path / "x")])
    assert final(tmp_path / "x") == expected


ASK = """
import os, signal, common.training.module as module
update = module.TrainedModule.update
def asked(self):
    update(self)
    if self.updates == {updates}:
        os.kill(os.getpid(), signal.SIGTERM)
module.TrainedModule.update = asked
"""


def test_stopped_at_the_last_batch_of_an_epoch(command, expected, tmp_path):
    """The epoch is ended and saved; its validation follows when the run is resumed. So is that of the last epoch."""
    for updates, epoch in ((6, 1), (22, 4)):
        process = start([*command, "--resume"], tmp_path / "x", ASK.format(updates=updates))
        log = process.communicate()[1]
        assert process.returncode == 143 and f"x-{epoch:04d} is the last checkpoint" in log, log
        assert "validation" not in json.loads((tmp_path / f"x-{epoch:04d}.json").read_text())
    train_imagenet.main([*command, "--resume", "--model-prefix", str(tmp_path / "x")])
    assert final(tmp_path / "x") == expected
    events = [json.loads(line) for line in (tmp_path / "x-metrics.jsonl").read_text().splitlines()]
    for kind in ("epoch", "validation"):
        assert [event["epoch"] for event in events if event["event"] == kind] == [0, 1, 2, 3]
    assert "validation" in json.loads((tmp_path / "x-0004.json").read_text())


def test_resuming_says_what_it_does(command, expected, tmp_path, capfd):
    prefix = str(tmp_path / "x")
    train_imagenet.main([*command, "--model-prefix", prefix, "--resume", "--num-epochs", "1"])
    assert "Nothing to resume" in capfd.readouterr().err
    train_imagenet.main(["--data-train", command[3], "--model-prefix", prefix, "--resume"])  # the checkpoint's recipe
    assert "x is finished: 1 of 1 epochs" in capfd.readouterr().err
    train_imagenet.main([*command, "--model-prefix", prefix, "--resume"])
    log = capfd.readouterr().err
    assert f"The recipe is not that of {prefix}-0001: 1 stages -> 2" in log and "Resuming from" in log
    assert final(prefix) == expected
    Path(f"{prefix}-0004.optimizer").write_bytes(b"")
    Path(f"{prefix}-0003.json").write_bytes(b"{")
    train_imagenet.main([*command, "--model-prefix", prefix, "--resume"])
    log = capfd.readouterr().err
    assert "x-0004.json: skipped" in log and "x-0003.json: skipped" in log and "x-0002: 2 epochs are completed" in log
    assert final(prefix) == expected


def test_what_cannot_be_resumed(command, tmp_path):
    prefix = str(tmp_path / "x")
    process = start([*command, "--save-every", "1e-9", "--resume"], prefix, KILL.format(
        function="run.save_state", moment="after", number=2))
    process.communicate()
    for arguments, words in ((["--batch-size", "10"], "x-0000-b00002 is inside an epoch"),
                             (["--optimizer", "nag"], "--optimizer nag: the run to resume has sgd"),
                             (["--mom", "0"], "holds state that --optimizer sgd does not have here .*; give"),
                             (["--multiplier", "0.2"], "x-0000-b00002.params: .* has shape")):
        with pytest.raises(InputError, match=words):
            train_imagenet.main([*command, "--model-prefix", prefix, "--resume", *arguments])
        assert newest_state(prefix).position == (0, 2)


def test_a_run_of_an_earlier_version_is_not_resumed(command, tmp_path):
    """It saw images at other scales, and left some out of each epoch: what it recorded had no such entries."""
    prefix = f"{tmp_path}/x"
    train_imagenet.main([*command, "--model-prefix", prefix, "--num-epochs", "1"])
    description = json.loads(Path(f"{prefix}-0001.json").read_text())
    for stage in description["recipe"]["stages"]:
        del stage["resize"]
    for name in ("resize", "batches", "num_examples"):
        del description["pipeline"][name]
    Path(f"{prefix}-0001.json").write_text(json.dumps(description))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="x-0001 is of an earlier version, .*; --load-epoch 1 starts from its weights"):
        train_imagenet.main([*command, "--model-prefix", prefix, "--resume"])
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    train_imagenet.main([*command, "--model-prefix", prefix, "--load-epoch", "1", "--num-epochs", "2"])


@pytest.mark.long
@pytest.mark.parametrize("every", ["1e-9", "0.001"])
def test_killed_at_random_moments(command, expected, tmp_path, every):
    """Until the run is done: 40 kills and more."""
    kills, chance = 0, random.Random(every)
    while True:
        process = start([*command, "--resume", "--save-every", every], tmp_path / "x")
        time.sleep(2 + 1.5 * chance.random())
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
        assert kills < 200
    log = process.communicate()[1]
    assert process.returncode == 0, log
    assert kills and final(tmp_path / "x") == expected

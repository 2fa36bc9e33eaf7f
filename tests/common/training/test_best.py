"""PREFIX-best: a whole checkpoint at any moment, of the epoch that validation found best."""
import os
from pathlib import Path

import numpy as np
import pytest

from common.checkpoint.params import load_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, save_preprocessing
from common.evaluation.score import Score
from common.find_mxnet import mx
from common.training.best import better, keep_best, outcome, remove_best
from common.training.saved_state import TrainingState, save_state

NETWORK = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc"), name="softmax")


def weights(value):
    return {"fc_weight": mx.nd.array(np.full((2, 3), value)), "fc_bias": mx.nd.zeros(2)}


@pytest.fixture
def prefix(tmp_path):
    """PREFIX of checkpoints of epochs 1 and 2, whose weights are their number, and those of their average ten times
    that."""
    prefix = tmp_path / "x"
    for epoch in (1, 2):
        save_state(prefix, TrainingState(epoch, 0, epoch, weights(epoch), {}, {}, (weights(10 * epoch), {}),
                                         {"recipe": {}, "pipeline": {}}), NETWORK)
    for name in (prefix, f"{prefix}-ema"):
        save_preprocessing(name, Preprocessing(37, 32))
    return prefix


def kept(prefix):
    """The number that the weights of PREFIX-best are."""
    return load_checkpoint_params(f"{prefix}-best-0000.params")[0]["fc_weight"][0, 0]


def best(epoch, average=False):
    return {"epoch": epoch, "top-1": 0.5, "average": average}


def test_the_best_is_that_of_weights_or_average_and_of_equals_the_first():
    def after(epochs, *right):
        return epochs, dict(zip(("", "ema-"), [Score(10, count) for count in right]))
    first = better(None, *after(1, 5))
    assert first == {"epoch": 1, "top-1": 0.5, "average": False}
    assert better(first, *after(2, 5)) is first is better(first, *after(2, 4, 5))
    assert better(first, *after(2, 6, 7)) == {"epoch": 2, "top-1": 0.7, "average": True}
    assert better(first, *after(2, 7, 6)) == {"epoch": 2, "top-1": 0.7, "average": False}
    assert better(None, 1, {"": Score()}) is None  # without images
    assert better(None, *after(1, 0)) == {"epoch": 1, "top-1": 0.0, "average": False}


def test_the_files_are_those_of_the_epoch(prefix):
    for epoch, average, number in ((1, False, 1), (2, True, 20), (2, False, 2)):
        keep_best(prefix, best(epoch, average))
        assert kept(prefix) == number
    assert mx.model.load_checkpoint(f"{prefix}-best", 0)[0].tojson() == NETWORK.tojson()
    assert load_preprocessing(f"{prefix}-best") == Preprocessing(37, 32)
    remove_best(prefix)
    assert not list(prefix.parent.glob("*best*"))


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: os.truncate(path, 9)])
@pytest.mark.parametrize("name", ["x-0002.params", "x-0002.json"])
def test_nothing_takes_its_place_that_is_not_as_it_was_written(prefix, name, harm):
    keep_best(prefix, best(1))
    harm(prefix.parent / name)
    keep_best(prefix, best(2))
    assert kept(prefix) == 1


def test_an_end_at_any_moment_leaves_one_that_can_be_read(prefix, monkeypatch):
    class End(BaseException):
        pass

    replace, left = os.replace, 0

    def ending(*names):
        nonlocal left
        left -= 1
        if left < 0:
            raise End
        replace(*names)

    keep_best(prefix, best(1))
    monkeypatch.setattr(os, "replace", ending)
    for left in range(3):
        renames = left
        with pytest.raises(End):
            keep_best(prefix, best(2))
        assert kept(prefix) == 1 and mx.model.load_checkpoint(f"{prefix}-best", 0), renames
    left = 3
    keep_best(prefix, best(2))
    assert kept(prefix) == 2


def test_what_is_said_at_the_end_can_be_pasted(prefix):
    spaced = prefix.with_name("my run")
    for path in prefix.parent.glob("x-*"):
        path.rename(path.with_name(path.name.replace("x-", "my run-")))
    keep_best(spaced, best(2, average=True))
    said, then = outcome(spaced, best(2, average=True), 3)
    assert said == ("Best: validation top-1 0.5000 of the moving average after epoch 2, kept as "
                    f"{spaced}-best-0000.params")
    assert then == f"Next: python from_mxnet.py PHOTOGRAPH --model-prefix '{spaced}-best' --epoch 0"
    assert outcome(spaced, None, 3) == [
        f"Next: python eval_imagenet.py --model-prefix '{spaced}' --epoch 3 --data-val REC"]
    Path(f"{spaced}-best-preprocess.json").unlink()  # a data loader of one's own, whose images no script knows
    assert len(outcome(spaced, best(2), 3)) == 1

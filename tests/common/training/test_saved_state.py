"""Checkpoints of a run: whole or not there, found again, removed in the right order."""
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from common.base.errors import InputError
from common.find_mxnet import mx
from common.training.saved_state import (
    TrainingState,
    describe_again,
    newest_state,
    plain_checkpoints,
    positions,
    prune,
    save_state,
    set_aside,
    sole_writer,
)

NETWORK = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc"), name="softmax")

PROGRESS = [[40, 30, 35, 12.5, 0], 1.5, 0.25]


def state(epoch, batch=0, average=False):
    values = {"fc_weight": mx.nd.array(np.full((2, 3), epoch + batch / 100)), "fc_bias": mx.nd.zeros(2)}
    return TrainingState(epoch, batch, 10 * epoch + batch, values, {"mean": mx.nd.ones(2)},
                         {"fc_weight:0": mx.nd.ones((2, 3))}, (values, {}) if average else None,
                         {"recipe": {"common": {}, "stages": [{}]}, "pipeline": {}, "progress": PROGRESS})


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "a+b-0007.x"  # characters that mean something in a pattern


def test_what_is_written_is_read(prefix):
    save_state(prefix, state(3), NETWORK)
    save_state(prefix, state(3, 20, average=True), NETWORK)
    read = newest_state(prefix)
    assert (read.position, read.updates, read.info["progress"]) == ((3, 20), 50, PROGRESS)
    np.testing.assert_array_equal(read.arg_params["fc_weight"], np.full((2, 3), np.float32(3.2)))
    assert read.optimizer["fc_weight:0"].tolist() == [[1] * 3] * 2 and set(read.average[0]) == {"fc_weight", "fc_bias"}
    assert sorted(name.removeprefix(prefix.name) for name in os.listdir(prefix.parent)) == [
        "-0003-b00020.json", "-0003-b00020.optimizer", "-0003-b00020.params", "-0003.json", "-0003.optimizer",
        "-0003.params", "-ema-0003-b00020.params", "-ema-symbol.json", "-symbol.json"]
    symbol, arg_params, _ = mx.model.load_checkpoint(str(prefix), 3)  # as any other user of MXNet
    assert symbol.list_outputs() == ["softmax_output"] and arg_params["fc_weight"].asnumpy()[0, 0] == 3


def test_the_description_can_be_told_more(prefix):
    saved = state(3)
    save_state(prefix, saved, NETWORK)
    saved.info["best"] = {"epoch": 3, "top-1": 0.5}
    describe_again(prefix, saved)
    assert newest_state(prefix).info["best"] == {"epoch": 3, "top-1": 0.5}


def damage_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE = {
    "params are shorter": lambda p: os.truncate(f"{p}-0004.params", 20),
    "params have holes, as it says": lambda p: (os.truncate(f"{p}-0004.params", 200 * 10 ** 9), damage_json(
        p.with_name(f"{p.name}-0004.json"), files={"params": {"bytes": 200 * 10 ** 9, "sha256": "0" * 64}})),
    "params have other bytes": lambda p: flip(f"{p}-0004.params"),
    "the optimizer has other bytes": lambda p: flip(f"{p}-0004.optimizer"),
    "the average is missing": lambda p: os.unlink(f"{p}-ema-0004.params"),
    "the optimizer is missing": lambda p: os.unlink(f"{p}-0004.optimizer"),
    "the description is cut": lambda p: os.truncate(f"{p}-0004.json", 100),
    "the description is empty": lambda p: os.truncate(f"{p}-0004.json", 0),
    "the description is a list": lambda p: Path(f"{p}-0004.json").write_text("[]"),
    "the description is binary": lambda p: Path(f"{p}-0004.json").write_bytes(b"\xff\xfe"),
    "it is of another epoch": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), epoch=3),
    "it is of another format": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), format=9),
    "its files are a number": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), files=9),
    "it lists other files": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), files={"x": {}}),
    "it has no recipe": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), recipe=None),
    "it has no files": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), files={}),
    "its recipe has no stages": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), recipe={"common": {}}),
    "its stages are numbers": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"),
                                                    recipe={"common": {}, "stages": [1, 2]}),
    "its best is a list": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), best=[1, 2]),
    "its best is words": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), best={"epoch": "x", "top-1": "y"}),
    "its best is NaN": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"),
                                             best={"epoch": 3, "top-1": float("nan")}),
    "its progress is a number": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), progress=5),
    "its progress has other parts": lambda p: damage_json(p.with_name(f"{p.name}-0004.json"), progress=[[1], 2, 3]),
    "it is nested": lambda p: Path(f"{p}-0004.json").write_text("[" * 200_000),
    "it is a pipe": lambda p: (os.unlink(f"{p}-0004.json"), os.mkfifo(f"{p}-0004.json")),
    "it is a folder": lambda p: (os.unlink(f"{p}-0004.json"), os.mkdir(f"{p}-0004.json")),
}


def flip(path):
    with open(path, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_that_is_not_whole_is_skipped_for_the_one_before(prefix, damage, caplog):
    for epoch in (2, 3, 4):
        save_state(prefix, state(epoch, average=True), NETWORK)
    DAMAGE[damage](prefix)
    with caplog.at_level(logging.WARNING):
        assert newest_state(prefix).position == (3, 0)
    record, = caplog.records
    assert record.getMessage().startswith(f"{prefix}-0004.json: skipped, not a complete checkpoint: ")
    assert "\n" not in record.getMessage()


def test_the_newest_is_the_furthest_whatever_the_clock_said(prefix):
    for epoch, seconds in ((1, 4_000_000_000), (2, 0), (3, 2_000_000_000)):
        save_state(prefix, state(epoch), NETWORK)
        for path in prefix.parent.glob(f"*-{epoch:04d}*"):
            os.utime(path, (seconds, seconds))
    assert newest_state(prefix).position == (3, 0)


def test_without_any_there_is_none(prefix):
    assert newest_state(prefix) is None and positions(prefix) == []
    assert newest_state(prefix.parent / "nowhere" / "x") is None


def test_plain_checkpoints_are_told_apart(prefix):
    save_state(prefix, state(3), NETWORK)
    mx.nd.save(f"{prefix}-0009.params", {"arg:x": mx.nd.ones(1)})
    assert plain_checkpoints(prefix) == [(prefix.with_name(f"{prefix.name}-0009.params"), 9)]


@pytest.mark.parametrize(("keep", "best", "left"), [
    (2, None, [(4, 0), (5, 0), (5, 30)]), (1, 2, [(2, 0), (5, 0), (5, 30)]), (0, None, [(n, 0) for n in range(1, 6)]
                                                                           + [(5, 30)])])
def test_the_last_ones_and_the_best_are_kept(prefix, keep, best, left):
    for position in [(1, 0), (1, 10), (2, 0), (3, 0), (4, 0), (5, 0), (5, 20), (5, 30)]:
        save_state(prefix, state(*position, average=True), NETWORK)
    mx.nd.save(f"{prefix}-0000.params", {"arg:x": mx.nd.ones(1)})  # not ours
    prune(prefix, keep, (5, 30), best)
    assert positions(prefix) == left
    assert len(os.listdir(prefix.parent)) == 4 * len(left) + 3
    save_state(prefix, state(6), NETWORK)
    prune(prefix, keep, (6, 0), best)
    assert (5, 30) not in positions(prefix)  # inside an epoch that is over


def test_one_that_was_skipped_is_set_aside_and_nothing_of_it_lost(prefix, caplog):
    for epoch in (1, 2, 3):
        save_state(prefix, state(epoch), NETWORK)
    os.truncate(f"{prefix}-0003.optimizer", 9)
    prefix.with_name(f"{prefix.name}-2024.json").write_text("{}")  # of something else
    read = newest_state(prefix)
    set_aside(prefix, read.position)
    assert positions(prefix) == [(1, 0), (2, 0), (2024, 0)] and "*.damaged" in caplog.text
    assert prefix.with_name(f"{prefix.name}-0003.params.damaged").stat().st_size > 100
    save_state(prefix, state(3), NETWORK)
    prune(prefix, 1, (3, 0))
    assert positions(prefix) == [(3, 0), (2024, 0)]


def test_the_lock_follows_no_link(prefix):
    precious = prefix.with_name("precious")
    precious.write_text("data")
    prefix.with_name(f".{prefix.name}.lock").symlink_to(precious)
    with pytest.raises(InputError), sole_writer(prefix):
        pass
    assert precious.read_text() == "data"


def test_files_that_a_killed_process_left_half_written_are_removed(prefix):
    save_state(prefix, state(2), NETWORK)
    for name in ("0004.params", "synset.txt", "best-0000.params"):
        (prefix.parent / f".{prefix.name}-{name}.123.partial").write_text("half")
    others = (f".{prefix.name}2-0004.params.123.partial", f".{prefix.name}-0004.notes.partial",
              f"{prefix.name}-0005.params", f"{prefix.name}-0005.optimizer")
    for name in others:
        (prefix.parent / name).write_text("of another run")
    with sole_writer(prefix):
        assert sorted(os.listdir(prefix.parent)) == sorted([
            *others, f".{prefix.name}.lock", *(f"{prefix.name}-{end}" for end in (
                "0002.json", "0002.optimizer", "0002.params", "symbol.json"))])
        with pytest.raises(InputError, match="another process trains with it now"), sole_writer(prefix):
            pass
    with sole_writer(prefix):
        pass


@pytest.mark.parametrize("files", [("optimizer",), ("optimizer", "params"), ("optimizer", "params", "ema")])
def test_a_checkpoint_without_description_is_set_aside_and_nothing_of_it_lost(prefix, caplog, files):
    """Half of one, or one that was copied: which cannot be told. What a run does not come to is left as it is."""
    def name(epoch, kind):
        return f"{prefix.name}-ema-{epoch:04d}.params" if kind == "ema" else f"{prefix.name}-{epoch:04d}.{kind}"

    for epoch in (1, 3, 5):
        for kind in files:
            prefix.with_name(name(epoch, kind)).write_text(f"{kind} of {epoch}")
    prefix.with_name(f"{name(3, 'optimizer')}.incomplete").write_text("an earlier one")
    set_aside(prefix, (2, 0))
    expected = {name(1, kind): f"{kind} of 1" for kind in files}
    expected |= {f"{name(epoch, kind)}.incomplete": f"{kind} of {epoch}" for epoch in (3, 5) for kind in files}
    expected |= {f"{name(3, 'optimizer')}.incomplete": "an earlier one",
                 f"{name(3, 'optimizer')}.incomplete-2": "optimizer of 3"}
    assert {path.name: path.read_text() for path in prefix.parent.iterdir()} == expected
    assert caplog.text.count("its files are now named *.incomplete") == 2


def test_the_files_of_another_run_whose_prefix_ends_in_ema_stay(prefix):
    """Its parameters have the names of an average's."""
    another = prefix.with_name(f"{prefix.name}-ema")
    for epoch in (1, 2, 3):
        save_state(prefix, state(epoch), NETWORK)
        save_state(another, state(epoch), NETWORK)
    prune(prefix, 1, (2, 0))
    os.truncate(f"{prefix}-0003.optimizer", 9)
    set_aside(prefix, (2, 0))
    assert positions(prefix) == [(2, 0)] and newest_state(another).position == (3, 0)
    assert len(list(prefix.parent.glob(f"{another.name}-000?.params"))) == 3


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"format": 1, "epoch": 2, "batch": 0, "updates": 3, "files": {}}'])
def test_only_what_its_description_tells_to_be_a_checkpoint_is_removed(prefix, text):
    save_state(prefix, state(3), NETWORK)
    for end in ("json", "params", "optimizer"):
        prefix.with_name(f"{prefix.name}-0001.{end}").write_text(text)
    prune(prefix, 1, (3, 0))
    assert [path.read_text() for path in prefix.parent.glob("*-0001.*")] == [text] * 3


def test_an_end_at_any_moment_leaves_a_whole_checkpoint(prefix, monkeypatch):
    """Every rename and removal of a save and a prune is once the last thing that happens."""
    class End(BaseException):
        pass

    calls, last = 0, 0

    def ending(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > last:
                raise End
            return function(*args, **kwargs)
        return call

    save_state(prefix, state(1), NETWORK)
    monkeypatch.setattr(os, "replace", ending(os.replace))
    monkeypatch.setattr(os, "unlink", ending(os.unlink))
    monkeypatch.setattr(type(prefix), "unlink", ending(type(prefix).unlink))
    ends = 0
    while True:
        calls = 0
        try:
            save_state(prefix, state(2, average=True), NETWORK)
            prune(prefix, 1, (2, 0))
            break
        except End:
            ends, last = ends + 1, last + 1
            calls = -1000
            assert newest_state(prefix).position in ((1, 0), (2, 0))
            with sole_writer(prefix):
                assert newest_state(prefix) is not None
            if newest_state(prefix).position == (2, 0):
                save_state(prefix, state(1), NETWORK)
    assert ends > 6 and positions(prefix) == [(2, 0)]

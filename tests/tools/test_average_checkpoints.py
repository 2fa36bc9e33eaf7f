"""tools/average_checkpoints.py as a user runs it."""
import shutil
import subprocess
import sys

import numpy as np
import pytest

from common.checkpoint.ndarrays import load_checkpoint
from common.checkpoint.params import load_params, save_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, save_preprocessing
from symbols.mobilenetv2 import get_symbol
from tests.checkpoints import save_like, save_random
from tests.commands import refusal, run
from tests.conftest import ROOT
from tools import average_checkpoints

SHAPE = (1, 3, 64, 64)


@pytest.fixture
def prefix(checkpoint, tmp_path):
    """PREFIX of epochs 3 to 10 of other random weights each, and of files with similar names."""
    prefix = tmp_path / "x"
    shutil.copy(f"{checkpoint}-symbol.json", f"{prefix}-symbol.json")
    for epoch in range(3, 11):
        save_random(prefix, epoch, get_symbol(num_classes=10, multiplier=0.35), SHAPE)
        params = load_params(f"{prefix}-{epoch:04d}.params")
        save_checkpoint_params(f"{prefix}-{epoch:04d}.params", *(
            {name.partition(":")[2]: epoch * array for name, array in params.items() if name.startswith(kind)}
            for kind in ("arg:", "aux:")))
    for name in ("x-0010-b00007.params", "x-ema-0011.params", "xx-0012.params"):
        shutil.copy(f"{prefix}-0003.params", tmp_path / name)
    return prefix


@pytest.mark.parametrize(("arguments", "epochs"), [([], (6, 7, 8, 9, 10)), (["--last", "2"], (9, 10)),
                                                   (["--epochs", "3,10"], (3, 10))])
def test_each_number_is_the_mean(prefix, arguments, epochs):
    save_preprocessing(prefix, Preprocessing(73, 64, (1, 2, 3), (4, 5, 6)))
    prefix.with_name("x-synset.txt").write_text("".join(f"n{i}\n" for i in range(10)))
    process = subprocess.run([sys.executable, "tools/average_checkpoints.py", prefix, "--output", f"{prefix}-avg",
                              *arguments], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0 and not process.stderr, process.stderr
    assert process.stdout == (f"{prefix}-avg-0000.params: the mean of {len(epochs)} checkpoints of {prefix}, epochs "
                              f"{', '.join(map(str, epochs))}\n")
    averaged = load_params(f"{prefix}-avg-0000.params")
    each = [load_params(f"{prefix}-{epoch:04d}.params") for epoch in epochs]
    assert set(averaged) == set(each[0]) and any(name.endswith("moving_var") for name in averaged)
    for name, array in averaged.items():
        expected = np.mean([params[name].astype(np.float64) for params in each], axis=0)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected.astype(np.float32))
    assert load_preprocessing(f"{prefix}-avg") == load_preprocessing(prefix)
    assert prefix.with_name("x-avg-synset.txt").read_text() == prefix.with_name("x-synset.txt").read_text()
    load_checkpoint(f"{prefix}-avg", 0, SHAPE)


def test_what_is_refused(prefix, tmp_path, capsys):
    save_random(tmp_path / "other", 0, get_symbol(num_classes=7, multiplier=0.35), SHAPE)
    shutil.copy(tmp_path / "other-0000.params", tmp_path / "x-0011.params")
    shutil.copy(tmp_path / "x-0003.params", tmp_path / "alone-0003.params")
    (tmp_path / "x-0012.params").write_bytes((tmp_path / "x-0003.params").read_bytes()[:1000])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for source, output, arguments, message in (
            ("x", "y", ["--epochs", "10,11"], f"{tmp_path}/x-0011.params: has fc_bias of shape (7,), and "
             f"{tmp_path}/x-0010.params has fc_bias of shape (10,): they are of different networks"),
            ("x", "y", ["--epochs", "12"], "x-0012.params: "),
            ("x", "y", ["--epochs", "4,13"], "x-0013.params: No such"),
            ("x", "y", ["--epochs", "4,4"], "names an epoch twice"), ("x", "y", ["--epochs", "4,"], "whole number"),
            ("x", "y", ["--last", "11"], "--last 11: "), ("x", "x", ["--last", "1"], "is read here"),
            ("alone", "y", ["--last", "1"], "alone-symbol.json: "), ("nothing", "y", [], "there is no "),
            ("x-0003.params", "y", [], "give the prefix alone"), ("x", "", [], "beginning of the files' names")):
        line = refusal(capsys, average_checkpoints, tmp_path / source, "--output", f"{tmp_path}/{output}", *arguments)
        assert message in line
        assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_link_to_what_is_read_is_not_written_over(prefix, tmp_path, capsys):
    (tmp_path / "y-0000.params").symlink_to(tmp_path / "x-0010.params")
    assert "is read here" in refusal(capsys, average_checkpoints, prefix, "--output", tmp_path / "y")
    save_like(prefix, 3, tmp_path / "z")
    run(average_checkpoints, tmp_path / "z", "--last", "1", "--output", tmp_path / "w")  # the mean of one is it
    assert (tmp_path / "w-0000.params").read_bytes() == (tmp_path / "z-0000.params").read_bytes()

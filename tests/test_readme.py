"""The README's Python runs as pasted: blocks marked `python`. Those marked `py` need data that is not here."""
import re

import cv2
import numpy as np
import pytest

from common.find_mxnet import mx
from symbols.mobilenetv2 import get_symbol
from tests.checkpoints import save_checkpoint
from tests.conftest import ROOT
from tests.networks import random_params

BLOCKS, OTHERS = (re.findall(rf"^```{mark}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
                  for mark in ("python", "py"))


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A folder with what `make demo` leaves and the README reads."""
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "demo/images/val/digit7/0007.jpg"
    image.parent.mkdir(parents=True)
    cv2.imwrite(str(image), np.random.RandomState(0).randint(0, 256, (128, 128)).astype(np.uint8))
    symbol = get_symbol(num_classes=10, multiplier=0.25)
    save_checkpoint("demo/digits", 32, symbol, *({name: mx.nd.array(array) for name, array in params.items()}
                                                 for params in random_params(symbol, (1, 3, 48, 48))))


@pytest.mark.parametrize("block", [
    pytest.param(block, id=f"block{i}", marks=[pytest.mark.long] if "open_network" in block else [])
    for i, block in enumerate(BLOCKS)])
def test_code_runs_as_pasted(block, demo, capsys):
    exec(block, {})
    assert capsys.readouterr().out


def test_all_ways_to_load_give_the_same_class(demo, capsys):
    for block in BLOCKS[:3]:
        exec(block, {})
    ways, classes = zip(*(line.split(": ") for line in capsys.readouterr().out.splitlines()))
    assert ways == ("Symbol", "Gluon", "SymbolBlock") and len(set(classes)) == 1


def test_blocks_that_need_data_are_python():
    for block in OTHERS:
        compile(block, "README.md", "exec")


def test_the_script_is_the_same_in_both_documents():
    assert OTHERS and all(block in (ROOT / "docs/from-the-original.md").read_text() for block in OTHERS)

"""The README's Python runs as pasted, and its facts are those of the code."""
import re

import cv2
import numpy as np
import pytest

from common.find_mxnet import mx
from symbols.mobilenetv2 import get_symbol
from tests.checkpoints import save_checkpoint
from tests.conftest import ROOT
from tests.networks import random_params

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


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


def test_symbol_and_gluon_blocks_give_the_same_class(demo, capsys):
    for block in BLOCKS[:2]:
        exec(block, {})
    symbol, gluon = capsys.readouterr().out.splitlines()
    assert symbol.startswith("Symbol: ") and gluon.startswith("Gluon: ")
    assert symbol.split()[1] == gluon.split()[1]


def test_every_command_and_file_it_names_exists():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)`", text)) <= set(targets)
    links, names = re.findall(r"\]\((?!http)([^)]+)\)", text), re.findall(r"`((?:symbols|common)/[\w.]+)`", text)
    for path in links + names:
        assert (ROOT / path).exists(), path

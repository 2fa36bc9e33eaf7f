"""Damaged weights and their JSON are read or refused: no other exception, no crash, no hang, no gigabyte of memory."""
import json
import shutil
import subprocess
import sys

import pytest

from common import checkpoint_arrays
from common.checkpoint_arrays import Checkpoint
from common.conversion.outgoing import save_torchvision
from common.find_mxnet import mx
from common.params_file import save_checkpoint_params
from common.preprocessing_file import Preprocessing, save_preprocessing
from symbols.mobilenetv2 import get_symbol
from tests.conftest import ROOT
from tests.fuzzing import SUFFIXES
from tests.networks import random_params


def small_network():
    """Few layers and parameters, so that changes hit what matters."""
    data = mx.sym.pad(mx.sym.Variable("data"), mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 0, 1), name="pad")
    data = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), stride=(2, 2), no_bias=True, name="convolution")
    data = mx.sym.clip(mx.sym.BatchNorm(data, fix_gamma=False, eps=1e-5, name="norm"), 0, 6, name="relu6")
    data = data + mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), pad=(1, 1), num_group=4, name="depthwise")
    data = mx.sym.LeakyReLU(mx.sym.BatchNorm(data, name="fixed"), act_type="prelu", name="prelu")
    data = mx.sym.Pooling(data, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention="full", name="max")
    data = mx.sym.Pooling(mx.sym.Activation(data * 0.5, act_type="tanh"), global_pool=True, pool_type="avg")
    data = mx.sym.FullyConnected(mx.sym.Flatten(mx.sym.Dropout(data)), num_hidden=3, name="dense")
    return mx.sym.SoftmaxOutput(data, name="softmax")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The folder seeds/KIND of whole files: a small network, and this repository's, of small widths."""
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    for kind in SUFFIXES:
        (folder / kind).mkdir(parents=True)
    network = {"channels": (4, 6, 8, 10, 12, 14, 16, 18, 1280), "repeats": (1, 2, 1, 1, 1, 1, 1),
               "strides": "published", "padding": "symmetric", "image_shape": None}
    every = {}, {}
    for name, symbol in (("small", small_network()), ("mobilenetv2", get_symbol(10, **network))):
        arg_params, aux_params = random_params(symbol, (1, 3, 32, 32))
        symbol.save(str(folder / "symbol" / f"{name}-symbol.json"))
        save_checkpoint_params(folder / "params" / f"{name}.params", arg_params, aux_params)
        every[0].update(arg_params), every[1].update(aux_params)
    save_checkpoint_params(folder / "all.params", *every)
    old = json.loads(small_network().tojson())
    for node in old["nodes"]:
        node["param"] = node.pop("attrs", {})
        node["inputs"] = [entry[:2] for entry in node["inputs"]]
    (folder / "symbol" / "old-symbol.json").write_text(json.dumps(old))
    shutil.copytree(folder / "symbol", folder / "network", dirs_exist_ok=True)
    save_torchvision(checkpoint_arrays.checked(Checkpoint(network, 10, arg_params, aux_params), "seed"),
                     folder / "safetensors" / "x.safetensors")
    save_preprocessing(folder / "preprocess" / "x", Preprocessing())
    save_preprocessing(folder / "preprocess" / "y", Preprocessing(128, 96, (127.5,) * 3, (58.4, 57.1, 57.4)))
    return folder


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_damaged_files_are_read_or_refused(seeds, kind, count):
    process = subprocess.run([sys.executable, "-m", "tests.fuzzing", kind, str(count), seeds.parent],
                             cwd=ROOT, capture_output=True, text=True)
    left = [str(path) for path in seeds.parent.glob(f"{kind}-*")]
    assert (process.returncode, left) == (0, []), f"{process.stderr[-8000:]}\n{left}"
    answers = json.loads(process.stdout)
    assert answers["read"] + answers["refused"] == count and min(answers.values()) > 0

"""Checkpoints of others, and those that are no network."""
import json
import logging
import shutil

import pytest
import tvm

from common.base.errors import InputError
from common.checkpoint.params import save_checkpoint_params
from common.compiler.build import build, compiled_by_tvm
from common.compiler.relay_network import load_network
from common.find_mxnet import mx
from tests.networks import random_params


def test_parameters_that_do_not_fit_the_symbol_are_refused(checkpoint, tmp_path, capfd):
    symbol = (checkpoint.parent / "small-symbol.json").read_text()
    (tmp_path / "x-symbol.json").write_text(symbol)
    params = mx.nd.load(f"{checkpoint}-0000.params")
    mx.nd.save(str(tmp_path / "x-0000.params"), {k: v for k, v in params.items() if k != "arg:fc_bias"})
    with pytest.raises(InputError, match="has no 'fc_bias'"):
        load_network(tmp_path / "x", 0, (1, 3, 64, 64))
    mx.nd.save(str(tmp_path / "x-0001.params"), {**params, "arg:fc_weight": mx.nd.zeros((10, 7))})
    mx.nd.save(str(tmp_path / "x-0002.params"), {**params, "arg:last-1x1-conv-batchnorm_gamma": mx.nd.zeros((7,))})
    for epoch in (1, 2):
        with pytest.raises(InputError, match="do not fit") as error:
            load_network(tmp_path / "x", epoch, (1, 3, 64, 64))
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["caffe-relu-fc7", "gluon-expandedconv"])
def test_networks_of_other_repositories_are_read(testdata, tmp_path, name):
    shutil.copy(testdata / "cases" / "foreign" / f"{name}-symbol.json", tmp_path / "x-symbol.json")
    symbol = mx.sym.load(str(tmp_path / "x-symbol.json"))
    params = random_params(symbol, (1, 3, 64, 64))
    save_checkpoint_params(tmp_path / "x-0000.params", *({name: array for name, array in group.items()
                                                          if not name.endswith("label")} for group in params))
    assert load_network(tmp_path / "x", 0, (1, 3, 64, 64)).num_classes == 1000


@pytest.mark.parametrize(("name", "change"), [
    ("conv", {"layout": "other"}), ("conv", {"num_group": "2"}), ("conv", {"num_filter": "8"}),
    ("conv", {"dilate": "(9, 9)"}), ("conv", {"pad": "(9000000, 9000000)"}),
    ("Flatten", {"shape": "(7, 9)"}), ("clip", {"act_type": "other"})], ids=str)
def test_what_tvm_does_not_compile_is_one_line(one_convolution, tmp_path, monkeypatch, capfd, name, change):
    """A node with these attributes beside its own; some say another operator."""
    monkeypatch.setattr(logging.root, "handlers", [])  # those of a training in this process, where TVM's go too
    content = json.loads(one_convolution.with_name("one-symbol.json").read_text())
    node, = (node for node in content["nodes"] if name in (node["name"], node["op"]))
    node["attrs"] = node.get("attrs", {}) | change
    node["op"] = {"shape": "Reshape", "act_type": "Activation"}.get(*change, node["op"])
    (tmp_path / "x-symbol.json").write_text(json.dumps(content))
    shutil.copy(f"{one_convolution}-0000.params", tmp_path / "x-0000.params")
    with pytest.raises(InputError) as error, compiled_by_tvm(tmp_path / "x-symbol.json", "llvm"):
        build(load_network(tmp_path / "x", 0, (1, 3, 8, 8)), tvm.target.Target("llvm"))
    assert f"{tmp_path}/x-symbol.json" in str(error.value) and "\n" not in str(error.value)
    assert "".join(capfd.readouterr()) == ""

"""Symbols that MXNet does not load, bind or run: one line, with the file's name."""
import argparse
import json
import shutil

import numpy as np
import pytest

from common.base.errors import InputError
from common.evaluation.score import predict
from common.find_mxnet import mx
from eval_imagenet import with_mxnet

X = np.ones((2, 3, 8, 8), np.float32)


def evaluated(prefix):
    num_classes, build = with_mxnet(argparse.Namespace(model_prefix=str(prefix), epoch=0, gpus="", batch_size=len(X),
                                                       image_shape=X.shape[1:]))
    assert num_classes == 3
    return build()(mx.nd.array(X)).asnumpy()


def changed(one_convolution, folder, name, **change):
    """PREFIX of a checkpoint of whose node of that name are other values; attributes are added to those it has."""
    content = json.loads(one_convolution.with_name("one-symbol.json").read_text())
    node, = (node for node in content["nodes"] if node["name"] == name or node["op"] == name)
    attrs = node.get("attrs", {}) | change.pop("attrs", {})
    node.update(change, attrs=attrs)
    (folder / "x-symbol.json").write_text(json.dumps(content))
    shutil.copy(f"{one_convolution}-0000.params", folder / "x-0000.params")
    return folder / "x"


@pytest.mark.parametrize("answer", [evaluated, predict], ids=["evaluated", "verified"])
@pytest.mark.parametrize(("name", "change"), [
    ("conv_weight", {"attrs": {"__dtype__": "99"}}), ("conv_weight", {"attrs": {"__dtype__": "x"}}),
    ("data", {"attrs": {"__dtype__": "2"}}), ("fc_weight", {"attrs": {"__storage_type__": "99"}}),
    ("conv_weight", {"attrs": {"__shape__": "(9, 9)"}}), ("conv", {"attrs": {"num_group": "2"}}),
    ("conv", {"attrs": {"dilate": "(9, 9)"}}), ("conv", {"attrs": {"other": "1"}}),
    ("clip", {"op": "Activation", "attrs": {"act_type": "other"}}), ("clip", {"op": "Other"}),
    ("Flatten", {"op": "Reshape", "attrs": {"shape": "(-1, -1)"}}), ("softmax", {"attrs": {"preserve_shape": "other"}}),
], ids=str)
def test_what_mxnet_does_not_run_is_one_line(one_convolution, tmp_path, capfd, answer, name, change):
    prefix = changed(one_convolution, tmp_path, name, **change)
    with pytest.raises(InputError) as error:
        answer(prefix, *(0, X) if answer is predict else ())
    message = str(error.value)
    assert message.startswith(f"{prefix}-symbol.json: MXNet cannot run it: ") and "\n" not in message
    assert not set(message.split(": ")) & {"MXNetError", "Traceback (most recent call last)"}
    assert "".join(capfd.readouterr()) == ""


def test_an_output_that_is_no_classifiers_is_refused(one_convolution, tmp_path):
    prefix = changed(one_convolution, tmp_path, "Flatten", op="Reshape", attrs={"shape": "(8, 1)"})
    with pytest.raises(InputError, match=r"x-symbol.json: for images of \(3, 8, 8\) its output is not of shape \(N, "):
        evaluated(prefix)


def test_too_little_memory_is_no_fault_of_the_symbol(one_convolution, tmp_path):
    prefix = changed(one_convolution, tmp_path, "conv", attrs={"pad": "(2000000, 2000000)"})
    with pytest.raises(mx.base.MXNetError, match="Failed to allocate"):
        evaluated(prefix)

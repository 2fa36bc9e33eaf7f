import json

import pytest

from common.base.errors import InputError
from common.checkpoint.attributes import Attributes
from common.checkpoint.symbol import load_symbol
from symbols.mobilenetv2_json import get_graph


def node_of(graph, op):
    return next(node for node in graph["nodes"] if node["op"] == op)


def test_values_and_defaults():
    graph = get_graph(10, 0.1)
    convolution = Attributes(node_of(graph, "Convolution"))
    assert (convolution["kernel"], convolution["stride"], convolution["dilate"]) == ((3, 3), (2, 2), (1, 1))
    assert (convolution["num_group"], convolution["no_bias"]) == (1, True)
    batch_norm = Attributes(node_of(graph, "BatchNorm"))
    assert (batch_norm["eps"], batch_norm["fix_gamma"], batch_norm["axis"]) == (1e-5, False, 1)
    assert Attributes({"op": "BatchNorm", "name": "x", "attrs": {}})["eps"] == 1e-3
    assert Attributes({"op": "Pooling", "name": "x", "attrs": {"stride": "( )"}})["stride"] == (1, 1)


@pytest.mark.parametrize("op, key, text", [
    ("Convolution", "kernel", "(3,`3)"), ("Convolution", "kernel", "(3)"), ("Convolution", "kernel", "(3, 3, 3)"),
    ("Convolution", "kernel", None), ("Convolution", "stride", "(0, 1)"), ("Convolution", "stride", "2, 2"),
    ("Convolution", "pad", "(-1, 0)"), ("Convolution", "num_group", "99999999999999999999"),
    ("Convolution", "num_filter", "3.5"), ("Convolution", "no_bias", "maybe"), ("BatchNorm", "eps", "nan"),
    ("clip", "a_max", "six"), ("clip", "a_min", None), ("FullyConnected", "num_hidden", "0"),
])
def test_a_damaged_attribute_is_refused_by_name(tmp_path, op, key, text):
    """TVM, which would be given the graph, crashes on some of these."""
    graph = get_graph(10, 0.1)
    node = node_of(graph, op)
    node["attrs"] = {**node["attrs"], key: text} if text else {k: v for k, v in node["attrs"].items() if k != key}
    path = tmp_path / "x-symbol.json"
    path.write_text(json.dumps(graph))
    with pytest.raises(InputError) as error:
        load_symbol(path)
    message = str(error.value)
    assert message.startswith(f"{path}: node {node['name']!r} ({op}): ") and "\n" not in message
    assert key in message and (text or "has no") in message


@pytest.mark.parametrize("op", ["Convolution", "BatchNorm", "clip", "elemwise_add", "Pooling", "FullyConnected"])
@pytest.mark.parametrize("change", [lambda inputs: inputs[:-1], lambda inputs: [*inputs, inputs[0]]])
def test_another_number_of_inputs_is_refused(tmp_path, op, change):
    graph = get_graph(10, 0.1)
    node = node_of(graph, op)
    node["inputs"] = change(node["inputs"])
    path = tmp_path / "x-symbol.json"
    path.write_text(json.dumps(graph))
    with pytest.raises(InputError, match=f"has {len(node['inputs'])} inputs, not "):
        load_symbol(path)

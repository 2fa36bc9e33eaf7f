import json

import numpy as np
import pytest

from common.batch_norm import fold_batch_norm
from common.errors import InputError
from common.find_mxnet import mx
from common.symbol_json import load_symbol, parameter_names
from symbols.mobilenetv2 import get_symbol
from tests.networks import random_params


def run(graph, params, x):
    symbol = mx.sym.load_json(json.dumps({**graph, "arg_nodes": [i for i, node in enumerate(graph["nodes"])
                                                                 if node["op"] == "null"]}))
    executor = symbol.simple_bind(mx.cpu(), data=x.shape, grad_req="null")
    states = symbol.list_auxiliary_states()
    executor.copy_params_from({name: mx.nd.array(a) for name, a in params.items() if name not in states},
                              {name: mx.nd.array(a) for name, a in params.items() if name in states})
    return executor.forward(is_train=False, data=mx.nd.array(x))[0].asnumpy()


def check_folding(symbol, x, tmp_path, batch_norms_left, seed=0):
    symbol.save(str(tmp_path / "x-symbol.json"))
    graph = load_symbol(tmp_path / "x-symbol.json")
    arg_params, aux_params = random_params(symbol, x.shape, seed)
    params = {**arg_params, **aux_params}
    before = json.dumps(graph), {name: array.copy() for name, array in params.items()}
    folded, folded_params = fold_batch_norm(graph, params)
    assert [node["op"] for node in folded["nodes"]].count("BatchNorm") == batch_norms_left
    assert set(parameter_names(folded)) == set(folded_params)
    expected = run(graph, params, x)
    np.testing.assert_allclose(run(folded, folded_params, x), expected, atol=2e-5 * max(1, np.abs(expected).max()))
    assert json.dumps(graph) == before[0] and all((params[name] == before[1][name]).all() for name in params)


def test_folding_leaves_mobilenetv2_its_answer(tmp_path):
    x = np.random.RandomState(1).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    check_folding(get_symbol(10, 0.35), x, tmp_path, batch_norms_left=0)
    check_folding(get_symbol(10, 0.5, padding="same", image_shape=(3, 64, 64)), x, tmp_path, batch_norms_left=0)


def test_folding_other_networks(tmp_path):
    """Biases, MXNet's defaults of BatchNorm (eps 1e-3, gamma fixed at 1), and what must not be folded."""
    x = np.random.RandomState(1).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    convolution = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="a")
    softmax = lambda data: mx.sym.softmax(mx.sym.Flatten(data), name="softmax")  # noqa: E731
    check_folding(softmax(mx.sym.BatchNorm(convolution, name="b")), x, tmp_path, 0)
    check_folding(softmax(mx.sym.BatchNorm(convolution, fix_gamma=False, eps=0.1, name="b")), x, tmp_path, 0)
    used_twice = mx.sym.BatchNorm(convolution, name="b") + convolution
    check_folding(softmax(used_twice), x, tmp_path, 1)
    shared_weight = mx.sym.Variable("w")
    first = mx.sym.Convolution(mx.sym.Variable("data"), shared_weight, num_filter=3, kernel=(1, 1), no_bias=True)
    second = mx.sym.BatchNorm(mx.sym.Convolution(first, shared_weight, num_filter=3, kernel=(1, 1), no_bias=True))
    check_folding(softmax(second), x, tmp_path, 1)
    check_folding(softmax(mx.sym.BatchNorm(mx.sym.Variable("data"), name="b")), x, tmp_path, 1)


@pytest.mark.parametrize("spelling", ["attr", "param"])
def test_older_spellings_of_attributes(tmp_path, spelling):
    symbol = get_symbol(10, 0.1)
    content = json.loads(symbol.tojson())
    for node in content["nodes"]:
        if "attrs" in node:
            node[spelling] = node.pop("attrs")
    (tmp_path / "old-symbol.json").write_text(json.dumps(content))
    symbol.save(str(tmp_path / "new-symbol.json"))
    assert load_symbol(tmp_path / "old-symbol.json") == load_symbol(tmp_path / "new-symbol.json")


def test_logits_are_given_a_softmax(tmp_path):
    logits = get_symbol(10, 0.1).get_internals()["fc_output"]
    logits.save(str(tmp_path / "x-symbol.json"))
    graph = load_symbol(tmp_path / "x-symbol.json")
    assert graph["nodes"][graph["heads"][0][0]]["op"] == "softmax"


@pytest.mark.parametrize("content", [
    "", "{", "[]", "{}", '{"nodes": []}', '{"nodes": [], "heads": []}', '{"nodes": [], "heads": [[0, 0, 0]]}',
    '{"nodes": [{"op": "null", "name": "data"}], "heads": [[0, 0, 0]]}',
    '{"nodes": [{"op": "clip", "name": "x", "inputs": [[0, 0, 0]]}], "heads": [[0, 0, 0]]}', "\0\1\2",
])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x-symbol.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        load_symbol(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_graph_that_would_fill_the_stack_is_refused(tmp_path):
    nodes = [{"op": "null", "name": "data", "inputs": []}]
    nodes += [{"op": "relu", "name": f"relu{i}", "inputs": [[i, 0, 0]]} for i in range(5000)]
    path = tmp_path / "x-symbol.json"
    path.write_text(json.dumps({"nodes": nodes, "heads": [[5000, 0, 0]]}))
    with pytest.raises(InputError, match="x-symbol.json: 5001 nodes, more than"):
        load_symbol(path)


def test_a_graph_with_a_cycle_is_refused(tmp_path):
    nodes = [{"op": "null", "name": "data", "inputs": []}, {"op": "relu", "name": "a", "inputs": [[2, 0, 0]]},
             {"op": "relu", "name": "b", "inputs": [[1, 0, 0]]}]
    path = tmp_path / "x-symbol.json"
    path.write_text(json.dumps({"nodes": nodes, "heads": [[2, 0, 0]]}))
    with pytest.raises(InputError, match="not the symbol"):
        load_symbol(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_symbol(tmp_path / "x-symbol.json")

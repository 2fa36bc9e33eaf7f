"""Widened networks answer as MXNet answers for the narrow ones."""
import json

import numpy as np
import pytest

from common.channel_padding import pad_channels
from common.find_mxnet import mx
from common.symbol_json import fold_batch_norm, load_symbol
from symbols.mobilenetv2 import get_symbol
from tests.networks import random_params


def as_graph(symbol, folder):
    symbol.save(str(folder / "net-symbol.json"))
    return load_symbol(folder / "net-symbol.json")


def answers(graph, params, data):
    """MXNet's, of a graph of common.symbol_json."""
    content = {**graph, "arg_nodes": [i for i, node in enumerate(graph["nodes"]) if node["op"] == "null"]}
    symbol = mx.sym.load_json(json.dumps(content))
    executor = symbol.simple_bind(mx.cpu(), data=data.shape, grad_req="null")
    executor.copy_params_from({name: mx.nd.array(array) for name, array in params.items()})
    return executor.forward(data=mx.nd.array(data))[0].asnumpy()


def filters(graph):
    return [int(node["attrs"]["num_filter"]) for node in graph["nodes"] if node["op"] == "Convolution"]


@pytest.mark.parametrize("multiplier, options", [(0.35, {}), (1.4, {}),
                                                 (0.5, {"padding": "same", "image_shape": (3, 40, 40)})])
def test_answers_stay(multiplier, options, tmp_path):
    symbol = get_symbol(num_classes=10, multiplier=multiplier, **options)
    data = np.random.RandomState(0).uniform(-2, 2, (2, 3, 40, 40)).astype(np.float32)
    graph, params = fold_batch_norm(as_graph(symbol, tmp_path), {
        name: array for part in random_params(symbol, data.shape) for name, array in part.items()})
    widened, more = pad_channels(graph, params, 16)
    assert not any(width % 16 for width in filters(widened)) and filters(widened) != filters(graph)
    assert np.abs(answers(widened, more, data) - answers(graph, params, data)).max() < 2e-5


def test_fully_connected_after_more_than_one_pixel(tmp_path):
    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=5, name="first")
    net = mx.sym.Activation(net, act_type="sigmoid")  # makes 0.5 of the zeros
    net = mx.sym.FullyConnected(mx.sym.flatten(net), num_hidden=4, name="fc")
    data = np.random.RandomState(0).randn(2, 3, 6, 6).astype(np.float32)
    graph, params = as_graph(net, tmp_path), random_params(net, data.shape)[0]
    widened, more = pad_channels(graph, params, 8)
    assert filters(widened) == [8] and more["fc_weight"].shape == (4, 8 * 16)
    assert np.abs(answers(widened, more, data) - answers(graph, params, data)).max() < 2e-5


def test_what_is_not_understood_or_is_the_output_stays(tmp_path):
    data = mx.sym.Variable("data")
    grouped = mx.sym.Convolution(mx.sym.Convolution(data, kernel=(1, 1), num_filter=6, name="a"), kernel=(1, 1),
                                 num_filter=6, num_group=2, name="b")
    norm = mx.sym.BatchNorm(mx.sym.Convolution(data, kernel=(1, 1), num_filter=6, name="a"), name="b")
    output = mx.sym.flatten(mx.sym.Pooling(mx.sym.Convolution(data, kernel=(1, 1), num_filter=6, name="a"),
                                           global_pool=True, kernel=(1, 1), pool_type="avg"))
    for net in (grouped, norm, output):
        graph = as_graph(net, tmp_path)
        arg_params, aux_params = random_params(net, (1, 3, 4, 4))
        widened, params = pad_channels(graph, arg_params | aux_params, 16)
        assert filters(widened) == filters(graph)
        assert all(params[name].shape == array.shape for name, array in arg_params.items())

"""Widened networks answer as MXNet answers for the narrow ones."""
import json

import numpy as np
import pytest

from common.checkpoint.fold import fold_batch_norm
from common.checkpoint.symbol import load_symbol
from common.compiler.channel_padding import pad_channels
from common.find_mxnet import mx
from symbols.mobilenetv2 import get_symbol
from tests.networks import random_params


def as_graph(symbol, folder):
    symbol.save(str(folder / "net-symbol.json"))
    return load_symbol(folder / "net-symbol.json")


def answers(graph, params, data):
    """MXNet's, of a graph of common.checkpoint.symbol."""
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


def one_by_one(data, name, filters=6, **options):
    return mx.sym.Convolution(data, kernel=(1, 1), num_filter=filters, name=name, **options)


def classifier(middle):
    """A convolution to 6 channels, `middle` of it, a convolution of that, and a fully connected layer."""
    net = one_by_one(middle(one_by_one(mx.sym.Variable("data"), "first")), "second", no_bias=True)
    return mx.sym.FullyConnected(mx.sym.flatten(net), num_hidden=3, name="fc")


DATA = np.random.RandomState(0).randn(2, 3, 4, 4).astype(np.float32)
SHARED = mx.sym.Variable("shared_weight")
NOT_UNDERSTOOD = {
    "groups": lambda net: one_by_one(net, "groups", num_group=2),
    "batch norm": lambda net: mx.sym.BatchNorm(net, name="norm"),
    "prelu": lambda net: mx.sym.LeakyReLU(net, act_type="prelu", name="prelu"),
    "parameter of each channel": lambda net: mx.sym.broadcast_add(net, mx.sym.Variable("shift", shape=(1, 6, 1, 1))),
    "shared weight": lambda net: one_by_one(one_by_one(net, "a", weight=SHARED), "b", weight=SHARED),
    "divisor": lambda net: 1 / net,
    "inner softmax": lambda net: mx.sym.softmax(net, axis=1),
    "fully connected of rows": lambda net: mx.sym.FullyConnected(net, num_hidden=5, flatten=False, name="rows"),
}


@pytest.mark.parametrize("kind", NOT_UNDERSTOOD)
def test_what_is_not_understood_stays(kind, tmp_path):
    net = classifier(NOT_UNDERSTOOD[kind])
    arguments, states = random_params(net, DATA.shape)
    graph, params = as_graph(net, tmp_path), arguments | states
    assert pad_channels(graph, params, 16) == (graph, params)


UNDERSTOOD = {
    "leaky": lambda net: mx.sym.LeakyReLU(net, act_type="leaky", slope=0.1),
    "elu": lambda net: mx.sym.LeakyReLU(net, act_type="elu", slope=0.3),
    "scalars": lambda net: (3 - (net + 1) * 2) / 4,
    "sum of both": lambda net: mx.sym.broadcast_add(net, mx.sym.Pooling(net, global_pool=True, kernel=(1, 1),
                                                                        pool_type="avg")),
}


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_what_each_channel_is_of_itself_is_widened(kind, tmp_path):
    net = classifier(UNDERSTOOD[kind])
    graph, params = as_graph(net, tmp_path), random_params(net, DATA.shape)[0]
    widened, more = pad_channels(graph, params, 16)
    assert filters(widened) == [16, 16]
    assert np.abs(answers(widened, more, DATA) - answers(graph, params, DATA)).max() < 2e-5


def test_the_output_stays(tmp_path):
    net = mx.sym.flatten(mx.sym.Pooling(one_by_one(mx.sym.Variable("data"), "a"), global_pool=True, kernel=(1, 1),
                                        pool_type="avg"))
    graph, params = as_graph(net, tmp_path), random_params(net, DATA.shape)[0]
    widened, more = pad_channels(graph, params, 16)
    assert filters(widened) == [6] and all(more[name].shape == array.shape for name, array in params.items())

import json

import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, load, network_of, parameter_shapes, save
from common.checkpoint.preprocessing import Preprocessing
from common.find_mxnet import mx
from symbols import mobilenetv2, mobilenetv2_gluon
from symbols.architecture import REPEATS, widths
from symbols.mobilenetv2_json import get_graph
from tests.networks import forward, random_params

DEEP = {"channels": (32, 16, 24, 32, 72, 104, 176, 352, 1280), "repeats": (1, 3, 4, 5, 4, 4, 1)}  # timm's 110d
NETWORKS = (
    {"channels": widths(0.35), "repeats": REPEATS, "strides": "published", "padding": "symmetric",
     "activation": "relu6"},
    {"channels": widths(1.4), "repeats": REPEATS, "strides": "first", "padding": "symmetric", "activation": "relu"},
    {"channels": widths(0.5), "repeats": REPEATS, "strides": "published", "padding": "same",
     "image_shape": (3, 97, 96), "activation": "relu6"},
    {**DEEP, "strides": "first", "padding": "same", "image_shape": (3, 224, 224), "activation": "relu"},
)


def checkpoint_of(network, classes=10, seed=0, preprocessing=Preprocessing()):  # noqa: B008
    symbol = mobilenetv2.get_symbol(classes, **network)
    return Checkpoint(network, classes, *random_params(symbol, (1, *(network.get("image_shape") or (3, 64, 64))), seed),
                      preprocessing)


@pytest.mark.parametrize("network", NETWORKS)
def test_mxnet_loads_what_is_saved_and_computes_it(tmp_path, network):
    checkpoint = checkpoint_of(network)
    save(checkpoint, tmp_path / "new" / "x", 3)
    x = np.random.RandomState(1).normal(0, 1, (2, *(network.get("image_shape") or (3, 64, 64)))).astype(np.float32)
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(tmp_path / "new" / "x"), 3)
    executor = symbol.simple_bind(mx.cpu(), data=x.shape, grad_req="null")
    executor.copy_params_from(arg_params, aux_params)
    expected = forward({**checkpoint.arg_params, **checkpoint.aux_params}, x, network["strides"], network["padding"],
                       network["repeats"], network["activation"])
    np.testing.assert_allclose(executor.forward(data=mx.nd.array(x))[0].asnumpy(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_load_gives_back_what_was_saved(tmp_path, network):
    size = max(network.get("image_shape", (3, 224, 224)))
    saved = checkpoint_of(network, preprocessing=Preprocessing(size + 9, size, (1.5, 2.0, 3.0), (4.0, 5.0, 6.5)))
    save(saved, tmp_path / "x", 7)
    loaded = load(tmp_path / "x", 7)
    assert (loaded.num_classes, loaded.preprocessing) == (10, saved.preprocessing)
    assert get_graph(**loaded.network) == get_graph(**network), "another image shape may pad alike"
    for group, wanted in zip(loaded[2:4], saved[2:4]):
        assert set(group) == set(wanted)
        assert all(np.array_equal(group[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("definition", [mobilenetv2, mobilenetv2_gluon])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_symbol_is_recognised(definition, network):
    graph = json.loads(definition.get_symbol(10, **network).tojson())
    params = {name: np.empty(shape, np.float32) for name, shape in parameter_shapes(network, 10)[0].items()}
    assert get_graph(**network_of(graph, params, "x")) == get_graph(**network)


def test_the_symbol_of_real_weights_is_recognised(testdata):
    checkpoint = load(testdata / "pretrained" / "imagenet1k-mnetv2-1_0", 0)
    assert checkpoint.network == {**checkpoint.network, "channels": widths(), "repeats": REPEATS,
                                  "strides": "published", "padding": "symmetric", "activation": "relu6"}
    assert checkpoint.num_classes == 1000


def changed(name, **attributes):
    def change(graph):
        node = next(node for node in graph["nodes"] if node["name"] == name)
        node["attrs"] = {**node.get("attrs", {}), **attributes}
    return change


def other_input(name, of):
    def change(graph):
        names = [node["name"] for node in graph["nodes"]]
        graph["nodes"][names.index(name)]["inputs"][0][0] = names.index(of)
    return change


@pytest.mark.parametrize("change", [
    changed("first-3x3-conv-conv2d", stride="(1, 1)"),
    changed("first-3x3-conv-conv2d", pad="(0, 0)"),
    changed("seq-1-block0-depthwise-conv2d", num_group="1"),
    changed("seq-1-block0-depthwise-conv2d", dilate="(2, 2)"),
    changed("seq-1-block0-depthwise-batchnorm", eps="0.001"),
    changed("seq-1-block0-depthwise-batchnorm", fix_gamma="True"),
    changed("seq-1-block0-depthwise-relu6", a_max="4"),
    changed("seq-3-block0-depthwise-conv2d", stride="(1, 1)"),
    changed("global_pool", pool_type="max"),
    other_input("seq-2-block1-shortcut", of="seq-1-block0-linear-batchnorm"),
    other_input("global_pool", of="seq-6-block0-linear-batchnorm"),
])
def test_another_network_under_the_same_names_is_refused(change):
    network = NETWORKS[0]
    graph = get_graph(10, **network)
    params = {name: np.empty(shape, np.float32) for name, shape in parameter_shapes(network, 10)[0].items()}
    change(graph)
    with pytest.raises(InputError, match="^x: its symbol is not that of this repository's MobileNetV2"):
        network_of(graph, params, "x")


@pytest.mark.parametrize(("change", "message"), [
    (lambda arguments, states: arguments.pop("fc_bias"), "has no fc_bias"),
    (lambda arguments, states: arguments.update(extra=np.zeros(1, np.float32)), "extra is no parameter"),
    (lambda arguments, states: arguments.update({"fc_weight": arguments["fc_weight"][:, :-1]}), "fc_weight has shape"),
    (lambda arguments, states: states["last-1x1-conv-batchnorm_moving_var"].fill(np.nan), "moving_var holds NaN"),
    (lambda arguments, states: arguments.pop("first-3x3-conv-conv2d_weight"), "does not hold the parameters"),
    (lambda arguments, states: arguments.pop("seq-6-block0-linear-conv2d_weight"), "does not hold the parameters"),
])
def test_parameters_that_do_not_fit_are_refused(tmp_path, change, message):
    checkpoint = checkpoint_of(NETWORKS[0])
    change(checkpoint.arg_params, checkpoint.aux_params)
    save(checkpoint, tmp_path / "x")
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path / "x", 0)
    assert str(error.value).startswith(f"{tmp_path}/x-0000.params: ") and "\n" not in str(error.value)

"""ONNX Runtime, and onnx's own reference evaluator, which share no code with MXNet, answer as MXNet does."""
import json

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from common.base.errors import InputError
from common.checkpoint.params import checkpoint_files, load_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing
from common.checkpoint.symbol import load_symbol
from common.conversion.onnx_build import OPSETS
from common.conversion.onnx_model import to_onnx
from common.evaluation.score import predict
from common.find_mxnet import mx
from common.images.preprocess import preprocess, read_image
from symbols.mobilenetv2 import get_symbol
from symbols.mobilenetv2_gluon import MobileNetV2
from tests.networks import random_params

sym = mx.sym
DATA = sym.Variable("data")
# random weights give logits of 10 and more, whose rounding puts MXNet itself 2e-5 from a computation in float64
ATOL = 5e-5


def checkpoint_of(symbol, x, tmp_path, seed=0):
    """(graph, params) with random weights, and MXNet's own answer to `x`, through a checkpoint's two files."""
    arg_params, aux_params = random_params(symbol, x.shape, seed)
    mx.model.save_checkpoint(str(tmp_path / "x"), 0, symbol, *({name: mx.nd.array(array) for name, array in p.items()}
                                                               for p in (arg_params, aux_params)))
    return load_symbol(tmp_path / "x-symbol.json"), {**arg_params, **aux_params}, predict(tmp_path / "x", 0, x)


def run(model, x):
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer, = session.run(None, {"data": x})
    return answer


def reference(model, x):
    """What onnx's definitions of the operators, in NumPy, give."""
    answer, = ReferenceEvaluator(model).run(None, {"data": x})
    return answer


def metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def images(*shape, seed=1):
    return np.random.RandomState(seed).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("multiplier, size, options", [
    (0.35, 64, {}), (0.35, 96, {"padding": "same"}), (0.35, 75, {"padding": "same"}), (0.35, 64, {"strides": "first"}),
    *(pytest.param(multiplier, size, options, marks=pytest.mark.long)
      for multiplier in (0.35, 1.0, 1.4) for size in (64, 160, 224)
      for options in ({}, {"padding": "same"}, {"strides": "first"}, {"padding": "same", "strides": "first"})),
])
def test_equals_mxnet(tmp_path, multiplier, size, options):
    image_shape = (3, size, size) if "padding" in options else None
    symbol = get_symbol(100, multiplier, image_shape=image_shape, **options)
    x = images(3, 3, size, size)
    graph, params, expected = checkpoint_of(symbol, x, tmp_path)
    for fold in (False, True):
        model = to_onnx(graph, params, (3, size, size), fold)
        assert ("BatchNormalization" in {node.op_type for node in model.graph.node}) is not fold
        np.testing.assert_allclose(run(model, x), expected, atol=ATOL)
        np.testing.assert_allclose(run(model, x[:1]), expected[:1], atol=ATOL)
        assert model.SerializeToString() == to_onnx(graph, params, (1, 3, size, size), fold).SerializeToString()


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset(tmp_path, opset):
    """At 13, onnx's own reference blends a batch's statistics into BatchNorm."""
    x = images(2, 3, 33, 32)
    graph, params, expected = checkpoint_of(get_symbol(10, 0.1), x, tmp_path)
    for fold in (False, True):
        model = to_onnx(graph, params, x.shape, fold, opset=opset)
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": opset}
        np.testing.assert_allclose(run(model, x), expected, atol=ATOL)
        if opset > 13 or fold:
            np.testing.assert_allclose(reference(model, x), expected, atol=ATOL)


def test_what_a_user_of_the_model_sees(tmp_path):
    x = images(1, 3, 64, 48)
    graph, params, _ = checkpoint_of(get_symbol(10, 0.1), x, tmp_path)
    model = to_onnx(graph, params, x.shape)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (data,), (softmax,) = session.get_inputs(), session.get_outputs()
    assert (data.name, data.shape, data.type) == ("data", ["N", 3, 64, 48], "tensor(float)")
    assert (softmax.name, softmax.shape, softmax.type) == ("softmax", ["N", 10], "tensor(float)")
    assert model.producer_name == "MobileNetV2 for MXNet"
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17} and model.ir_version == 8
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert all((weights[name] == array).all() for name, array in params.items())
    assert {"first-3x3-conv-conv2d", "seq-6-block0-linear-batchnorm", "fc"} < {node.name for node in model.graph.node}
    assert json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"]) == {
        "resize": round(64 * 256 / 224), "crop": 64, "mean": [123.68, 116.78, 103.94], "std": [1, 1, 1]}


@pytest.mark.parametrize("mean, std", [(Preprocessing().mean, (1, 1, 1)), ((127.5, 127, 128), (127.5, 58.4, 57.1))])
def test_pixels_are_normalised_in_the_model(tmp_path, mean, std):
    photograph = np.random.RandomState(0).randint(0, 256, (80, 90, 3)).astype(np.uint8)
    wants = Preprocessing(mean=mean, std=std)
    x = preprocess(photograph, (3, 64, 64), wants)
    graph, params, expected = checkpoint_of(get_symbol(10, 0.35), x, tmp_path)
    pixels = preprocess(photograph, (3, 64, 64), wants._replace(mean=(0, 0, 0), std=(1, 1, 1)))
    assert pixels.min() >= 0 and pixels.max() > 200
    model = to_onnx(graph, params, (3, 64, 64), preprocessing=wants, pixels=True)
    np.testing.assert_allclose(run(model, pixels), expected, atol=ATOL)
    assert json.loads(metadata(model)["preprocessing"])["mean"] == [0, 0, 0]
    without = to_onnx(graph, params, (3, 64, 64), preprocessing=wants)
    np.testing.assert_allclose(run(without, x), expected, atol=ATOL)
    assert json.loads(metadata(without)["preprocessing"]) == {"resize": 73, "crop": 64, "mean": [*mean], "std": [*std]}


@pytest.mark.parametrize("fold", [False, True])
def test_real_weights(testdata, fold):
    prefix = testdata / "pretrained" / "imagenet1k-mnetv2-1_0"
    symbol_file, params_file = checkpoint_files(prefix, 0)
    arg_params, aux_params = load_checkpoint_params(params_file)
    model = to_onnx(load_symbol(symbol_file), {**arg_params, **aux_params}, (3, 224, 224), fold)
    for image, best, probability in (("beagle_rot180.jpg", 162, 0.585), ("cat_rot180.jpg", 285, 0.370)):
        x = preprocess(read_image(testdata / "images" / image))
        ours, theirs = run(model, x)[0], predict(prefix, 0, x)[0]
        assert np.argsort(-ours)[:5].tolist() == np.argsort(-theirs)[:5].tolist()
        assert ours.argmax() == best and ours[best] == pytest.approx(probability, abs=0.02)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("make", [
    lambda: MobileNetV2(10, 0.35), lambda: mx.gluon.model_zoo.vision.get_mobilenet_v2(0.25, classes=10),
    lambda: mx.gluon.model_zoo.vision.get_mobilenet(0.25, classes=10),
    pytest.param(lambda: mx.gluon.model_zoo.vision.resnet18_v2(classes=10), marks=pytest.mark.long),
], ids=["ours", "mobilenetv2 of the zoo", "mobilenet of the zoo", "resnet of the zoo"])
def test_exports_of_gluon_end_in_probabilities(tmp_path, make):
    x = images(2, 3, 64, 64)
    net = make()
    net.initialize(mx.init.Xavier())
    net.hybridize()
    expected = mx.nd.softmax(net(mx.nd.array(x))).asnumpy()
    net.export(str(tmp_path / "x"))
    arg_params, aux_params = load_checkpoint_params(tmp_path / "x-0000.params")
    for fold in (False, True):
        model = to_onnx(load_symbol(tmp_path / "x-symbol.json"), {**arg_params, **aux_params}, (3, 64, 64), fold)
        assert model.graph.output[0].name == "softmax"
        np.testing.assert_allclose(run(model, x), expected, atol=ATOL)


def check_answers(model, x, expected):
    """To 1e-6 of probabilities, 1e-5 of logits."""
    for answer in (run(model, x), reference(model, x)):
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6 if expected.max() <= 1 else 1e-5)


def foreign_head(kind, data):
    """The ends of two public repositories' networks, in their words."""
    pooled = sym.Pooling(data, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool6")
    if kind == "a convolution, and its name twice":
        classes = sym.Convolution(pooled, num_filter=10, kernel=(1, 1), name="fc7")
        return sym.SoftmaxOutput(sym.Flatten(classes, name="fc7"), name="prob")
    return sym.FullyConnected(sym.Reshape(pooled, shape=(0, -1)), num_hidden=10, name="dense1")


@pytest.mark.parametrize("kind, output", [("a convolution, and its name twice", "probabilities"), ("logits", "logits")])
def test_networks_with_names_of_others(tmp_path, kind, output):
    data = sym.Activation(sym.BatchNorm(sym.Convolution(DATA, num_filter=8, kernel=(3, 3), stride=(2, 2), no_bias=True),
                                        fix_gamma=False, eps=1e-4), act_type="relu")
    symbol, x = foreign_head(kind, data), images(2, 3, 32, 32)
    graph, params, probabilities = checkpoint_of(symbol, x, tmp_path)
    for fold in (False, True):
        check_answers(to_onnx(graph, params, x.shape, fold), x, probabilities)
    graph = load_symbol(tmp_path / "x-symbol.json", with_softmax=False)
    model = to_onnx(graph, params, x.shape)
    assert metadata(model)["output"] == output
    check_answers(model, x, answer_of(symbol, params, x))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    if output == "probabilities":
        assert names[-3:] == ["fc7", "fc7_1", "prob"] and {"fc7_weight", "fc7_bias"} < {
            tensor.name for tensor in model.graph.initializer}


def answer_of(symbol, params, x):
    """MXNet's own, without the softmax that is added to logits elsewhere."""
    label = {name: mx.nd.zeros(len(x)) for name in symbol.list_arguments() if name.endswith("label")}
    arrays = {name: mx.nd.array(array) for name, array in params.items()} | label
    executor = symbol.bind(mx.cpu(), {name: arrays.get(name, mx.nd.array(x)) for name in symbol.list_arguments()},
                           aux_states={name: arrays[name] for name in symbol.list_auxiliary_states()}, grad_req="null")
    return executor.forward(is_train=False)[0].asnumpy()


@pytest.mark.parametrize("name", ["caffe-relu-fc7", "gluon-expandedconv"])
def test_two_public_networks(testdata, tmp_path, name):
    path = testdata / "cases" / "foreign" / f"{name}-symbol.json"
    symbol, x = sym.load(str(path)), images(1, 3, 64, 64)
    arg_params, aux_params = random_params(symbol, x.shape)
    # weights that keep sums small, but for the classifier before a softmax: no class is certain, all differ
    scale = {"weight": 0.5 ** 0.5, "fc7_weight": 3}
    params = {name: array * np.float32(scale.get(name) or scale.get(name.rpartition("_")[2], 1))
              for name, array in (arg_params | aux_params).items() if not name.endswith("_label")}
    expected = answer_of(symbol, params, x)
    for fold in (False, True):
        check_answers(to_onnx(load_symbol(path, with_softmax=False), params, x.shape, fold), x, expected)


def test_names_give_way_to_those_that_come_first(tmp_path):
    """Parameters' before all; numbers behind a name are none that another node has."""
    data = sym.Convolution(DATA, num_filter=4, kernel=(3, 3), name="a")
    data = sym.relu(sym.clip(sym.sigmoid(data, name="a"), 0.2, 0.7, name="a_weight"), name="a_1")
    symbol = sym.softmax(sym.Flatten(sym.tanh(data, name="data"), name="a_weight_min"), name="softmax")
    x = images(2, 3, 8, 8)
    graph, params, expected = checkpoint_of(symbol, x, tmp_path)
    model = to_onnx(graph, params, x.shape)
    check_answers(model, x, expected)
    assert [node.name for node in model.graph.node] == ["a", "a_2", "a_weight_1", "a_1", "data_1", "a_weight_min",
                                                        "softmax"]
    assert {"a_weight", "a_bias"} < {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("shape", [
    (0, -1), (-1, 36), (0, 36), (-1, 4, 9), (0, 0, -1), (0, 0, -3), (-2,), (0, -4, 2, -1, -3), (0, -4, -1, 2, -2),
    (0, 3, -1, 2), (0, -1, 3), (-1, 2, 18), (-1, 0, 0, 0)])
def test_reshape_by_mxnets_codes(tmp_path, shape):
    x = images(2, 4, 3, 3)
    graph, params, expected = checkpoint_of(sym.softmax(sym.Flatten(sym.Reshape(DATA, shape=shape))), x, tmp_path)
    check_answers(to_onnx(graph, params, x.shape), x, expected)
    axis = sym.softmax(sym.Flatten(sym.softmax(sym.Reshape(DATA, shape=shape), axis=1)))  # which depends on the shape
    graph, params, expected = checkpoint_of(axis, x, tmp_path)
    check_answers(to_onnx(graph, params, x.shape), x, expected)


LAYERS = {
    "convolution": sym.Convolution(DATA, num_filter=6, kernel=(3, 2), stride=(2, 1), pad=(0, 1), dilate=(2, 3),
                                   num_group=2),
    "a 1x1 convolution, without what has defaults": sym.Convolution(DATA, num_filter=6, kernel=(1, 1), no_bias=True),
    "MXNet's defaults of BatchNorm": sym.BatchNorm(DATA),
    "BatchNorm": sym.BatchNorm(DATA, fix_gamma=False, eps=0.1, use_global_stats=True),
    "BatchNorm after a convolution": sym.BatchNorm(sym.Convolution(DATA, num_filter=6, kernel=(3, 3))),
    "clip": sym.clip(DATA, -0.5, 0.25),
    **{kind: sym.Activation(DATA, act_type=kind) for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")},
    **{f"{op.__name__} alone": op(DATA) for op in (sym.relu, sym.sigmoid, sym.tanh)},
    "leaky": sym.LeakyReLU(DATA), "elu": sym.LeakyReLU(DATA, act_type="elu", slope=0.7),
    "prelu": sym.LeakyReLU(DATA, act_type="prelu"),
    "sum": DATA + sym.relu(DATA), "difference": sym.elemwise_sub(DATA, sym.relu(DATA)),
    "product": sym.broadcast_mul(DATA, sym.relu(DATA)), "quotient": sym.broadcast_div(DATA, sym.sigmoid(DATA)),
    "scalars": 3 - (2 / (((sym.sigmoid(DATA) + 1.5) * 0.3 - 0.1) / 7)),
    "global average": sym.Pooling(DATA, global_pool=True, pool_type="avg", kernel=(1, 1)),
    "global maximum": sym.Pooling(DATA, global_pool=True, pool_type="max"),
    **{f"{kind} pooling, {convention}": sym.Pooling(DATA, kernel=(3, 4), stride=(2, 3), pool_type=kind,
                                                    pooling_convention=convention)
       for kind in ("avg", "max") for convention in ("valid", "full")},
    **{f"{kind} pooling, {convention}, padded": sym.Pooling(
        DATA, kernel=(3, 4), stride=(2, 2), pad=(1, 2), pool_type=kind, pooling_convention=convention,
        count_include_pad=False)
       for kind in ("avg", "max") for convention in ("valid", "full")},
    "average over the padding": sym.Pooling(DATA, kernel=(3, 3), pad=(1, 1), pool_type="avg"),
    "flatten and dropout": sym.Dropout(sym.Flatten(DATA)),
    "FullyConnected of maps": sym.FullyConnected(DATA, num_hidden=7, no_bias=True),
    "two FullyConnected": sym.FullyConnected(sym.FullyConnected(DATA, num_hidden=7), num_hidden=5, flatten=False),
    "padding": sym.pad(DATA, mode="constant", constant_value=1.5, pad_width=(0, 0, 0, 0, 1, 2, 3, 4)),
    "gradients stopped": sym.BlockGrad(sym.identity(DATA)),
    "softmax over channels": sym.softmax(DATA, axis=1),
    "float16": sym.Cast(sym.relu(sym.Cast(DATA, dtype="float16")), dtype="float32"),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("height, width", [(11, 14), (12, 13)])
def test_each_operator_equals_mxnet(tmp_path, name, height, width):
    x = images(2, 4, height, width)
    symbol = sym.softmax(sym.Flatten(LAYERS[name]), name="softmax")
    graph, params, expected = checkpoint_of(symbol, x, tmp_path)
    atol = 1e-3 if name == "float16" else 1e-6
    for fold in (False, True):
        np.testing.assert_allclose(run(to_onnx(graph, params, x.shape, fold), x), expected, atol=atol)


@pytest.mark.parametrize("softmax", [sym.SoftmaxOutput, sym.SoftmaxActivation, sym.softmax])
def test_every_softmax(tmp_path, softmax):
    x = images(2, 3, 4, 4)
    graph, params, expected = checkpoint_of(softmax(sym.FullyConnected(DATA, num_hidden=5)), x, tmp_path)
    np.testing.assert_allclose(run(to_onnx(graph, params, x.shape), x), expected, atol=1e-6)


@pytest.mark.parametrize("layer, message", [
    (sym.sqrt(DATA, name="root"), r"'root' \(sqrt\): this operator cannot be converted"),
    (sym.Pooling(DATA, kernel=(2, 2), pool_type="sum", name="p"), r"'p' \(Pooling\): pool_type is 'sum'"),
    (sym.Pooling(DATA, kernel=(2, 2), stride=(3, 3), pooling_convention="full"), "windows that may lie outside"),
    (sym.Pooling(DATA, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", pooling_convention="full"),
     "incomplete windows"),
    (sym.broadcast_add(DATA, sym.Pooling(DATA, global_pool=True)), "only two inputs of equal shapes"),
    (sym.BatchNorm(DATA, axis=2), "axis is 2"),
    (sym.Dropout(DATA, mode="always"), "mode is 'always'"),
    (sym.Cast(DATA, dtype="int32"), "dtype is 'int32'"),
    (sym.FullyConnected(DATA, num_hidden=4, flatten=False), "flatten is False"),
    (sym.pad(DATA, mode="edge", pad_width=(0, 0, 0, 0, 1, 1, 1, 1)), "mode is 'edge'"),
    (sym.softmax(DATA, temperature=2.0), "temperature is '2.0'"),
    *((sym.Reshape(DATA, **options), message) for options, message in (
        ({"shape": (1, -1)}, "keeps each image"), ({"shape": (-1, 9)}, "keeps each image"),
        ({"shape": (-3, -3)}, "keeps each image"), ({"shape": (-1,)}, "keeps each image"),
        ({"shape": (0, -1), "reverse": True}, "reverse is True"))),
])
def test_what_it_cannot_convert_is_refused_by_name(tmp_path, layer, message):
    sym.softmax(sym.Flatten(layer)).save(str(tmp_path / "x-symbol.json"))
    graph = load_symbol(tmp_path / "x-symbol.json")
    shapes = layer.infer_shape_partial(data=(1, 4, 9, 9))
    names = layer.list_arguments() + layer.list_auxiliary_states()
    params = {name: np.ones(shape, np.float32) for name, shape in zip(names, shapes[0] + shapes[2])}
    with pytest.raises(InputError, match=message) as error:
        to_onnx(graph, params, (4, 9, 9))
    assert "\n" not in str(error.value)


def test_an_image_too_small_for_the_network_is_refused(tmp_path):
    x = images(1, 3, 9, 9)
    symbol = sym.softmax(sym.Flatten(sym.Convolution(DATA, num_filter=4, kernel=(7, 7), name="wide")))
    graph, params, expected = checkpoint_of(symbol, x, tmp_path)
    np.testing.assert_allclose(run(to_onnx(graph, params, x.shape), x), expected, atol=1e-6)
    with pytest.raises(InputError, match="'wide' .*the image is too small"):
        to_onnx(graph, params, (3, 9, 6))


def test_a_map_is_no_answer(tmp_path):
    sym.softmax(DATA, name="map").save(str(tmp_path / "x-symbol.json"))
    with pytest.raises(InputError, match="ends in 'map'"):
        to_onnx(load_symbol(tmp_path / "x-symbol.json"), {}, (3, 9, 9))


def test_parameters_that_do_not_fit_are_refused(tmp_path):
    x = images(1, 3, 32, 32)
    graph, params, expected = checkpoint_of(get_symbol(10, 0.1), x, tmp_path)
    mean, kernel = "seq-3-block2-exp-batchnorm_moving_mean", "seq-0-block0-depthwise-conv2d_weight"
    for wrong, message in (({"fc_bias": np.ones(11)}, r"'fc' .*'fc_bias' has shape \(11,\), not \(10,\)"),
                           ({mean: params[mean][1:]}, f"{mean}.* has shape"),
                           ({kernel: params[kernel][:, :, :2]}, f"{kernel}.* has shape"),
                           ({mean: params[mean].astype(np.int32)}, f"{mean}.* is int32")):
        for fold in (False, True):
            with pytest.raises(InputError, match=message):
                to_onnx(graph, {**params, **wrong}, x.shape, fold)
    del params[mean]
    with pytest.raises(InputError, match=f"lack '{mean}'"):
        to_onnx(graph, params, x.shape)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_parameters_of_other_precisions_become_float32(tmp_path, dtype):
    x = images(1, 3, 32, 32)
    graph, params, _ = checkpoint_of(get_symbol(10, 0.1), x, tmp_path)
    other = {name: array.astype(dtype) for name, array in params.items()}
    same = {name: array.astype(np.float32) for name, array in other.items()}
    assert to_onnx(graph, other, x.shape).SerializeToString() == to_onnx(graph, same, x.shape).SerializeToString()

"""--from onnx: each form that exporters give the network, run by ONNX Runtime as it is, against the converted
parameters, run by tests.networks; and our own export, out and in again."""
import itertools
import json
import sys

import numpy as np
import onnx
import onnxruntime
import onnxruntime.quantization
import pytest
from onnx import TensorProto, helper, numpy_helper

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, checked, network_of
from common.checkpoint.preprocessing import Preprocessing
from common.conversion.convert import convert
from common.conversion.onnx_model import to_onnx
from symbols.mobilenetv2_json import get_graph
from tests.networks import forward
from tests.onnx_forms import MEAN, SIZE, STD, Form, model_of, params_of

ATOL = 2e-5
NEWEST = 25 if sys.version_info >= (3, 11) else 23  # of the last ONNX Runtime for this Python
FORMS = {
    "PyTorch, old exporter": Form(opset=13, constants="Constant", softmax=False),
    "PyTorch, dynamo": Form(opset=20, pooling="ReduceMean", flattening="Reshape"),
    "PyTorch, BatchNorm kept": Form(opset=9, batchnorm="BatchNormalization"),
    "tf2onnx": Form(opset=15, layout="NHWC", padding="same", batchnorm="Mul and Add", pads="Pad", flattening="Squeeze",
                    classifier="MatMul and Add"),
    "tf2onnx of later opsets": Form(opset=18, layout="NHWC", padding="same", pooling="ReduceMean", flattening="none",
                                    classifier="MatMul and Add"),
    "NHWC everywhere": Form(layout="NHWC everywhere", padding="same", pads="auto_pad", batchnorm="BatchNormalization",
                            pooling="ReduceMean twice", flattening="Squeeze"),
    "pooled in NHWC": Form(layout="NHWC everywhere", padding="same", flattening="Reshape"),
    "opset 7": Form(opset=7, batchnorm="BatchNormalization", padding="same", pads="Pad", pooling="AveragePool"),
    "the newest opset": Form(opset=NEWEST, batchnorm="BatchNormalization", pooling="ReduceMean", flattening="Squeeze"),
    "Min and Max": Form(activation="Min and Max", constants="Identity"),
    "Max and Min": Form(activation="Max and Min", expanded=True),
    "Relu and Min": Form(activation="Relu and Min", opset=11),
    "Relu": Form(activation="Relu", network={"activation": "relu"}),
    "float16": Form(constants="float16", batchnorm="Mul and Add"),
    "reshaped by the number of images": Form(flattening="Reshape by Shape", classifier="Gemm without transB"),
    "a convolution as classifier": Form(classifier="Conv", pooling="AveragePool"),
    "the strides of the first version": Form(network={"strides": "first"}),
    "a size that is not known": Form(image=("H", "W"), padding="same", pads="Pad"),
    "dequantised weights": Form(constants="int8"),
    "dequantised weights of each channel": Form(constants="int8 by channel", opset=13),
}


def images(channels_last=False, seed=1):
    x = np.random.RandomState(seed).normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    return x.transpose(0, 2, 3, 1) if channels_last else x


def run(model, x):
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0].reshape(len(x), -1)


def softmax(logits):
    exponents = np.exp(logits.astype(np.float64))
    return exponents / exponents.sum(axis=1, keepdims=True)


def converted(tmp_path, model, **options):
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    return convert(tmp_path / "network.onnx", "onnx", **options)


def answer(checkpoint, x):
    """Of a checkpoint, by NumPy."""
    network = {key: checkpoint.network[key] for key in ("strides", "padding", "activation")}
    return forward(checkpoint.arg_params | checkpoint.aux_params, x, **network)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_answers_as_onnx_runtime_does(tmp_path, name):
    form, x = FORMS[name], images()
    model = model_of(form, params_of(form))
    expected = run(model, x if form.layout == "NCHW" else images(channels_last=True))
    checkpoint = converted(tmp_path, model)
    np.testing.assert_allclose(answer(checkpoint, x), expected if form.softmax else softmax(expected), atol=ATOL)
    assert (checkpoint.network["padding"], checkpoint.network["strides"]) == (
        form.padding, form.network.get("strides", "published"))
    assert checkpoint.network["activation"] == form.network.get("activation", "relu6")
    assert checkpoint.preprocessing.crop == (SIZE if form.image == (SIZE, SIZE) else 224)


def test_activations_of_few_bits_may_be_the_relu6(tmp_path):
    """As ONNX Runtime's quantiser leaves Clip out, where the bits hold 0..6."""
    form, x = Form(opset=21, activation="8 bits", constants="int8 by channel"), images()
    model = model_of(form, params_of(form))
    np.testing.assert_allclose(answer(converted(tmp_path, model), x), run(model, x), atol=2e-3)  # those are rounded


class Calibration(onnxruntime.quantization.CalibrationDataReader):
    def __init__(self):
        self._left = [{"image": images()}]

    def get_next(self):
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("channels, bits", [(False, "QInt8"), (True, "QUInt8"), (True, "QUInt16")])
def test_onnx_runtimes_own_quantiser(tmp_path, channels, bits):
    """QDQ: it leaves out the activations that the range of the calibration implies, and has biases of 32 bits."""
    form, quantiser = Form(softmax=False), onnxruntime.quantization
    onnx.save(model_of(form, params_of(form)), tmp_path / "float.onnx")
    quantiser.quantize_static(tmp_path / "float.onnx", tmp_path / "quantised.onnx", Calibration(), per_channel=channels,
                              quant_format=quantiser.QuantFormat.QDQ, activation_type=quantiser.QuantType[bits])
    model = onnx.load(tmp_path / "quantised.onnx")
    assert not nodes_of(model, "Clip") and len(nodes_of(model, "QuantizeLinear")) > 60
    found = answer(converted(tmp_path, model), images())
    unrounded(model)
    np.testing.assert_allclose(found, softmax(run(model, images())), atol=ATOL)


def unrounded(model):
    """Activations in floating point: what is quantised to bits from 0 on is limited to 0..6."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(limit), f"limit{limit}") for limit in (0, 6))
    for node in nodes_of(model, "QuantizeLinear"):
        zero = arrays[node.input[2]]
        node.op_type, node.domain = ("Clip" if zero == np.iinfo(zero.dtype).min else "Identity"), ""
        node.input[1:] = ["limit0", "limit6"] if node.op_type == "Clip" else []
    for node in nodes_of(model, "DequantizeLinear"):
        if node.input[0] not in arrays:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]


@pytest.mark.parametrize("normalisation", ["Sub and Div", "Mul and Add", "in 0..1"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_normalisation_becomes_the_preprocessing(tmp_path, normalisation, layout):
    form = Form(normalisation=normalisation, layout=layout)
    pixels = np.random.RandomState(2).uniform(0, 255, (2, 3, SIZE, SIZE)).astype(np.float32)
    images = pixels / np.float32(255) if normalisation == "in 0..1" else pixels
    model, lines = model_of(form, params_of(form)), []
    expected = run(model, images if layout == "NCHW" else images.transpose(0, 2, 3, 1))
    checkpoint = converted(tmp_path, model, tell=lines.append)
    mean, std = (np.float32(numbers) for numbers in checkpoint.preprocessing[2:])
    np.testing.assert_allclose(np.array([mean, std]), np.array([MEAN, STD]), rtol=3e-7)
    x = (pixels - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    np.testing.assert_allclose(answer(checkpoint, x), expected, atol=ATOL)
    assert any("0..1" in line for line in lines) is (normalisation == "in 0..1")


@pytest.mark.parametrize("padding, strides, activation, size, mean", [
    ("symmetric", "published", "relu6", 64, (123.68, 116.78, 103.94)), ("same", "first", "relu6", 64, (127.5,) * 3),
    ("symmetric", "first", "relu", 97, (123.675, 116.28, 103.53)), ("same", "published", "relu", 97, (0.0,) * 3)])
def test_out_and_in_again_is_the_same_checkpoint(tmp_path, padding, strides, activation, size, mean):
    network = {"strides": strides, "padding": padding, "activation": activation}
    form = Form(expanded=True, padding=padding, network=network)
    graph = get_graph(7, channels=(8, 6, 8, 10, 12, 14, 16, 18, 20), image_shape=(3, size, size), **network)
    params = params_of(form)
    states = {name: array for name, array in params.items() if "_moving_" in name}
    arguments = {name: array for name, array in params.items() if name not in states}
    before = checked(Checkpoint({"image_shape": None} | network_of(graph, arguments, "x", size), 7, arguments, states,
                                Preprocessing(size + 9, size, mean, (58.395, 57.12, 1.0))), "x")
    for fold, pixels in itertools.product((False, True), (False, True)):
        lines = []
        model = to_onnx(graph, params, (3, size, size), fold, before.preprocessing, pixels)
        after = converted(tmp_path, model, tell=lines.append)
        assert (after.network, after.preprocessing, lines) == (before.network, before.preprocessing, [])
        for old, new in ((before.arg_params, after.arg_params), (before.aux_params, after.aux_params)):
            assert list(old) == list(new)
            assert fold or all(np.array_equal(old[name], new[name]) for name in old)
        x = np.random.RandomState(3).normal(0, 1, (2, 3, size, size)).astype(np.float32)
        np.testing.assert_allclose(answer(after, x), answer(before, x), atol=ATOL)


def nodes_of(model, op):
    return [node for node in model.graph.node if node.op_type == op]


def set_attribute(node, name, value):
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def initializer(model, name):
    tensor, = (tensor for tensor in model.graph.initializer if tensor.name == name)
    return tensor


def another_activation(model):
    nodes_of(model, "Clip")[4].op_type = "HardSwish"
    del nodes_of(model, "HardSwish")[0].input[1:]


def another_limit(model):
    initializer(model, nodes_of(model, "Clip")[4].input[2]).CopyFrom(
        numpy_helper.from_array(np.float32(4), nodes_of(model, "Clip")[4].input[2]))


def dilation(model):
    set_attribute(nodes_of(model, "Conv")[3], "dilations", [2, 2])


def no_padding(model):
    set_attribute(nodes_of(model, "Conv")[5], "pads", [0] * 4)


def shortcut_from_elsewhere(model):
    """Of the projection of the first block of another stage."""
    nodes_of(model, "Add")[1].input[0] = nodes_of(model, "Conv")[3].output[0]


def shortcut_before_the_activation(model):
    nodes_of(model, "Add")[0].input[0] = nodes_of(model, "Conv")[0].output[0]


def another_pooling(model):
    nodes_of(model, "GlobalAveragePool")[0].op_type = "GlobalMaxPool"


def no_pooling(model):
    nodes_of(model, "Flatten")[0].input[0] = nodes_of(model, "Clip")[-1].output[0]


def another_branch(model):
    """The depthwise convolution and the shortcut of a block, each with the other's input."""
    depthwise, add = nodes_of(model, "Conv")[8], nodes_of(model, "Add")[0]
    depthwise.input[0], add.input[0] = add.input[0], depthwise.input[0]


def training(model):
    first = nodes_of(model, "Conv")[0]
    arrays = [numpy_helper.from_array(np.ones(8, np.float32), f"bn{i}") for i in range(4)]
    model.graph.initializer.extend(arrays)
    model.graph.node.insert(list(model.graph.node).index(first) + 1, helper.make_node(
        "BatchNormalization", ["convolved", *(array.name for array in arrays)], [first.output[0]], training_mode=1))
    first.output[0] = "convolved"


def two_outputs(model):
    model.graph.output.append(helper.make_tensor_value_info(nodes_of(model, "Gemm")[0].output[0], TensorProto.FLOAT,
                                                            None))


def weights_elsewhere(model):
    tensor = initializer(model, nodes_of(model, "Conv")[0].input[1])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def opset_6(model):
    model.opset_import[0].version = 6


def functions(model):
    model.functions.add(name="layer", domain="own")


def another_domain(model):
    nodes_of(model, "Conv")[1].domain = "com.example"


def huge_constant(model):
    """A bias that a small file makes of one number."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40, 8]), "huge"))
    model.graph.node.insert(0, helper.make_node("Expand", [nodes_of(model, "Conv")[0].input[2], "huge"], ["expanded"]))
    nodes_of(model, "Conv")[0].input[2] = "expanded"


def claimed_size(model):
    initializer(model, nodes_of(model, "Conv")[0].input[1]).dims[0] = 1 << 50


@pytest.mark.parametrize("change, reason", [
    (another_activation, "(HardSwish) where MobileNetV2 has a ReLU6"),
    (another_limit, "0..4"),
    (dilation, "dilations"),
    (no_padding, "padded neither as"),
    (shortcut_from_elsewhere, "shortcut"),
    (shortcut_before_the_activation, "adds what no step"),
    (another_pooling, "(GlobalMaxPool) where MobileNetV2 has a depthwise convolution or a pooling over the map"),
    (no_pooling, "(Flatten) changes the dimensions of a map"),
    (another_branch, "takes another value than the last"),
    (training, "model.eval()"),
    (two_outputs, "2 outputs"),
    (weights_elsewhere, "only a file beside it"),
    (opset_6, "opset 6"),
    (functions, "functions"),
    (another_domain, "(Conv) where MobileNetV2 has a convolution or a depthwise convolution"),
    (huge_constant, "more than its file can hold"),
    (claimed_size, "more than its file can hold"),
])
def test_another_network_is_refused_with_the_first_node_that_differs(tmp_path, change, reason):
    form = Form(expanded=True)
    model = model_of(form, params_of(form))
    change(model)
    with pytest.raises(InputError) as error:
        converted(tmp_path, model)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'network.onnx'}: ") and "\n" not in text
    assert reason in text


def test_padding_has_to_be_that_of_the_size_that_is_asked_for(tmp_path):
    form = Form(padding="same", pads="Pad")
    model = model_of(form, params_of(form))
    assert converted(tmp_path, model, image_shape=(3, 96, 96)).network["image_shape"] == (3, 96, 96)
    with pytest.raises(InputError, match="97x97"):
        converted(tmp_path, model, image_shape=(3, 97, 97))


def test_weights_in_a_file_beside_it(tmp_path):
    """As PyTorch's newer exporter leaves them."""
    form = Form(opset=20)
    model = model_of(form, params_of(form))
    expected = converted(tmp_path, model)
    onnx.save(model, tmp_path / "large.onnx", save_as_external_data=True, location="large.onnx.data", size_threshold=0)
    assert (tmp_path / "large.onnx").stat().st_size < (tmp_path / "large.onnx.data").stat().st_size
    found = convert(tmp_path / "large.onnx", "onnx")
    for name, array in expected.arg_params.items():
        np.testing.assert_array_equal(found.arg_params[name], array)
    content = (tmp_path / "large.onnx.data").read_bytes()
    (tmp_path / "large.onnx.data").write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError, match="large.onnx: "):
        convert(tmp_path / "large.onnx", "onnx")
    (tmp_path / "large.onnx.data").unlink()
    with pytest.raises(InputError, match="'large.onnx.data' beside it: No such file"):
        convert(tmp_path / "large.onnx", "onnx")


def test_metadata_of_others_is_not_followed(tmp_path):
    form = Form()
    model = model_of(form, params_of(form))
    for text in ("[", "[1]", json.dumps({"mean": 3})):
        helper.set_model_props(model, {"preprocessing": text})
        assert converted(tmp_path, model).preprocessing.crop == SIZE
    helper.set_model_props(model, {"preprocessing": json.dumps(Preprocessing()._asdict() | {"std": [0, 0, 0]})})
    with pytest.raises(InputError, match="std"):
        converted(tmp_path, model)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4 a zip", b"\x08\x08" * 1000])
def test_no_network_at_all(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(InputError) as error:
        convert(tmp_path / "x.onnx", "onnx")
    assert "\n" not in str(error.value)

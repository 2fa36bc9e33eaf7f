"""Reading .tflite files: those that TensorFlow's converter wrote (tests/converters/expected), and what becomes of them
when bytes are changed, so that they hold the same network, another, or none. What the networks answer is held against
TensorFlow Lite and Keras in tests/converters."""
import lzma
import resource
import struct
from functools import cache

import numpy as np
import pytest
import tflite
from tflite import ActivationFunctionType, BuiltinOperator, TensorType

from common.base.errors import InputError
from common.conversion.tflite import read_tflite
from tests.conftest import ROOT
from tests.converters.tflite_skeleton import fill

FLOAT32, INT8, NORMALISED = "float32", "uint8_input", "normalization"
CONV, DEPTHWISE, ADD = BuiltinOperator.CONV_2D, BuiltinOperator.DEPTHWISE_CONV_2D, BuiltinOperator.ADD
# fields, as TensorFlow's schema numbers them in their tables
GRAPH_INPUTS, GRAPH_OUTPUTS = 1, 2
TENSOR_TYPE, TENSOR_BUFFER = 1, 2
SCALES, ZERO_POINTS = 2, 3
INPUTS = 1  # of an operator
PADDING, STRIDE_W, STRIDE_H = 0, 1, 2  # of both kinds of convolution
CONV_ACTIVATION, DILATION_H, DEPTHWISE_ACTIVATION = 3, 5, 4
SOFTMAX_BETA = 0
MUL, SUB, DIV = BuiltinOperator.MUL, BuiltinOperator.SUB, BuiltinOperator.DIV
TENSOR_SHAPE, ARITHMETIC_ACTIVATION = 0, 0


@cache
def network(form) -> bytes:
    skeleton = ROOT / "tests" / "converters" / "expected" / f"{form}.tflite.xz"
    return fill(lzma.decompress(skeleton.read_bytes()), seed=1)


def read(tmp_path, content):
    (tmp_path / "network.tflite").write_bytes(content)
    return read_tflite(tmp_path / "network.tflite")


def refused(tmp_path, content) -> str:
    with pytest.raises(InputError) as error:
        read(tmp_path, content)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'network.tflite'}: ") and "\n" not in text
    return text


class Edited:
    """A file whose tables can be changed in place."""

    def __init__(self, form):
        self.content = bytearray(network(form))
        model = self.model = tflite.Model.GetRootAs(self.content)
        self.graph = model.Subgraphs(0)
        self.tensors = [self.graph.Tensors(i) for i in range(self.graph.TensorsLength())]
        self.operators = [self.graph.Operators(i) for i in range(self.graph.OperatorsLength())]

    def all_of(self, code):
        return [operator for operator in self.operators
                if self.model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() == code]

    def set(self, table, field, form, value):
        """Give a field of a table another value; `field` as TensorFlow's schema numbers it."""
        table, packed = getattr(table, "_tab", table), struct.pack(f"<{form}", value)
        place = 4 + 2 * field
        if offset := table.Offset(place):
            self.content[table.Pos + offset:table.Pos + offset + len(packed)] = packed
            return
        # a default, which is not in the file: a list of places of its own, with one where this value stands
        places = table.Pos - struct.unpack_from("<i", self.content, table.Pos)[0]
        own = self.content[places:places + struct.unpack_from("<H", self.content, places)[0]].ljust(place + 2, b"\0")
        at = self.content.index(packed, table.Pos + 4)
        struct.pack_into("<H", own, 0, len(own))
        struct.pack_into("<H", own, place, at - table.Pos)
        self.content += b"\0" * (-len(self.content) % 4)
        struct.pack_into("<i", self.content, table.Pos, table.Pos - len(self.content))
        self.content += own

    def set_element(self, table, field, number, form, value):
        """Another value for one element of four bytes of a vector; number -1 is the vector's length."""
        vector = table._tab.Vector(table._tab.Offset(4 + 2 * field))
        struct.pack_into(f"<{form}", self.content, vector + 4 * number, value)


def layers(params) -> list:
    """(weight, bias) of each, in the network's order."""
    return list(zip(*[iter(params.values())] * 2, strict=True))


def test_the_layers_of_the_real_file(tmp_path):
    params, description = read(tmp_path, network(FLOAT32))
    shapes = [weight.shape for weight, _ in layers(params)]
    assert len(shapes) == 53
    assert shapes[:4] == [(16, 3, 3, 3), (16, 1, 3, 3), (8, 16, 1, 1), (48, 8, 1, 1)]
    assert shapes[-2:] == [(1280, 112, 1, 1), (5, 1280)]
    assert all(weight.dtype == bias.dtype == np.float32 and bias.shape == weight.shape[:1]
               for weight, bias in layers(params))
    assert description == {"strides": "published", "padding": "same", "image_shape": (3, 40, 40), "activation": "relu6"}


def as_uint8(edited):
    """The 8-bit file in the older type: the same numbers, 128 more, of 0..255."""
    for tensor in edited.tensors:
        if tensor.Type() == TensorType.INT8:
            edited.set(tensor, TENSOR_TYPE, "b", TensorType.UINT8)
            buffer = edited.model.Buffers(tensor.Buffer())
            if buffer.DataLength():
                buffer.DataAsNumpy()[:] ^= 0x80
            tensor.Quantization().ZeroPointAsNumpy()[:] += 128


def assert_same_layers(found, expected):
    assert found[1] == expected[1]
    for (name, array), (other, other_array) in zip(found[0].items(), expected[0].items(), strict=True):
        assert name == other
        np.testing.assert_array_equal(array, other_array)


def test_the_older_8_bit_type_gives_the_same_weights(tmp_path):
    edited = Edited(INT8)
    as_uint8(edited)
    assert_same_layers(read(tmp_path, edited.content), read(tmp_path, network(INT8)))


def test_one_scale_for_a_whole_tensor(tmp_path):
    edited = Edited(INT8)
    weights = edited.tensors[edited.all_of(DEPTHWISE)[3].Inputs(1)]
    quantisation = weights.Quantization()
    numbers = edited.model.Buffers(weights.Buffer()).DataAsNumpy().view(np.int8).reshape(weights.ShapeAsNumpy())
    scale = quantisation.Scale(0)
    for vector in (SCALES, ZERO_POINTS):
        edited.set_element(quantisation, vector, -1, "I", 1)
    quantisation.ZeroPointAsNumpy()[:] = -3
    weight, _ = layers(read(tmp_path, edited.content)[0])[1 + 3 * 3]
    np.testing.assert_array_equal(weight[:, 0], (np.float32(scale) * (numbers[0] + np.float32(3))).transpose(2, 0, 1))


def test_relu_is_kept(tmp_path):
    edited = Edited(FLOAT32)
    for code, field in ((CONV, CONV_ACTIVATION), (DEPTHWISE, DEPTHWISE_ACTIVATION)):
        for operator in edited.all_of(code):
            table = operator.BuiltinOptions()
            if table.Offset(4 + 2 * field):  # else there is none
                edited.set(table, field, "b", ActivationFunctionType.RELU)
    params, description = read(tmp_path, edited.content)
    plain, _ = read(tmp_path, network(FLOAT32))
    assert description["activation"] == "relu" and all(np.array_equal(params[name], plain[name]) for name in plain)


def without_depthwise_activations(edited):
    for operator in edited.all_of(DEPTHWISE):
        edited.set(operator.BuiltinOptions(), DEPTHWISE_ACTIVATION, "b", ActivationFunctionType.NONE)


def test_8_bits_that_hold_0_to_6_stand_for_relu6(tmp_path):
    """Older converters leave out an activation that the quantisation of the result implies."""
    edited = Edited(INT8)
    without_depthwise_activations(edited)
    assert_same_layers(read(tmp_path, edited.content), read(tmp_path, network(INT8)))


@pytest.mark.parametrize("kind, zero", [(TensorType.UINT8, 100), (TensorType.INT8, -28)])  # -28 stands for byte 100
def test_the_bytes_of_an_8_bit_input_are_recorded_as_preprocessing(tmp_path, kind, zero):
    edited = Edited(INT8)
    images = edited.tensors[edited.graph.Inputs(0)]
    edited.set(images, TENSOR_TYPE, "b", kind)
    edited.set_element(images.Quantization(), SCALES, 0, "f", 1 / 64)
    images.Quantization().ZeroPointAsNumpy()[:] = zero
    preprocessing = read(tmp_path, edited.content)[1]["preprocessing"]
    assert preprocessing == {"mean": (100.0,) * 3, "std": (64.0,) * 3}


def with_code(edited, old, new):
    for place in range(edited.model.OperatorCodesLength()):
        code = edited.model.OperatorCodes(place)
        if code.BuiltinCode() == old:
            edited.set(code, 0, "b", new)
            edited.set(code, 3, "i", new)


@pytest.mark.parametrize("code, mean, std", [
    (SUB, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (ADD, (-0.485, -0.456, -0.406), (0.229, 0.224, 0.225)),
    (DIV, (0, 0, 0), (0.485 * 0.229, 0.456 * 0.224, 0.406 * 0.225)),
    (MUL, (0, 0, 0), (0.229 / 0.485, 0.224 / 0.456, 0.225 / 0.406))])
def test_arithmetic_before_the_first_convolution_is_preprocessing(tmp_path, code, mean, std):
    edited = Edited(NORMALISED)  # pixels / 255, SUB of the mean, MUL by 1 / the deviation
    with_code(edited, SUB, code)
    params, description = read(tmp_path, edited.content)
    assert len(layers(params)) == 53
    found = description["preprocessing"]
    np.testing.assert_allclose(found["mean"], 255 * np.array(mean), rtol=1e-6)
    np.testing.assert_allclose(found["std"], 255 * np.array(std), rtol=1e-6)


def test_a_mean_and_deviation_of_0_to_1_are_of_images_of_0_to_1(tmp_path):
    """Whose pixels the converted checkpoint takes as 0..255; a line says so."""
    edited = Edited(NORMALISED)
    images, = (tensor for tensor in edited.tensors if tensor.Type() == TensorType.UINT8)
    edited.set(images, TENSOR_TYPE, "b", TensorType.FLOAT32)
    scale = edited.tensors[edited.all_of(MUL)[0].Inputs(1)]
    for one, mean, note in ((1 / 255, 123.675, 0), (1.0, 123.675, 1), (1 / 4, 1.94, 0)):
        edited.model.Buffers(scale.Buffer()).DataAsNumpy().view("<f4")[:] = one
        description = read(tmp_path, edited.content)[1]
        assert len(description["notes"]) == note
        np.testing.assert_allclose(description["preprocessing"]["mean"][0], mean, rtol=1e-6)


def negative(edited):
    scale = edited.tensors[edited.all_of(MUL)[0].Inputs(1)]
    edited.model.Buffers(scale.Buffer()).DataAsNumpy().view("<f4")[:] *= -1


def zero(edited):
    edited.model.Buffers(edited.tensors[edited.all_of(MUL)[1].Inputs(1)].Buffer()).DataAsNumpy()[:] = 0


def clipped_pixels(edited):
    edited.set(edited.all_of(SUB)[0].BuiltinOptions(), ARITHMETIC_ACTIVATION, "b", ActivationFunctionType.RELU6)


def less_an_image(edited):
    """The mean less the image."""
    operator, = edited.all_of(SUB)
    image, constant = operator.Inputs(0), operator.Inputs(1)
    edited.set_element(operator, INPUTS, 0, "i", constant)
    edited.set_element(operator, INPUTS, 1, "i", image)


def across_rows(edited):
    """Of shape (3, 1): not a number for each colour."""
    other = edited.tensors[edited.all_of(SUB)[0].Inputs(1)]
    shape = other._tab.Vector(other._tab.Offset(4 + 2 * TENSOR_SHAPE))
    places = struct.unpack_from(f"<{other.ShapeLength()}i", edited.content, shape)
    assert sorted(places) == [1] * (len(places) - 1) + [3]
    struct.pack_into(f"<{len(places)}i", edited.content, shape, 3, *[1] * (len(places) - 1))


def images_again(edited):
    """Arithmetic with what is before the arithmetic."""
    later, earlier = edited.all_of(MUL)[1], edited.all_of(MUL)[0]
    edited.set_element(later, INPUTS, 0, "i", earlier.Inputs(0))


@pytest.mark.parametrize("change, reason", [
    (negative, "negatives"), (zero, "by 0"), (clipped_pixels, "no scaling of colours"),
    (less_an_image, "no scaling of colours"), (across_rows, "no scaling of colours"),
    (images_again, "is not where MobileNetV2 has it")])
def test_other_arithmetic_is_refused_with_the_reason(tmp_path, change, reason):
    edited = Edited(NORMALISED)
    change(edited)
    assert reason in refused(tmp_path, edited.content)


def test_an_edge_tpu_file_is_named_as_one(tmp_path):
    """Its custom operator, by the name that Google's compiler gives it, and what to give in its place."""
    edited = Edited(FLOAT32)
    code = edited.model.OperatorCodes(edited.all_of(BuiltinOperator.SOFTMAX)[0].OpcodeIndex())
    edited.set(code, 0, "b", BuiltinOperator.CUSTOM)
    edited.set(code, 3, "i", BuiltinOperator.CUSTOM)
    custom_code(edited, code, b"edgetpu-custom-op")
    message = refused(tmp_path, edited.content)
    assert "Edge TPU" in message and "edgetpu_compiler" in message


def custom_code(edited, table, text):
    """Give an operator's code its field custom_code, a text that is put at the end of the file."""
    table = table._tab
    places = table.Pos - struct.unpack_from("<i", edited.content, table.Pos)[0]
    own = edited.content[places:places + struct.unpack_from("<H", edited.content, places)[0]].ljust(8, b"\0")
    moved = bytearray(edited.content[table.Pos:table.Pos + struct.unpack_from("<H", own, 2)[0]])
    edited.content += b"\0" * (-len(edited.content) % 4)
    struct.pack_into("<H", own, 6, len(moved))  # the new field, behind the others
    struct.pack_into("<HH", own, 0, len(own), len(moved) + 4)
    own += b"\0" * (-len(own) % 4)
    at = len(edited.content) + len(own)
    struct.pack_into("<i", moved, 0, len(own))
    edited.content += own + moved + struct.pack("<I", 4) + struct.pack("<I", len(text)) + text + b"\0"
    codes = edited.model._tab
    vector = codes.Vector(codes.Offset(6))
    for place in range(edited.model.OperatorCodesLength()):
        entry = vector + 4 * place
        if entry + struct.unpack_from("<I", edited.content, entry)[0] == table.Pos:
            struct.pack_into("<I", edited.content, entry, at - entry)


def stride(edited):
    for field in (STRIDE_W, STRIDE_H):
        edited.set(edited.all_of(DEPTHWISE)[2].BuiltinOptions(), field, "i", 2)


def uneven_strides(edited):
    edited.set(edited.all_of(CONV)[0].BuiltinOptions(), STRIDE_W, "i", 1)


def dilation(edited):
    edited.set(edited.all_of(CONV)[0].BuiltinOptions(), DILATION_H, "i", 2)


def no_padding(edited):
    edited.set(edited.all_of(DEPTHWISE)[4].BuiltinOptions(), PADDING, "b", tflite.Padding.VALID)


def linear_head(edited):
    edited.set(edited.all_of(CONV)[-1].BuiltinOptions(), CONV_ACTIVATION, "b", ActivationFunctionType.NONE)


def relu(edited):
    edited.set(edited.all_of(CONV)[-1].BuiltinOptions(), CONV_ACTIVATION, "b", ActivationFunctionType.RELU)


def clipped_projection(edited):
    edited.set(edited.all_of(CONV)[3].BuiltinOptions(), CONV_ACTIVATION, "b", ActivationFunctionType.RELU6)


def shortcut_from_elsewhere(edited):
    operator = edited.all_of(ADD)[1]
    earlier = min((0, 1), key=operator.Inputs)
    edited.set_element(operator, INPUTS, earlier, "i", edited.operators[0].Outputs(0))


def sum_with_itself(edited):
    operator = edited.all_of(ADD)[0]
    later = max((0, 1), key=operator.Inputs)
    edited.set_element(operator, INPUTS, 1 - later, "i", operator.Inputs(later))


def another_operator(edited):
    softmax, = edited.all_of(BuiltinOperator.SOFTMAX)
    for field, form in ((0, "b"), (3, "i")):  # the older and the newer field
        edited.set(edited.model.OperatorCodes(softmax.OpcodeIndex()), field, form, BuiltinOperator.LOG_SOFTMAX)


def beta(edited):
    edited.set(edited.all_of(BuiltinOperator.SOFTMAX)[0].BuiltinOptions(), SOFTMAX_BETA, "f", 2.0)


def mean_over_channels(edited):
    axes = edited.tensors[edited.all_of(BuiltinOperator.MEAN)[0].Inputs(1)]
    edited.model.Buffers(axes.Buffer()).DataAsNumpy().view("<i4")[:] = (1, 3)


def passed_over(edited):
    """A convolution whose result is not used: the next one takes its input."""
    first, second = edited.all_of(CONV)[5:7]
    edited.set_element(second, INPUTS, 0, "i", first.Inputs(0))


def output_before_the_end(edited):
    edited.set_element(edited.graph, GRAPH_OUTPUTS, 0, "i", edited.operators[7].Outputs(0))


def no_weights(edited):
    edited.set(edited.tensors[edited.all_of(CONV)[5].Inputs(1)], TENSOR_BUFFER, "I", 0)  # by convention, an empty one


def whole_numbers_without_scale(edited):
    edited.set(edited.tensors[edited.all_of(CONV)[5].Inputs(1)], TENSOR_TYPE, "b", TensorType.INT32)


@pytest.mark.parametrize("change, reason", [
    (stride, "seq-1-block1-depthwise, has weights of shape (48, 1, 3, 3) and stride 2"),
    (uneven_strides, "strides (2, 1)"),
    (dilation, "dilations (2, 1)"),
    (no_padding, "padded neither as"),
    (linear_head, "last-1x1-conv, ends in another activation"),
    (relu, "last-1x1-conv, ends in another activation"),
    (without_depthwise_activations, "seq-0-block0-depthwise, ends in another activation"),
    (clipped_projection, "seq-1-block0-linear, ends in another activation"),
    (shortcut_from_elsewhere, "does not begin at its block's input"),
    (sum_with_itself, "does not begin at its block's input"),
    (another_operator, "LOG_SOFTMAX where MobileNetV2 has none"),
    (beta, "beta 2"),
    (mean_over_channels, "map"),
    (passed_over, "is not where MobileNetV2 has it"),
    (output_before_the_end, "output is not the result of its last operator"),
    (no_weights, "not in the file"),
    (whole_numbers_without_scale, "without a scale"),
])
def test_another_network_is_refused_with_the_reason(tmp_path, change, reason):
    edited = Edited(FLOAT32)
    change(edited)
    assert reason in refused(tmp_path, edited.content)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0\0\0\0TFL3", b"\x1c\0\0\0TFL3" + bytes(100),
                                     b"\xff\xff\xff\x7fTFL3" + bytes(100), b"PK\3\4 a zip"])
def test_no_network_at_all(tmp_path, content):
    refused(tmp_path, content)


def test_every_eighth_of_a_file(tmp_path):
    whole = network(INT8)
    for eighth in range(8):
        refused(tmp_path, whole[:len(whole) * eighth // 8])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_tflite(tmp_path / "none.tflite")


def mutated(content, rng):
    """A few of its bytes or words changed, mostly among the tables, or its end cut off."""
    content = bytearray(content)
    tables = np.concatenate([np.arange(8, 20_000), np.arange(len(content) - 200_000, len(content) - 8)])
    for _ in range(rng.randint(1, 6)):
        at = int(rng.choice(tables) if rng.rand() < 0.9 else rng.randint(8, len(content) - 8))
        what = rng.randint(4)
        if what == 0:
            content[at] ^= 1 << rng.randint(8)
        elif what == 1:
            struct.pack_into("<I", content, at // 4 * 4, int(rng.choice([0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1])))
        elif what == 2:
            struct.pack_into("<I", content, at // 4 * 4, rng.randint(len(content)))
        elif rng.rand() < 0.1:
            del content[at:]
            break
    return bytes(content)


@pytest.mark.parametrize("count", [20, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_mutated_files_are_read_or_refused(tmp_path, count):
    rng, refusals = np.random.RandomState(0), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(count):
        try:
            params, _ = read(tmp_path, mutated(network((FLOAT32, INT8, NORMALISED)[i % 3]), rng))
            assert len(layers(params)) == 53
        except InputError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert count // 20 < refusals < count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 ** 2  # KB

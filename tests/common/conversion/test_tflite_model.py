"""Writing .tflite files, read by the reader that TensorFlow's own files are held against. What LiteRT answers to them
is in tests/converters."""
import io
import json
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite
from tflite import BuiltinOperator, TensorType

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, load, save
from common.checkpoint.fold import fold_batch_norm
from common.checkpoint.int8 import Statistics, save_calibration
from common.checkpoint.preprocessing import Preprocessing
from common.conversion.assemble import IDENTITY, with_expansion
from common.conversion.tflite import read_tflite
from common.conversion.tflite_build import Build
from common.conversion.tflite_graph import Graph
from common.conversion.tflite_model import layers_of, to_tflite
from common.evaluation.score import predict
from common.images.class_names import save_synset
from symbols.architecture import REPEATS, widths
from symbols.mobilenetv2 import get_symbol
from tests.commands import refusal, run
from tests.networks import random_params
from tools import convert_weights, export_weights

COLOURS = Preprocessing(70, 64, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
GREY = Preprocessing(70, 64, (127.5,) * 3, (127.5,) * 3)
CODES = {np.int8: TensorType.INT8, np.uint8: TensorType.UINT8, np.float32: TensorType.FLOAT32}


def network(padding="symmetric", strides="published", activation="relu6", expanded=True, preprocessing=COLOURS,
            size=64):
    """A checkpoint with random weights. Without `expanded` the first block's expansion does nothing."""
    about = {"channels": widths(0.35), "repeats": REPEATS, "strides": strides, "padding": padding,
             "activation": activation, "image_shape": (3, size, size) if padding == "same" else None}
    groups = random_params(get_symbol(10, **about), (1, 3, size, size))
    if not expanded:
        params = groups[0] | groups[1]
        params = with_expansion({name: array for name, array in params.items() if IDENTITY not in name}, activation)
        groups = tuple({name: params[name] for name in group} for group in groups)
    return Checkpoint(about, 10, *groups, preprocessing)


def statistics(checkpoint):
    """Made-up ranges, each layer's its own, and means."""
    rng = np.random.RandomState(1)
    return {name: Statistics(-i / 10, 5 + i / 10, rng.normal(0, 1, channels), (-3 - i / 10, 4 + i / 10))
            for i, (name, channels) in enumerate(layers_of(checkpoint).items())}


def graph_of(content):
    graph = Graph(content)
    return graph, {graph.graph.Tensors(i).Name().decode(): i for i in range(graph.graph.TensorsLength())}


def codes_of(content):
    graph, tensors = graph_of(content)
    return [graph.code(operator) for operator in graph.operators], graph, tensors


@pytest.mark.parametrize(("size", "flags", "form"), [
    (64, (), {}), (97, ("--pixels",), {"expanded": False}), (97, (), {"padding": "same"}),
    (160, ("--pixels",), {"padding": "same", "activation": "relu", "expanded": False}),
    (64, (), {"strides": "first", "activation": "relu"})])
def test_a_file_comes_back_as_the_same_function(tmp_path, capsys, size, flags, form):
    """At 97 pixels both paddings are the same."""
    preprocessing = COLOURS._replace(resize=size + 9, crop=size)
    save(network(size=size, preprocessing=preprocessing, **form), tmp_path / "x")
    run(export_weights, tmp_path / "x", tmp_path / "x.tflite", "--to", "tflite", *flags)
    out = capsys.readouterr().out
    assert f"(1, {size}, {size}, 3)" in out and ("mean (0, 0, 0)" if flags else "mean (1.0, 2.0, 3.0)") in out
    run(convert_weights, tmp_path / "x.tflite", tmp_path / "back", "--from", "tflite")
    for end in ("-symbol.json", "-preprocess.json"):
        assert (tmp_path / f"back{end}").read_bytes() == (tmp_path / f"x{end}").read_bytes(), end
    x = np.random.RandomState(0).normal(0, 1, (2, 3, size, size)).astype(np.float32)
    expected = predict(tmp_path / "x", 0, x)
    assert expected.std() > 0.01
    np.testing.assert_allclose(predict(tmp_path / "back", 0, x), expected, atol=1e-5)

    codes, graph, _ = codes_of((tmp_path / "x.tflite").read_bytes())
    assert codes.count(BuiltinOperator.PAD) == (5 if form.get("padding") != "same" else 0)
    assert codes.count(BuiltinOperator.CONV_2D) == 37 - (not form.get("expanded", True))  # the classifier too
    assert codes.count(BuiltinOperator.DEPTHWISE_CONV_2D) == 17 + bool(flags)


def test_numbers_lie_where_processors_read_them_at_once():
    content = to_tflite(network(), (3, 64, 64), class_names=[f"n0000000{i} class {i}" for i in range(10)])
    model = tflite.Model.GetRootAs(content)
    starts = [buffer._tab.Vector(buffer._tab.Offset(4))
              for buffer in map(model.Buffers, range(model.BuffersLength())) if buffer.DataLength()]
    assert len(starts) > 100 and not any(start % 16 for start in starts)
    assert content[4:8] == b"TFL3" and content == to_tflite(
        network(), (3, 64, 64), class_names=[f"n0000000{i} class {i}" for i in range(10)])


def test_weights_in_float16():
    checkpoint = network()
    content = to_tflite(checkpoint, (3, 64, 64), "float16")
    assert len(content) < 0.55 * len(to_tflite(checkpoint, (3, 64, 64)))
    params = fold_batch_norm(checkpoint.graph(), checkpoint.arg_params | checkpoint.aux_params)[1]
    graph, tensors = graph_of(content)
    for name in layers_of(checkpoint):
        assert graph.type(tensors[f"{name}_float16"]) == TensorType.FLOAT16
        found, array = graph.weights(tensors[name]), params[name]
        expected = array[:, np.newaxis, np.newaxis] if name == "fc_weight" else array.transpose(
            (1, 2, 3, 0) if "depthwise" in name else (0, 2, 3, 1))
        np.testing.assert_array_equal(found, expected.astype(np.float16))


def test_weights_and_codes_in_int8():
    checkpoint = network(expanded=False)
    ranges = statistics(checkpoint)
    assert f"{IDENTITY}-conv2d_weight" not in ranges
    content = to_tflite(checkpoint, (3, 64, 64), "int8", ranges)
    params = fold_batch_norm(checkpoint.graph(), checkpoint.arg_params | checkpoint.aux_params)[1]
    codes, graph, tensors = codes_of(content)
    assert codes[0] == BuiltinOperator.QUANTIZE and codes[-2:] == [BuiltinOperator.DEQUANTIZE, BuiltinOperator.SOFTMAX]
    layers = [operator for operator in graph.operators if operator.InputsLength() == 3]
    assert len(layers) == len(ranges) == 53
    for operator, (name, entry) in zip(layers, ranges.items()):
        data, weight, bias, output = (*map(operator.Inputs, range(3)), operator.Outputs(0))
        array = params[name][:, :, np.newaxis, np.newaxis] if name == "fc_weight" else params[name]
        depthwise = "depthwise" in name
        array = array.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        numbers, (scales, zeros, axis) = graph.constant(weight), graph.quantisation(weight)
        assert numbers.dtype == np.int8 and np.abs(numbers).max() == 127 and not zeros.any()
        assert (axis, len(scales)) == ((3, array.shape[3]) if depthwise else (0, len(array)))
        wide = scales if depthwise else scales.reshape(-1, 1, 1, 1)
        assert (np.abs(numbers * wide - array) <= wide * 0.5001).all()
        low, high = graph.range(data)
        step = (high - low) / 255
        assert abs(low - entry.low) <= step / 2 and abs(high - entry.high) <= step / 2
        (scale,), _, _ = graph.quantisation(data)
        np.testing.assert_allclose(graph.quantisation(bias)[0], scale * scales, rtol=1e-6)
        lost = (array - numbers * wide) * (entry.mean if depthwise else entry.mean.reshape(1, 1, 1, -1))
        lost = lost.sum(axis=(0, 1, 2) if depthwise else (1, 2, 3))
        folded = params["fc_bias" if name == "fc_weight" else name.replace("weight", "folded_bias")]
        np.testing.assert_allclose(graph.weights(bias), folded + lost, atol=float((scale * scales).max()))
        if name.startswith(("seq-1-block1-linear", "last", "fc")):  # what is added, pooled or put out
            assert abs(graph.range(output)[1] - entry.output[1]) <= step


@pytest.mark.parametrize(("dtype", "preprocessing", "layer"), [
    (np.uint8, COLOURS, True), (np.int8, COLOURS, True), (np.float32, COLOURS, True), (np.float32, GREY, True),
    (np.uint8, GREY, False), (np.int8, GREY, False)])
def test_pixels_in_int8(tmp_path, dtype, preprocessing, layer):
    """One mean and deviation are the input's zero and scale; half a grey level goes into the first layer's bias."""
    checkpoint = network(preprocessing=preprocessing)
    content = to_tflite(checkpoint, (3, 64, 64), "int8", statistics(checkpoint), np.dtype(dtype).name, True)
    codes, graph, tensors = codes_of(content)
    assert codes.count(BuiltinOperator.DEPTHWISE_CONV_2D) == 17 + layer
    for code, operator in zip(codes, graph.operators):
        if code in (BuiltinOperator.PAD, BuiltinOperator.RESHAPE):  # which the format wants
            assert graph.range(operator.Inputs(0)) == graph.range(operator.Outputs(0))
    assert graph.type(graph.input) == CODES[dtype]
    assert graph.type(graph.output) == (TensorType.INT8 if dtype == np.int8 else TensorType.FLOAT32)
    if dtype == np.int8:
        (scale,), (zero,), _ = graph.quantisation(graph.output)
        assert (scale, zero) == (1 / 256, -128)
    if dtype != np.float32:
        (scale,), (zero,), _ = graph.quantisation(graph.input)
        assert zero + (128 if dtype == np.int8 else 0) == (0 if layer else 128)
        assert scale == (1 if layer else np.float32(1 / 127.5))
    name = "first-3x3-conv"
    plain, plain_tensors = graph_of(to_tflite(checkpoint, (3, 64, 64), "int8", statistics(checkpoint)))
    moved = graph.weights(tensors[f"{name}_bias"]) - plain.weights(plain_tensors[f"{name}_bias"])
    params = fold_batch_norm(checkpoint.graph(), checkpoint.arg_params | checkpoint.aux_params)[1]
    weight = params[f"{name}-conv2d_weight"]
    expected = weight.sum(axis=(1, 2, 3)) * 0.5 / 127.5 if not layer else 0
    (step,), _, _ = plain.quantisation(plain_tensors["data_codes"])
    np.testing.assert_allclose(moved, expected, atol=step * np.abs(weight).max() / 127)

    (tmp_path / "x.tflite").write_bytes(content)
    run(convert_weights, tmp_path / "x.tflite", tmp_path / "back", "--from", "tflite")
    assert load(tmp_path / "back", 0).preprocessing == (
        preprocessing if layer else preprocessing._replace(mean=(128.0,) * 3))


@pytest.mark.parametrize(("precision", "dtype", "nearly"), [("float32", "float32", 1e-5), ("int8", "uint8", 4e-3)])
def test_the_layer_that_normalises_is_read(tmp_path, precision, dtype, nearly):
    """Of a file without our own metadata, and not of one whose metadata is damaged. A bias of 8 bits is in 254ths."""
    checkpoint = network()
    content = to_tflite(checkpoint, (3, 64, 64), precision, statistics(checkpoint), dtype, True)
    (tmp_path / "x.tflite").write_bytes(content.replace(b"mxnet-mobilenet-v2", b"other-mobilenet-v2"))
    _, description = read_tflite(tmp_path / "x.tflite")
    found = description["preprocessing"]
    np.testing.assert_allclose([found["mean"], found["std"]], [COLOURS.mean, COLOURS.std], atol=nearly)
    assert "background" not in description
    (tmp_path / "x.tflite").write_bytes(content.replace(b'"preprocessing": {', b'"preprocessing": ['))
    with pytest.raises(InputError, match="x.tflite: .*mxnet-mobilenet-v2"):
        read_tflite(tmp_path / "x.tflite")


@pytest.mark.parametrize("change", [{"weight": np.ones((1, 3, 3, 3))}, {"StrideW": 2, "StrideH": 2},
                                    {"FusedActivationFunction": tflite.ActivationFunctionType.RELU}])
def test_another_depthwise_layer_does_not_normalise(tmp_path, change):
    weight, options = change.get("weight", np.ones((1, 1, 1, 3))), {"StrideW": 1, "StrideH": 1, "DepthMultiplier": 1}
    build = Build()
    data = build.tensor("data", (1, 8, 8, 3), np.float32)
    output = build.add(BuiltinOperator.DEPTHWISE_CONV_2D, [
        data, build.constant("weight", weight, np.float32), build.constant("bias", np.ones(3), np.float32)],
        build.tensor("output", (1, 8, 8, 3), np.float32),
        **options | {name: value for name, value in change.items() if name != "weight"})
    (tmp_path / "x.tflite").write_bytes(build.content(output, {}))
    with pytest.raises(InputError, match="DEPTHWISE_CONV_2D, before the first convolution"):
        read_tflite(tmp_path / "x.tflite")


def test_what_apps_are_told(tmp_path):
    """By metadata_schema.fbs of tensorflow_lite_support, whose fields are numbered as they stand there."""
    save(network(), tmp_path / "x")
    save_synset(tmp_path / "x", ["n01440764 tench, Tinca tinca", *map(str, range(9))])
    run(export_weights, tmp_path / "x", tmp_path / "x.tflite", "--to", "tflite")
    content = (tmp_path / "x.tflite").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info, = archive.infolist()
        assert info.compress_type == zipfile.ZIP_STORED
        assert archive.read("labels.txt").decode().splitlines() == ["tench, Tinca tinca", *map(str, range(9))]
    model = tflite.Model.GetRootAs(content)
    entry, = (entry for entry in map(model.Metadata, range(model.MetadataLength()))
              if entry.Name() == b"TFLITE_METADATA")
    about = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert about[4:8] == b"M001"

    def follow(table, *fields):
        """The table at the end of a path: of the first in each list."""
        for field in fields:
            place = table.Offset(4 + 2 * abs(field))
            if field in LISTS:
                start = table.Vector(place)
                table = flatbuffers.table.Table(about, start + int.from_bytes(about[start:start + 4], "little"))
            else:
                table = flatbuffers.table.Table(about, table.Indirect(table.Pos + place))
        return table

    subgraphs, inputs, outputs, units, files = LISTS = (3, -2, -3, 4, 6)
    root = flatbuffers.table.Table(about, int.from_bytes(about[:4], "little"))
    options = follow(root, subgraphs, inputs, units, 1)
    vectors = [np.frombuffer(about, "<f4", 3, options.Vector(options.Offset(4 + 2 * field))) for field in (0, 1)]
    np.testing.assert_array_equal(vectors, [COLOURS.mean, COLOURS.std])
    labels = follow(root, subgraphs, outputs, files)
    assert labels.String(labels.Pos + labels.Offset(4)) == b"labels.txt"
    assert about[labels.Pos + labels.Offset(4 + 2 * 2)] == 2  # TENSOR_AXIS_LABELS


def test_1001_classes_are_no_background(tmp_path):
    about = network().network
    groups = random_params(get_symbol(1001, **about), (1, 3, 64, 64))
    save(Checkpoint(about, 1001, *groups, COLOURS), tmp_path / "x")
    run(export_weights, tmp_path / "x", tmp_path / "x.tflite", "--to", "tflite")
    run(convert_weights, tmp_path / "x.tflite", tmp_path / "back", "--from", "tflite")
    assert load(tmp_path / "back", 0).num_classes == 1001


def test_what_cannot_be_written(tmp_path, capsys):
    checkpoint = network()
    save(checkpoint, tmp_path / "x")

    def refused(*flags, prefix=tmp_path / "x", out="x.tflite"):
        message = refusal(capsys, export_weights, prefix, tmp_path / out, "--to", Path(out).suffix[1:], *flags)
        assert not (tmp_path / out).exists()
        return message

    assert "--precision int8" in refused("--input", "uint8")
    assert "tflite" in refused("--precision", "float16", out="x.onnx")
    assert "--fold is for --to onnx" in refused("--fold")
    assert "x-0000-int8.json" in (line := refused("--precision", "int8")) and "tools/calibrate.py" in line
    save_calibration(tmp_path / "x", 0, statistics(checkpoint), 1)
    content = json.loads((tmp_path / "x-0000-int8.json").read_text())
    del content["layers"]["fc_weight"]["output"]
    (tmp_path / "x-0000-int8.json").write_text(json.dumps(content))
    assert "lacks" in (line := refused("--precision", "int8")) and "tools/calibrate.py" in line
    (tmp_path / "x-synset.txt").write_text("one\n")
    assert "names 1 classes" in refused()

    name = "first-3x3-conv-batchnorm_moving_var"
    save(checkpoint._replace(aux_params=checkpoint.aux_params | {
        name: -np.ones_like(checkpoint.aux_params[name])}), tmp_path / "y")
    assert "first-3x3-conv-conv2d_weight" in refused(prefix=tmp_path / "y")
    save(checkpoint._replace(arg_params=checkpoint.arg_params | {
        "fc_weight": checkpoint.arg_params["fc_weight"] * 1e6}), tmp_path / "z")
    assert "fc_weight" in refused("--precision", "float16", prefix=tmp_path / "z")
    save(network(padding="same"), tmp_path / "same")
    assert "SAME padding" in refused("--image-shape", "3,65,65", prefix=tmp_path / "same")


def test_another_network(tmp_path, capsys, calibrated):
    message = refusal(capsys, export_weights, calibrated[0], tmp_path / "x.tflite", "--to", "tflite")
    assert str(calibrated[0]) in message and not (tmp_path / "x.tflite").exists()



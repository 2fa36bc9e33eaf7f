"""ONNX in 8-bit integers: ONNX Runtime's answers against integers in NumPy, TVM's int8, and float32."""
import json
import shutil
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from common.checkpoint.int8 import Statistics, load_calibration
from common.checkpoint.params import checkpoint_files, load_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing
from common.checkpoint.symbol import load_symbol
from common.compiler.build import executor_of
from common.compiler.precision import in_precision, target_for
from common.compiler.relay_network import load_network
from common.compiler.targets import resolve_target
from common.conversion.onnx_int8 import channels_of, quantized
from common.conversion.onnx_model import to_onnx
from common.evaluation.score import predict
from common.find_mxnet import mx
from tests.commands import refusal, run
from tests.networks import convolution_3x3
from tools import export_weights

sym = mx.sym
DATA = sym.Variable("data")


def float_model(prefix, shape, **options):
    symbol_file, params_file = checkpoint_files(prefix, 0)
    arg_params, aux_params = load_checkpoint_params(params_file)
    return to_onnx(load_symbol(symbol_file), arg_params | aux_params, shape, fold=True, **options)


def session(model, optimized=None):
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that what it writes is for this processor
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(model, images):
    running = session(model)
    return np.concatenate([running.run(None, {"data": image})[0] for image in images])


@pytest.fixture(scope="module")
def models(calibrated):
    """(float32, int8) of one network."""
    prefix, _ = calibrated
    model = float_model(prefix, (3, 32, 32))
    return model, quantized(model, load_calibration(prefix, 0, channels_of(model)))


def test_answers_as_tvm_and_nearly_as_mxnet(calibrated, models):
    prefix, images = calibrated
    found = answers(models[1], images)
    expected = np.concatenate([predict(prefix, 0, image) for image in images])
    target = target_for(resolve_target("llvm"), "int8")
    network = in_precision(load_network(prefix, 0, (1, 3, 32, 32)), "int8", target, prefix, 0)
    executor = executor_of(network, target)
    by_tvm = []
    for image in images:
        executor.run(data=image)
        by_tvm.append(executor.get_output(0).numpy())
    assert expected.std() > 0.01
    assert 0 < np.abs(found - expected).max() < 0.02
    assert np.abs(found - np.concatenate(by_tvm)).max() < 0.01  # of two roundings more


def test_onnx_runtime_computes_all_in_integers(models, tmp_path):
    session(models[1], tmp_path / "optimized.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    kinds -= Counter(Transpose=kinds["Transpose"])
    assert kinds == dict(QuantizeLinear=1, QLinearConv=5, QLinearAdd=1, QLinearGlobalAveragePool=1, Flatten=1, QGemm=1,
                         Softmax=1)
    assert {node.op_type for node in models[0].graph.node} > {"Clip", "Pad"}


def test_the_definitions_of_the_operators_give_the_same(calibrated):
    prefix, images = calibrated
    model = float_model(prefix, (3, 32, 32), opset=19)  # at earlier ones the evaluator lacks DequantizeLinear
    model = quantized(model, load_calibration(prefix, 0, channels_of(model)))
    evaluator = ReferenceEvaluator(model)
    for image, answer in zip(images, answers(model, images)):
        # a number between two codes may be rounded to either
        np.testing.assert_allclose(evaluator.run(None, {"data": image})[0][0], answer, atol=0.005)


def test_names_and_weights(models):
    plain, integers = ({tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
                       for model in models)
    for name in channels_of(models[0]):
        scales = integers[f"{name}_scale"].reshape(-1, *[1] * (plain[name].ndim - 1))
        assert integers[name].dtype == np.int8 and np.abs(integers[name]).max() == 127
        assert (np.abs(integers[name] * scales - plain[name]) <= scales * 0.5001).all()
    assert integers["fc_bias"].dtype == np.int32
    layers = {node.name for node in models[0].graph.node if node.op_type in ("Conv", "Gemm", "Add", "Softmax")}
    assert layers < {node.name for node in models[1].graph.node}
    assert models[1].graph.output == models[0].graph.output and models[1].graph.input == models[0].graph.input
    assert {"precision": "int8", "output": "probabilities"}.items() <= {
        entry.key: entry.value for entry in models[1].metadata_props}.items()


def small(params, *, clip=None, classifier="fc"):
    """ONNX of a convolution to 4 channels for 3x8x8, and logits of 5 classes."""
    data = sym.Convolution(DATA, num_filter=4, kernel=(3, 3), pad=(1, 1), name="conv")
    data = data if clip is None else sym.clip(data, *clip, name="clip")
    if classifier == "fc":
        data = sym.FullyConnected(data, num_hidden=5, name="fc")
    else:
        data = sym.Convolution(sym.Pooling(data, global_pool=True, pool_type="avg"), num_filter=5, kernel=(1, 1),
                               name="fc")
        data = sym.Reshape(data, shape=(0, -1))
    graph = json.loads(data.tojson())
    nodes = [{"attrs": {}, **node} for node in graph["nodes"]]
    return to_onnx({"nodes": nodes, "heads": graph["heads"]}, params, (3, 8, 8), fold=True)


def random_small(classifier="fc"):
    rng = np.random.RandomState(5)
    shapes = {"conv_weight": (4, 3, 3, 3), "conv_bias": (4,), "fc_bias": (5,),
              "fc_weight": (5, 4 * 8 * 8) if classifier == "fc" else (5, 4, 1, 1)}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def statistics(classifier="fc", **of_fc):
    inputs = 4 * 8 * 8 if classifier == "fc" else 4
    fc = Statistics(-2.0, 3.0, np.random.RandomState(7).normal(0, 0.5, inputs), (-9.0, 9.0))
    return {"conv_weight": Statistics(-1.5, 2.5, np.array([0.3, 0.5, -0.2]), (-3.0, 4.0)),
            "fc_weight": fc._replace(**of_fc)}


X = np.random.RandomState(6).normal(0.5, 1, (4, 3, 8, 8)).astype(np.float32)


def coded(x, low, high):
    """The numbers that codes of 0 to 255 stand for, of which 0 is one."""
    scale = np.float32((high - low) / 255)
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * np.float64(scale)


def layer(weight, bias, mean):
    """(the weight that its integers stand for, the bias with what they lack on average)."""
    scales = (np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127).reshape(-1, *[1] * (weight.ndim - 1))
    rounded = np.rint(weight / scales) * scales
    mean = mean.reshape(1, -1, *[1] * (weight.ndim - 2))
    return rounded, bias + ((weight - rounded) * mean).sum(axis=tuple(range(1, weight.ndim)))


@pytest.mark.parametrize("clip, dead", [(None, False), ((-0.45, 0.9), False), ((-9.0, 9.0), False), (None, True)])
def test_ranges_on_both_sides_of_zero(clip, dead):
    """Against NumPy. A clip is kept if the codes can stand for what it takes away, and only then. The bias of a dead
    channel is more than 32 bits of its weights' scale."""
    params, ranges = random_small(), statistics()
    if dead:
        params["conv_weight"][2] *= 1e-12
        params["conv_bias"][2] = 2.7
    model = quantized(small(params, clip=clip), ranges)
    assert [node.op_type for node in model.graph.node].count("Clip") == (clip == (-0.45, 0.9))
    (weight, bias), (fc_weight, fc_bias) = (
        layer(params[f"{name}_weight"].astype(np.float64), params[f"{name}_bias"], ranges[f"{name}_weight"].mean)
        for name in ("conv", "fc"))
    y = convolution_3x3(coded(X, -1.5, 2.5), weight, 1, "symmetric") + bias.reshape(1, 4, 1, 1)
    expected = coded(np.clip(y, *clip or (-99, 99)), -2.0, 3.0).reshape(4, -1) @ fc_weight.T + fc_bias
    found = answers(model, [X])
    # a sum between two codes, which NumPy rounds to the other, moves an answer by a code times a weight
    assert np.median(np.abs(found - expected)) < 1e-4 and np.abs(found - expected).max() < 0.02


def test_a_classifier_by_a_convolution():
    params = random_small("convolution")
    ranges = statistics("convolution", low=-1.0, high=1.0)
    found, expected = (answers(model, [X]) for model in (
        quantized(small(params, classifier="convolution"), ranges), small(params, classifier="convolution")))
    assert 0 < np.abs(found - expected).max() < 0.05 < expected.std()


def test_names_that_are_taken():
    params = random_small()
    graph = small({**params}, clip=(0, 6))
    for node in graph.graph.node:  # as a symbol may name its nodes
        node.input[:] = ["conv_weight_rounded" if name == "clip" else name for name in node.input]
        node.output[:] = ["conv_weight_rounded" if name == "clip" else name for name in node.output]
    np.testing.assert_array_equal(answers(quantized(graph, statistics()), [X]),
                                  answers(quantized(small(params, clip=(0, 6)), statistics()), [X]))


def test_of_pixels(calibrated, models):
    """The normalisation stays in floats before the first codes."""
    prefix, images = calibrated
    wants = Preprocessing(mean=(1.0, 2.0, 3.0), std=(0.5, 2.0, 4.0))
    model = float_model(prefix, (3, 32, 32), preprocessing=wants, pixels=True)
    model = quantized(model, load_calibration(prefix, 0, channels_of(model)))
    mean, std = (np.float32(numbers).reshape(3, 1, 1) for numbers in (wants.mean, wants.std))
    np.testing.assert_allclose(answers(model, images * std + mean), answers(models[1], images), atol=0.005)


def test_padding_of_what_another_layer_takes_too():
    """Two layers with calibrated ranges of their own, one of them behind a Pad."""
    params, rng = random_small("convolution"), np.random.RandomState(8)
    padded = sym.pad(DATA, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, 0, 1, 1, 0))
    both = [sym.Convolution(data, num_filter=4, kernel=(3, 3), name=name)
            for name, data in (("conv", DATA), ("padded", padded))]
    pooled = [sym.Flatten(sym.Pooling(data, global_pool=True, pool_type="avg")) for data in both]
    graph = json.loads((pooled[0] + pooled[1]).tojson())
    nodes = [{"attrs": {}, **node} for node in graph["nodes"]]
    params |= {name.replace("conv", "padded"): rng.normal(0, 0.3, array.shape).astype(np.float32)
               for name, array in params.items() if name.startswith("conv")}
    model = to_onnx({"nodes": nodes, "heads": graph["heads"]}, params, (3, 8, 8), fold=True)
    wide = Statistics(-4.0, 5.0, np.zeros(3), (-9.0, 9.0))
    integers = quantized(model, {"conv_weight": wide, "padded_weight": wide._replace(low=-2.0, high=3.0)})
    assert "Pad" not in {node.op_type for node in integers.graph.node}
    found, expected = answers(integers, [X]), answers(model, [X])
    assert 0 < np.abs(found - expected).max() < 0.05 < expected.std()


def test_the_command(calibrated, tmp_path, capsys):
    prefix, images = calibrated
    out = tmp_path / "x.onnx"
    run(export_weights, prefix, out, "--to", "onnx", "--precision", "int8", "--image-shape", "3,32,32", "--opset", "21")
    assert "opset 21, int8, " in capsys.readouterr().out
    model = onnx.load(out)
    assert model.opset_import[0].version == 21
    plain = float_model(prefix, (3, 32, 32))
    np.testing.assert_array_equal(answers(model, images), answers(quantized(
        plain, load_calibration(prefix, 0, channels_of(plain))), images))

    for ending in ("-symbol.json", "-0000.params", "-0000-int8.json"):
        shutil.copy(f"{prefix}{ending}", tmp_path / f"old{ending}")
    path = tmp_path / "old-0000-int8.json"
    content = json.loads(path.read_text())
    for entry in content["layers"].values():
        del entry["output"]
    path.write_text(json.dumps(content))
    out = tmp_path / "y.onnx"
    message = refusal(capsys, export_weights, tmp_path / "old", out, "--to", "onnx", "--precision", "int8",
                      "--image-shape", "3,32,32")
    assert f"{path}: lacks" in message and "tools/calibrate.py" in message and not out.exists()

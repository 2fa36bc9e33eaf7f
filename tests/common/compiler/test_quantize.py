"""8-bit integers against integers in NumPy, and whole networks in int8 and float16 against float32."""
import json
import os

import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.int8 import (
    Statistics,
    calibration_file,
    coding,
    load_calibration,
    quantized_weight,
)
from common.compiler.blocked import block_of
from common.compiler.build import build, executor_of
from common.compiler.precision import arithmetic_of, in_float16, in_precision, target_for
from common.compiler.quantize import channels_of, quantized
from common.compiler.relay_network import Network, load_network
from common.compiler.targets import resolve_target
from common.evaluation.score import predict
from common.inference.choices import HALF, check_device
from common.inference.drivers import PLATFORMS
from common.inference.runtime import opencl_device, tvm
from tests.networks import convolution_3x3

relay = tvm.relay
SHAPE = (1, 3, 32, 32)


def run(network, target, data):
    executor = executor_of(network, target)
    executor.set_input("data", data)
    executor.run()
    return executor.get_output(0).numpy()


def one_layer(data_shape, weight, stride=1, padding=0):
    """A Network of one convolution, or fully connected layer, without a bias."""
    data = relay.var("data", shape=data_shape)
    variable = relay.var("weight", shape=weight.shape)
    if weight.ndim == 2:
        layer = relay.nn.dense(data, variable, units=len(weight))
    else:
        layer = relay.nn.conv2d(data, variable, channels=len(weight), kernel_size=weight.shape[2:], strides=stride,
                                padding=padding, groups=data_shape[1] if weight.shape[1] < data_shape[1] else 1)
    module = relay.transform.InferType()(tvm.IRModule.from_expr(layer))
    return Network(module, {"weight": weight}, data_shape, len(weight))


def exact_sums(codes, integers, stride):
    """Of codes (N, C, H, W), those around the picture subtracted already, x integers (O, ...), in float64."""
    if integers.ndim == 2:
        return codes @ integers.T
    if integers.shape[2] == 1:
        return np.einsum("oi,nihw->nohw", integers[:, :, 0, 0], codes[:, :, ::stride, ::stride])
    return convolution_3x3(codes, integers, stride, "symmetric")


LAYERS = {
    "1x1": ((2, 32, 7, 5), (48, 32, 1, 1), 1, 0),
    "1x1 of other channels": ((1, 6, 9, 9), (10, 6, 1, 1), 1, 0),
    "3x3": ((1, 3, 17, 14), (16, 3, 3, 3), 2, 1),
    "depthwise": ((1, 32, 14, 28), (32, 1, 3, 3), 1, 1),
    "depthwise stride 2": ((2, 16, 15, 13), (16, 1, 3, 3), 2, 1),
    "depthwise of other channels": ((1, 24, 8, 8), (24, 1, 3, 3), 1, 1),
    "fully connected": ((3, 40), (10, 40), 1, 0),
}


@pytest.mark.parametrize(("layer", "target"), [
    pytest.param(layer, target, marks=[] if target == "llvm" or layer in ("1x1", "depthwise") else [pytest.mark.long])
    for layer in LAYERS for target in ("llvm", "llvm -mcpu=x86-64-v3", "llvm -mcpu=x86-64")])
def test_a_layer_sums_exactly(layer, target):
    data_shape, weight_shape, stride, padding = LAYERS[layer]
    rng = np.random.RandomState(1)
    weight = rng.normal(0, 1, weight_shape).astype(np.float32)
    weight[0] = np.abs(weight[0]).max()  # the greatest sums there can be
    data = rng.uniform(-1, 3, data_shape).astype(np.float32)
    data[0] = 3
    statistics = Statistics(-1, 3, np.zeros(data_shape[1]))
    integers, scales = quantized_weight(weight)
    scale, zero = coding(-1, 3)
    codes = np.clip(np.floor(data / scale + zero + np.float32(0.5)), 0, 255) - zero
    expected = exact_sums(codes.astype(np.float64), integers.astype(np.float64), stride)

    target = target_for(resolve_target(target), "int8")
    network = quantized(one_layer(data_shape, weight, stride, padding), {"weight": statistics}, arithmetic_of(target))
    unit = (scale * scales).reshape(-1, *(1,) * (weight.ndim - 2))
    np.testing.assert_array_equal(np.rint(run(network, target, data) / unit), expected)


@pytest.mark.parametrize(("mcpu", "instruction"), [
    pytest.param("cascadelake", "vpdpbusd", marks=pytest.mark.long), ("alderlake", "vpdpbusd"),
    pytest.param("skylake-avx512", "vpmaddwd", marks=pytest.mark.long), ("haswell", "vpmaddwd")])
def test_the_instructions_are_used_where_llvm_knows_that_a_processor_has_them(mcpu, instruction):
    target = target_for(resolve_target(f"llvm -mcpu={mcpu}"), "int8")
    for layer in ("1x1", "3x3", "depthwise"):
        data_shape, weight_shape, stride, padding = LAYERS[layer]
        network = one_layer(data_shape, np.ones(weight_shape, np.float32), stride, padding)
        network = quantized(network, {"weight": Statistics(0, 6, np.zeros(data_shape[1]))}, arithmetic_of(target))
        assert instruction in build(network, target).library.get_lib().get_source("asm")


def test_the_bias_takes_back_what_rounded_weights_add():
    rng = np.random.RandomState(2)
    weight = rng.uniform(0, 1, (16, 64, 1, 1)).astype(np.float32)
    weight[:, 1:] = np.floor(weight[:, 1:] * 20) / 127 + 0.4 / 127  # all of them are rounded down
    weight[:, 0] = 1
    data = rng.uniform(0, 6, (1, 64, 16, 16)).astype(np.float32)
    target = target_for(resolve_target("llvm"), "int8")
    network = one_layer(data.shape, weight)
    expected = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], data)
    errors = []
    for mean in (np.zeros(64), data.mean(axis=(0, 2, 3))):
        out = run(quantized(network, {"weight": Statistics(0, 6, mean)}, arithmetic_of(target)), target, data)
        errors.append(np.abs((out - expected).mean(axis=(0, 2, 3))).max())
    assert errors[0] > 0.5 and errors[1] < 0.01


def difference(network, target, prefix, images):
    """The largest between the probabilities of `network` and those of MXNet."""
    executor = executor_of(network, target)
    differences = []
    for image in images:
        executor.set_input("data", image)
        executor.run()
        expected = predict(prefix, 0, image)
        assert expected.std() > 0.01
        differences.append(np.abs(executor.get_output(0).numpy() - expected).max())
    return max(differences)


@pytest.mark.parametrize("target", ["llvm", pytest.param("llvm -mcpu=x86-64-v3", marks=pytest.mark.long)])
def test_a_network_in_int8_answers_as_in_float32(calibrated, target):
    prefix, images = calibrated
    target = target_for(resolve_target(target), "int8")
    network = in_precision(load_network(prefix, 0, SHAPE, block_of(target)), "int8", target, prefix, 0)
    weights = [array for name, array in network.params.items() if name.endswith("_weight")]
    assert len(weights) == 6 and all(array.dtype.kind == "i" for array in weights)
    assert 0 < difference(network, target, prefix, images) < 0.02


def test_a_network_in_float16_answers_as_in_float32(calibrated):
    prefix, images = calibrated
    target = resolve_target("llvm")
    network = in_float16(load_network(prefix, 0, SHAPE, block_of(target)))
    assert 0 < difference(network, target, prefix, images) < 0.005


def test_float16_for_opencl_is_half_precision_but_for_softmax(calibrated):
    library = build(in_float16(load_network(calibrated[0], 0, SHAPE)), resolve_target("opencl")).library
    source = library.get_lib().imported_modules[0].get_source()
    assert f"#pragma OPENCL EXTENSION {HALF} : enable" in source
    kernels = [line for line in source.splitlines() if line.startswith("__kernel") and line.endswith(";")]
    convolutions = [line for line in kernels if "conv2d" in line]
    operands = "half* restrict p0, __global half* restrict p1"
    assert convolutions and all(operands in line for line in convolutions)
    assert any("softmax" in line and "half" not in line for line in kernels)


def test_float16_is_refused_where_a_device_has_none():
    device = opencl_device()
    has = any(HALF in found.extensions.split() for _, devices in PLATFORMS for found in devices
              if found.name.strip() == device.device_name.strip())
    if has:
        check_device("float16", device)
    else:
        with pytest.raises(InputError, match=f"has no half-precision arithmetic .{HALF}.; give"):
            check_device("float16", device)
    with pytest.raises(InputError, match="haswell has no half-precision arithmetic"):
        target_for(resolve_target("llvm -mcpu=haswell"), "float16")
    with pytest.raises(InputError, match="unknown precision 'int4'"):
        target_for(resolve_target("llvm"), "int4")


def test_int8_without_a_calibration_that_fits_is_refused(one_convolution, calibrated, tmp_path):
    with pytest.raises(InputError, match=r"needs .*one-0000-int8.json; make it with: python tools/calibrate.py"):
        load_calibration(one_convolution, 0, channels_of(load_network(one_convolution, 0, (1, 3, 8, 8))))

    prefix, path = tmp_path / "x", tmp_path / "x-0000-int8.json"
    for ending in ("-symbol.json", "-0000.params", "-0000-int8.json"):
        (tmp_path / f"x{ending}").write_bytes(calibrated[0].with_name(f"small{ending}").read_bytes())
    channels, content = channels_of(load_network(prefix, 0, SHAPE)), json.loads(path.read_text())
    assert load_calibration(prefix, 0, channels).keys() == content["layers"].keys()
    fc = content["layers"]["fc_weight"]
    for wrong in ({"params": "0" * 64}, {"layers": {}}, {"layers": []},
                  {"layers": {**content["layers"], "fc_weight": {**fc, "low": 2, "high": 1}}},
                  {"layers": {**content["layers"], "fc_weight": {**fc, "high": float("nan")}}},
                  {"layers": {**content["layers"], "fc_weight": {**fc, "high": "3"}}},
                  {"layers": {**content["layers"], "fc_weight": {**fc, "high": 10 ** 400}}},
                  {"layers": {**content["layers"], "fc_weight": {**fc, "output": [3, 2]}}},
                  {"layers": {**content["layers"], "fc_weight": {**fc, "output": [3]}}},
                  {"layers": {**content["layers"], "fc_weight": {**fc, "mean": [0.0] * 5000}}}):
        path.write_text(json.dumps({**content, **wrong}))
        with pytest.raises(InputError, match="x-0000-int8.json: .*tools/calibrate.py") as error:
            load_calibration(prefix, 0, channels)
        assert "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_calibration(prefix, 0, channels)
    path.write_text(json.dumps({**content, "params": "0" * 64}))
    with pytest.raises(InputError, match=r"x-0000\.params; .*tools/calibrate.py"):
        load_calibration(prefix, 0, channels)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="x-0000-int8.json: is a pipe or a device"):
        load_calibration(prefix, 0, channels)


def test_every_processor_has_an_arithmetic():
    assert calibration_file("a/b", 32) == "a/b-0032-int8.json"
    for name, codes, products, block in (
            ("cascadelake", "uint8", 4, 16), ("alderlake", "uint8", 4, 8), ("skylake-avx512", "int16", 2, 16),
            ("haswell", "int16", 2, 8), ("x86-64", "int16", 1, 1)):
        arithmetic = arithmetic_of(target_for(resolve_target(f"llvm -mcpu={name}"), "int8"))
        assert (arithmetic.codes, arithmetic.inputs, arithmetic.outputs) == (codes, products, block)

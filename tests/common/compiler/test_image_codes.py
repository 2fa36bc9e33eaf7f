"""Codes of a picture, four bytes for each pixel: those that NumPy computes, and that TVM's own operators do."""
import numpy as np
import pytest
import tvm
from tvm import relay
from tvm.contrib import graph_executor

from common.compiler.image_codes import NAME, with_image_codes
from common.compiler.targets import resolve_target

IN_BYTES = "llvm -mcpu=cascadelake -keys=dot_products,cpu"


def network(shape, padding, dtype="uint8", low=0.5, high=200.25, scale=0.9, layout="NCHW4c"):
    """Codes as common.compiler.quantize makes them: of `shape` (N, C, H, W), padding (top, bottom), (left, right)."""
    data = relay.cast(relay.var("data", shape=shape), "float32")
    codes = relay.cast(relay.clip(data * relay.const(scale) + relay.const(115.5), low, high), dtype)
    padded = relay.nn.pad(codes, ((0, 0), (0, 4 - shape[1]), *padding), pad_value=115)
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.layout_transform(padded, "NCHW", layout)))


def answer(module, data):
    with tvm.transform.PassContext(opt_level=3):
        executor = graph_executor.GraphModule(relay.build(module, "llvm")["default"](tvm.cpu()))
    executor.run(data=data)
    return executor.get_output(0).numpy()


@pytest.mark.parametrize(("shape", "padding"), [
    ((2, 3, 5, 37), ((1, 0), (2, 1))), ((1, 1, 3, 16), ((0, 0), (0, 0))), ((1, 2, 2, 7), ((3, 3), (1, 1)))])
def test_codes_are_those_of_numpy(shape, padding):
    data = np.random.RandomState(0).normal(0, 150, shape).astype(np.float32)
    module = with_image_codes(network(shape, padding), resolve_target(IN_BYTES))
    assert NAME in str(module)
    codes = np.clip(data * np.float32(0.9) + np.float32(115.5), 0.5, 200.25).astype(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, 0), *padding), constant_values=115).transpose(0, 2, 3, 1)
    found = answer(module, data)[:, 0]
    np.testing.assert_array_equal(found[..., :shape[1]], codes)
    np.testing.assert_array_equal(answer(network(shape, padding), data)[:, 0, ..., :shape[1]], codes)


@pytest.mark.parametrize(("target", "change"), [
    ("llvm -mcpu=haswell -keys=dot_products,cpu", {}), ("llvm -mcpu=cascadelake", {}),
    (IN_BYTES, {"dtype": "int16"}), (IN_BYTES, {"shape": (1, 4, 8, 8)}), (IN_BYTES, {"layout": "NHWC"}),
    (IN_BYTES, {"scale": np.full((3, 1, 1), 0.9)})])
def test_other_numbers_are_left_to_tvm(target, change):
    module = network(**{"shape": (1, 3, 8, 8), "padding": ((1, 1), (1, 1)), **change})
    assert NAME not in str(with_image_codes(module, resolve_target(target)))

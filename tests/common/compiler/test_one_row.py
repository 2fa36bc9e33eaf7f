"""Maps as one row around convolutions of 1x1."""
import numpy as np
import pytest
import tvm
from tvm import relay
from tvm.contrib import graph_executor

from common.compiler.one_row import in_one_row
from common.compiler.targets import resolve_target

MAP, ROW = (1, 2, 3, 5, 8), (1, 2, 1, 15, 8)
OF_CHANNELS, OF_PIXELS = (1, 2, 1, 1, 8), (1, 1, 3, 5, 1)


def convolution(data, name="kernel", size=1, **attrs):
    kernel = relay.var(name, shape=(2, 2, size, size, 8, 8))
    attrs = {"padding": (size // 2, size // 2), **attrs}
    return relay.nn.contrib_conv2d_nchwc(data, kernel, channels=16, kernel_size=(size, size), data_layout="NCHW8c",
                                         kernel_layout="OIHW8i8o", **attrs)


def after(function):
    """A network: `function` of a convolution of 1x1, and its input."""
    data = relay.var("data", shape=MAP)
    body = function(convolution(data), data)
    return relay.transform.InferType()(tvm.IRModule.from_expr(body))


def calls(module):
    """[(operator, shape)] in order."""
    found = []
    relay.analysis.post_order_visit(module["main"].body, lambda node: found.append(
        (node.op.name.removeprefix("nn.").removeprefix("contrib_"), tuple(map(int, node.checked_type.shape)))
    ) if isinstance(node, relay.Call) else None)
    return found


def outputs(module):
    with tvm.transform.PassContext(opt_level=3):
        library = relay.build(module, target=resolve_target("llvm -keys=nchw8c,cpu"))
    executor, rng = graph_executor.GraphModule(library["default"](tvm.cpu())), np.random.RandomState(0)
    for var in module["main"].params:
        shape = tuple(map(int, var.checked_type.shape))
        executor.set_input(var.name_hint, rng.randn(*shape).astype(np.float32))
    executor.run()
    return executor.get_output(0).numpy()


def constant(shape):
    return relay.var("other", shape=shape)


NETWORKS = {
    "bias and activation": (
        lambda row, data: relay.clip(relay.add(row, constant(OF_CHANNELS)), 0, 6),
        [("reshape", ROW), ("conv2d_NCHWc", ROW), ("add", ROW), ("clip", ROW), ("reshape", MAP)]),
    "a number for all": (
        lambda row, data: relay.nn.relu(relay.multiply(relay.const(2.0), row)),
        [("reshape", ROW), ("conv2d_NCHWc", ROW), ("multiply", ROW), ("relu", ROW), ("reshape", MAP)]),
    "residual": (
        lambda row, data: relay.add(data, row),
        [("reshape", ROW), ("reshape", ROW), ("conv2d_NCHWc", ROW), ("add", ROW), ("reshape", MAP)]),
    "one after the other": (
        lambda row, data: convolution(relay.clip(row, 0, 6), "second"),
        [("reshape", ROW), ("conv2d_NCHWc", ROW), ("clip", ROW), ("conv2d_NCHWc", ROW), ("reshape", MAP)]),
    "a number of each pixel": (
        lambda row, data: relay.multiply(row, constant(OF_PIXELS)),
        [("reshape", ROW), ("conv2d_NCHWc", ROW), ("reshape", MAP), ("multiply", MAP)]),
    "another operator": (
        lambda row, data: relay.nn.global_avg_pool2d(row, layout="NCHW8c"),
        [("reshape", ROW), ("conv2d_NCHWc", ROW), ("reshape", MAP), ("global_avg_pool2d", OF_CHANNELS)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_follows_a_convolution_of_1x1_is_in_one_row(name):
    function, expected = NETWORKS[name]
    module = after(function)
    found = in_one_row(module)
    assert calls(found) == expected
    np.testing.assert_array_equal(outputs(found), outputs(module))


@pytest.mark.parametrize("attrs", [{"size": 3}, {"strides": (2, 2)}, {"padding": (1, 0)}])
def test_other_convolutions_stay_as_they_are(attrs):
    body = convolution(relay.var("data", shape=MAP), **attrs)
    module = relay.transform.InferType()(tvm.IRModule.from_expr(body))
    assert tvm.ir.structural_equal(in_one_row(module), module)

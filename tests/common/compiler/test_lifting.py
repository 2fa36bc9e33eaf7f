"""A network's weights, taken out of it: the numbers that TVM itself would compute from them."""
import numpy as np
import pytest
import tvm
from tvm import relay

from common.compiler.blocked import block_of, lay_out
from common.compiler.build import build
from common.compiler.lifting import lifted
from common.compiler.precision import in_float16
from common.compiler.relay_network import load_network
from common.compiler.targets import resolve_target
from common.find_mxnet import mx
from common.inference.weights import packed
from tests.checkpoints import save_checkpoint, save_random

SHAPE = (2, 3, 17, 17)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Of a checkpoint with layers of each kind, a BatchNorm that no convolution comes before, and odd widths."""
    net = mx.sym.BatchNorm(mx.sym.Variable("data"), fix_gamma=False, name="first")
    net = mx.sym.Convolution(net, kernel=(3, 3), stride=(2, 2), num_filter=11, name="convolution")
    net = mx.sym.clip(mx.sym.BatchNorm(net, fix_gamma=False, name="norm"), 0, 6)
    net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=11, num_group=11, no_bias=True, name="by11")
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg"))
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=5, name="fc"), name="softmax")
    prefix = tmp_path_factory.mktemp("lifting") / "net"
    save_random(prefix, 0, net, SHAPE)
    arg_params, aux_params = ({name: mx.nd.ones(shape) for name, shape in zip(names, shapes)}
                              for names, shapes in zip((net.list_arguments(), net.list_auxiliary_states()),
                                                       net.infer_shape(data=SHAPE)[::2]))
    save_checkpoint(prefix, 1, net, {name: array for name, array in arg_params.items()
                                     if name not in ("data", "softmax_label")}, aux_params)
    return prefix


def in_order(module, kind):
    found = []
    relay.analysis.post_order_visit(module["main"].body, lambda node: found.append(node)
                                    if isinstance(node, kind) and node not in found else None)
    return found


def test_constant_arrays_are_computed_and_not_mixed_with_parameters():
    array = np.random.RandomState(0).normal(size=(1, 16, 1, 1)).astype(np.float32)
    data, weight = relay.var("data", shape=(1, 2, 4, 4, 8)), relay.var("weight", shape=(1, 16, 1, 1))
    in_blocks = relay.layout_transform(relay.const(array), "NCHW", "NCHW8c")
    mixed = relay.layout_transform(relay.multiply(weight, relay.negative(relay.const(array))), "NCHW", "NCHW8c")
    body = relay.add(relay.multiply(data, in_blocks), mixed)
    module, inputs = lifted(tvm.IRModule.from_expr(relay.Function([data, weight], body)), {"weight": array})
    constants = [node.data.numpy() for node in in_order(module, relay.Constant)]
    np.testing.assert_array_equal(constants[0], array.reshape(1, 2, 8, 1, 1).transpose(0, 1, 3, 4, 2))
    np.testing.assert_array_equal(constants[1], -array)
    assert inputs == {"weight": "weight"}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", ["llvm", "llvm -keys=cpu", "opencl -device=mali"])
def test_the_numbers_are_those_that_tvm_computes(prefix, target, precision):
    """Bit for bit."""
    target = resolve_target(target)
    network = load_network(prefix, 0, SHAPE, block_of(target))
    folded = network.folded.shapes
    if precision == "float16":
        network = in_float16(network)
    laid_out = lay_out(network.module, target)
    module, inputs = lifted(laid_out, network.params, folded)
    original = {name: array[tuple(map(slice, folded[name]))] for name, array in network.params.items()}
    found = packed(inputs, original)
    assert {name: array.shape for name, array in found.items()} == {
        var.name_hint: tuple(map(int, var.checked_type.shape)) for var in module["main"].params
        if var.name_hint != "data"}

    bound = relay.build_module.bind_params_by_name(laid_out["main"], {
        name: tvm.nd.array(array) for name, array in network.params.items()})
    expected = relay.transform.FoldConstant()(relay.transform.InferType()(tvm.IRModule.from_expr(bound)))
    expected = [node.data.numpy() for node in in_order(expected, relay.Constant) if node.data.shape]
    actual = [found[node.name_hint] for node in in_order(module, relay.Var) if node.name_hint != "data"]
    assert len(actual) == len(expected) >= 7
    for one, other in zip(actual, expected):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_no_number_chooses_code(prefix):
    """Checkpoints of one network, one of random numbers, one of ones."""
    target = resolve_target("llvm")
    one, other = (build(load_network(prefix, epoch, SHAPE, block_of(target)), target) for epoch in (0, 1))
    assert one.library.get_graph_json() == other.library.get_graph_json()
    assert one.library.get_lib().get_source("asm") == other.library.get_lib().get_source("asm")
    assert one.weights == other.weights and not one.params and not other.params

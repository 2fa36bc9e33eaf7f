"""Convolutions over blocked channels: every tile of every kind computes what NumPy does."""
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import te, tir

from common.compiler.blocked import BLOCKS
from common.compiler.build import build, executor_of
from common.compiler.relay_network import load_network
from common.compiler.schedules import FEW, fewest_loads, spread
from common.compiler.targets import resolve_target
from common.compiler.tuning import tasks_of
from common.find_mxnet import mx
from tests.checkpoints import save_checkpoint
from tests.networks import convolution_3x3, random_params

IN_SHORT = (("nchw8c", 3, True), ("nchw16c", 1, False))


def blocked(array, block):
    """(N, C, H, W) as (N, C/block, H, W, block)."""
    n, c, h, w = array.shape
    return array.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2)


def expected(task, data, kernel):
    """`data` and `kernel` blocked, as the template has them; the output in NumPy, blocked."""
    chunks, in_chunks, kh, kw, inner, block = kernel.shape
    plain = kernel.transpose(0, 5, 1, 4, 2, 3).reshape(chunks * block, in_chunks * inner, kh, kw)
    if data.ndim == 5:
        data = data.transpose(0, 1, 4, 2, 3).reshape(len(data), -1, *data.shape[2:4])
    if kh == 1:
        return blocked(np.einsum("oi,nihw->nohw", plain[:, :, 0, 0], data), block)
    return blocked(convolution_3x3(data, plain, task.args[2][0], "symmetric"), block)


def small_network(tmp_path, batch):
    """A checkpoint whose layers are of each kind: maps of 9x9 and 5x5, channels that are no multiple of anything."""
    data = mx.sym.Variable("data")
    net = mx.sym.Convolution(data, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=6, name="first")
    skip = mx.sym.clip(net, 0, 6)
    net = mx.sym.Convolution(skip, kernel=(1, 1), num_filter=11, name="expand")
    net = mx.sym.Convolution(mx.sym.clip(net, 0, 6), kernel=(3, 3), pad=(1, 1), num_filter=11, num_group=11,
                             name="depthwise")
    net = mx.sym.Convolution(mx.sym.clip(net, 0, 6), kernel=(1, 1), num_filter=6, name="project") + skip
    net = mx.sym.Convolution(net, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=6, num_group=6, name="halve")
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg"))
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=5, name="fc"), name="softmax")
    return saved(tmp_path, net, (batch, 3, 17, 17))


def saved(tmp_path, net, shape):
    """PREFIX of a checkpoint of `net` with random weights, an input of `shape` and MXNet's answer."""
    params = [{name: mx.nd.array(array) for name, array in part.items()} for part in random_params(net, shape)]
    save_checkpoint(tmp_path / "small", 0, net, *params)
    data = np.random.RandomState(1).randn(*shape).astype(np.float32)
    executor = net.simple_bind(mx.cpu(), data=shape, grad_req="null")
    executor.copy_params_from(*params, allow_extra_params=True)
    return tmp_path / "small", data, executor.forward(data=mx.nd.array(data))[0].asnumpy()


def answers(network, target, data):
    """Of a network that is built for `target`, run here."""
    run = executor_of(network, target)
    run.run(data=data)
    return run.get_output(0).numpy()


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("block", [4, 8])
def test_every_tile(tmp_path, block, every):
    """Or every fourth, from another one in each layer. Those of 8 channels are for 16 registers."""
    prefix, data, _ = small_network(tmp_path, 2)
    target = resolve_target(f"llvm -keys=nchw{block}c,cpu")
    tasks = tasks_of(load_network(prefix, 0, data.shape, block), target)
    assert {task.name for task in tasks} == {"conv2d.blocked", "depthwise_conv2d.blocked"} and len(tasks) == 6
    rng, beyond = np.random.RandomState(0), set()
    for first, task in enumerate(tasks):
        inputs = [rng.randn(*map(int, shape)).astype(np.float32) for _, shape, _ in task.args[:2]]
        wanted = expected(task, *inputs)
        for index in range(first % every, len(task.config_space), every):
            with target:
                config = task.config_space.get(index)
                schedule, arguments = task.instantiate(config)
                function = tvm.build(schedule, arguments, target)
            output = tvm.nd.empty(wanted.shape)
            arrays = {array.ndim: tvm.nd.array(array) for array in inputs}  # AutoTVM gives them in any order
            function(output, *(arrays[len(argument.shape)] for argument in arguments[1:]))
            assert np.abs(output.numpy() - wanted).max() < 1e-5, (task, config)
            beyond.add(wanted.shape[2] * wanted.shape[3] % config["tile"].val[0] > 0)
    assert beyond == ({False, True} if block == FEW else {False})


def test_tiles_for_few_registers():
    """Sums, with the fewer of pixels and weights, are as many vectors as it has registers at most; of those that fit,
    it has the fewest loads for each sum of the map."""
    tiles = [(p, b) for p in range(1, 7) for b in (1, 2, 3, 4)] + [(7, 1), (7, 2), (14, 1)]
    for count, best in [(49, (3, 4)), (196, (4, 3)), (1, (1, 4)), (2, (2, 4)), (5, (5, 2)), (6, (3, 4))]:
        assert fewest_loads(tiles, count, 15) == best
    assert fewest_loads([(7, 1), (7, 2)], 49, 15) == (7, 1)
    assert fewest_loads([(7, 1), (7, 2)], 49, 16) == (7, 2)


def of_first_thread(name, shape, tile):
    """Ones in a tensor of `shape` (N, C/i, H, W, i), where the first of two threads computes it."""
    out = te.compute(shape, lambda *place: tir.const(1, "float32"))
    schedule = te.create_schedule(out.op)
    with tvm.target.Target(name):
        spread({"tile": SimpleNamespace(val=tile)}, schedule[out])
    function = tvm.lower(schedule, [out])["main"]

    def of_first(part):
        if isinstance(part, tir.For):
            return serial(part.loop_var, part.extent // 2, part.body) if part.kind == tir.ForKind.PARALLEL else None
        if part.attr_key != "thread_extent":
            return None
        groups = part.node.thread_tag == "blockIdx.x"
        return serial(part.node.var, part.value // 2 if groups else part.value, part.body)

    def serial(index, extent, body):
        return tir.For(index, 0, extent, tir.ForKind.SERIAL, body)

    body = tir.stmt_functor.ir_transform(function.body, None, of_first, ["tir.For", "tir.AttrStmt"])
    done = tvm.nd.array(np.zeros(shape, np.float32))
    tvm.build(function.with_body(body), target="llvm")(done)
    return done.numpy()


@pytest.mark.parametrize("name, shape, tile", [
    ("llvm", (1, 6, 56, 56, 16), (14, 2)), ("llvm", (1, 5, 14, 14, 16), (28, 1)), ("llvm", (1, 3, 7, 7, 8), (7, 3)),
    ("llvm", (1, 4, 1, 49, 8), (3, 4)), ("llvm", (1, 8, 1, 196, 8), (4, 2)), ("llvm", (2, 3, 28, 28, 8), (7, 1)),
    ("llvm", (16, 2, 14, 14, 16), (14, 2)), ("opencl", (1, 6, 56, 56, 16), (14, 2)),
    ("opencl", (1, 12, 14, 14, 16), (14, 1)), ("opencl", (1, 8, 1, 784, 8), (4, 2)),
    ("opencl", (16, 2, 14, 14, 16), (14, 2))])
def test_a_thread_has_the_same_part_of_all_maps(name, shape, tile):
    """Of two, the first has the upper half in all channels, or half of a batch, but for a band."""
    maps = of_first_thread(name, shape, tile).transpose(0, 2, 3, 1, 4).reshape(shape[0] * shape[2] * shape[3], -1)
    band = -(-len(maps) // 7)
    assert maps[:(len(maps) - band) // 2].all() and not maps[(len(maps) + band) // 2:].any()


@pytest.mark.parametrize("processor, axis", [("skylake-avx512", 1), ("znver4", 2)])
def test_cores_with_one_cache_share_the_weights_of_small_maps(processor, axis):
    """Each has all of some channels of 7x7 pixels; where caches are separate, all of some rows, but for a tile's."""
    done = of_first_thread(f"llvm -mcpu={processor}", (1, 10, 7, 7, 16), (7, 2)).mean(
        axis=tuple({0, 1, 2, 3, 4} - {axis}))
    assert np.sum((done == 0) | (done == 1)) >= len(done) - 2 and 0 < done.mean() < 1


@pytest.mark.parametrize("layout, batch, widened", [
    pytest.param(layout, batch, widened, marks=[] if (layout, batch, widened) in IN_SHORT else [pytest.mark.long])
    for layout in BLOCKS for batch, widened in ((1, True), (3, True), (1, False))])
def test_networks_answer_as_mxnet(layout, batch, widened, tmp_path):
    prefix, data, wanted = small_network(tmp_path, batch)
    target = resolve_target(f"llvm -keys={layout},cpu")
    network = load_network(prefix, 0, data.shape, BLOCKS[layout] if widened else 1)
    assert np.abs(answers(network, target, data) - wanted).max() < 1e-5


def test_vectors_of_a_head_of_any_number_of_classes(tmp_path):
    """A 1x1 convolution to 17 classes, as if it were to 32."""
    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=8, name="first")
    net = mx.sym.Convolution(mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg"), kernel=(1, 1),
                             num_filter=17, name="head")
    prefix, data, wanted = saved(tmp_path, mx.sym.SoftmaxOutput(mx.sym.flatten(net), name="softmax"), (2, 3, 6, 6))
    target = resolve_target("llvm -keys=nchw16c,cpu")
    network = load_network(prefix, 0, data.shape, 16)
    assert [task.args[1][1][-1] for task in tasks_of(network, target)] == [16, 16]
    assert np.abs(answers(network, target, data) - wanted).max() < 1e-5


@pytest.mark.parametrize("block", [8, 16])
def test_no_vector_is_loaded_in_a_branch_under_opencl(block, tmp_path):
    """Zeros around a map are factors."""
    prefix, data, _ = small_network(tmp_path, 1)
    target = resolve_target(f"opencl -keys=nchw{block}c,opencl,gpu")
    library = build(load_network(prefix, 0, data.shape, block), target).library.get_lib()
    source = library.imported_modules[0].get_source()
    assert "condval = 1;" in source and not re.search(r"condval\w* = [^;]*vload", source)


def test_layout_of_a_processor():
    for name, floats, layout in [("llvm -mcpu=skylake-avx512", 0, "nchw16c"), ("llvm -mcpu=haswell", 0, "nchw8c"),
                                 ("llvm -mcpu=x86-64", 0, "nchw4c"), ("opencl", 16, "nchw16c"), ("opencl", 8, "nchw8c"),
                                 ("llvm -mtriple=aarch64-linux-gnu", 0, "nchw4c"), ("opencl", 0, None),
                                 ("opencl -device=mali", 0, None), ("llvm -keys=cpu", 0, None),
                                 ("opencl", 32, "nchw16c"), ("llvm -mtriple=aarch64-linux-android", 0, "nchw4c")]:
        keys = resolve_target(name, floats).keys
        assert [key for key in keys if key in BLOCKS] == ([layout] if layout else []), name

"""Pooling and softmax as OpenCL computes them on processors, beside NumPy."""
import numpy as np
import pytest
import tvm
from tvm import relay

from common.compiler.targets import resolve_target
from common.inference.kernels import load_library
from common.inference.runtime import graph_executor, opencl_device


def answer(output, data, folder):
    """Of a Relay expression of one input, run in OpenCL, and its kernels' source."""
    device = opencl_device()
    library = relay.build(tvm.IRModule.from_expr(output), target=resolve_target("opencl", 8))
    library.get_lib().export_library(str(folder / "network.so"))
    run = graph_executor.create(library.get_graph_json(), load_library(folder), device)
    run.run(data=tvm.nd.array(data))
    return run.get_output(0).numpy(), library.get_lib().imported_modules[0].get_source()


@pytest.mark.parametrize("shape", [(1, 10), (3, 1001), (8, 8)])
def test_softmax(tmp_path, shape):
    data = np.random.RandomState(0).randn(*shape).astype(np.float32)
    found, source = answer(relay.nn.softmax(relay.var("data", shape=shape)), data, tmp_path)
    wanted = np.exp(data.astype(np.float64))
    assert np.abs(found - wanted / wanted.sum(1, keepdims=True)).max() < 1e-6
    assert "get_local_id" not in source and "barrier" not in source


@pytest.mark.parametrize("shape, layout", [((1, 5, 7, 7, 8), "NCHW8c"), ((8, 3, 2, 5, 16), "NCHW16c"),
                                           ((2, 6, 3, 3), "NCHW")])
def test_pooling_of_a_map(tmp_path, shape, layout):
    data = np.random.RandomState(0).randn(*shape).astype(np.float32)
    pooled = relay.nn.global_avg_pool2d(relay.var("data", shape=shape), layout)
    found, source = answer(relay.clip(pooled, -0.1, 0.1), data, tmp_path)
    assert np.abs(found - data.mean((2, 3), keepdims=True).clip(-0.1, 0.1)).max() < 1e-6
    assert "get_local_id" not in source
    assert ("vload" in source) == (layout != "NCHW")

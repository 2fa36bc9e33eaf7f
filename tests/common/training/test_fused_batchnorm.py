"""BatchNorm and clip as one operator of MXNet's: against MXNet's own two, and against NumPy in double precision."""
import json
import logging
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from common.find_mxnet import mx
from common.training import fused_batchnorm, module
from common.training.fused_batchnorm import LIBRARY, OPERATOR, CannotFuse, fused, load
from common.training.training_symbol import training_symbol
from symbols.mobilenetv2 import get_symbol
from tests.conftest import ROOT
from tests.networks import random_params

EPS, MOMENTUM = 1e-5, 0.9


@pytest.fixture(scope="module", autouse=True)
def operator():
    try:
        load()
    except CannotFuse as error:
        pytest.skip(str(error))


def norm(data, clip=True, name="norm", **options):
    data = mx.sym.BatchNorm(data, name=name, **{"fix_gamma": False, "eps": EPS, "momentum": MOMENTUM, **options})
    return mx.sym.clip(data, 0, 6, name=f"{name}-clip") if clip else data


def operators(symbol):
    return [node["op"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]


def trained(symbol, arrays, head, **shapes):
    """(output, {argument: gradient}, {state: its new value}) of a training step."""
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", **shapes)
    for name, array in arrays.items():
        {**executor.arg_dict, **executor.aux_dict}[name][:] = mx.nd.array(array)
    executor.forward(is_train=True)
    executor.backward(mx.nd.array(head))
    mx.nd.waitall()
    return (executor.outputs[0].asnumpy(), {name: array.asnumpy() for name, array in executor.grad_dict.items()},
            {name: array.asnumpy() for name, array in executor.aux_dict.items()})


def in_numpy(data, gamma, beta, head, low, high):
    """(output, gradients of data, gamma and beta, mean, variance) of clip(BatchNorm(data)), in double precision."""
    data, gamma, beta, head = (np.asarray(array, np.float64) for array in (data, gamma, beta, head))
    gamma, beta = gamma[:, None, None], beta[:, None, None]
    axes, count = (0, 2, 3), data.size / data.shape[1]
    mean, variance = data.mean(axes, keepdims=True), data.var(axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + EPS)
    normal = (data - mean) * inverse
    before = normal * gamma + beta
    head = np.where((before >= low) & (before <= high), head, 0)
    of_beta, of_gamma = head.sum(axes, keepdims=True), (head * normal).sum(axes, keepdims=True)
    of_data = gamma * inverse * (head - of_beta / count - normal * of_gamma / count)
    return before.clip(low, high), of_data, of_gamma.ravel(), of_beta.ravel(), mean.ravel(), variance.ravel()


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-np.inf, np.inf), (-1, 0.5)])
@pytest.mark.parametrize("shape", [(2, 16, 7, 5), (3, 24, 4, 4), (1, 20, 3, 3), (4, 11, 9, 2), (2, 1, 70, 70)])
def test_as_numpy_in_double_precision(shape, low, high):
    rng = np.random.RandomState(shape[1])
    gamma, beta = rng.uniform(-1, 3, shape[1]), rng.uniform(-2, 2, shape[1])
    data, head = rng.normal(3, 2, shape), rng.normal(0, 1, shape)
    moving = {"norm_moving_mean": rng.normal(0, 1, shape[1]), "norm_moving_var": rng.uniform(1, 2, shape[1])}
    symbol = mx.sym.clip(norm(mx.sym.Variable("data"), clip=False), low, high)
    assert operators(fused(symbol)) == [OPERATOR]
    output, gradients, states = trained(fused(symbol), {"data": data, "norm_gamma": gamma, "norm_beta": beta, **moving},
                                        head, data=shape)
    expected, of_data, of_gamma, of_beta, mean, variance = in_numpy(np.float32(data), gamma, beta, head, low, high)
    np.testing.assert_allclose(output, expected, atol=2e-6)
    np.testing.assert_allclose(gradients["data"], of_data, atol=5e-6 * max(1, np.abs(of_data).max()))
    np.testing.assert_allclose(gradients["norm_gamma"], of_gamma, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(gradients["norm_beta"], of_beta, rtol=1e-5, atol=1e-4)
    for name, batch in (("norm_moving_mean", mean), ("norm_moving_var", variance)):
        np.testing.assert_allclose(states[name], MOMENTUM * moving[name] + (1 - MOMENTUM) * batch, rtol=2e-6, atol=1e-6)


def test_a_mean_far_from_zero_costs_no_variance():
    rng = np.random.RandomState(0)
    data = (1000 + rng.normal(0, 0.1, (4, 16, 8, 8))).astype(np.float32)
    output = trained(fused(norm(mx.sym.Variable("data"), clip=False)), {
        "data": data, "norm_gamma": np.ones(16), "norm_beta": np.zeros(16)}, data, data=data.shape)[0]
    expected = in_numpy(data, np.ones(16), np.zeros(16), data, -np.inf, np.inf)[0]
    np.testing.assert_allclose(output, expected, atol=2e-3)


# channels before and after: oneDNN takes and gives blocks of 16, of 8 and of 4 channels, and none of 11
@pytest.mark.parametrize("channels", [16, 24, 48, 20, 11])
def test_between_convolutions_as_mxnet(channels):
    data = mx.sym.Variable("data")
    net = norm(mx.sym.Convolution(data, kernel=(3, 3), num_filter=channels, no_bias=True, name="first"), name="a")
    net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=channels, num_group=channels, no_bias=True,
                             name="depthwise")
    net = mx.sym.Activation(norm(net, clip=False, name="b"), act_type="relu")
    net = mx.sym.Convolution(net, kernel=(1, 1), num_filter=24, no_bias=True, name="linear")
    symbol = norm(net, clip=False, name="c")
    assert operators(fused(symbol)).count(OPERATOR) == 3
    shape, rng = (4, 8, 14, 14), np.random.RandomState(channels)
    arguments, states = random_params(symbol, shape)
    arrays = {"data": rng.normal(0, 1, shape), **arguments, **states}
    head = rng.normal(0, 1, (4, 24, 12, 12))
    theirs, ours = trained(symbol, arrays, head, data=shape), trained(fused(symbol), arrays, head, data=shape)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    for mine, others in zip(ours[1:], theirs[1:]):
        assert mine.keys() == others.keys()
        for name, array in others.items():
            np.testing.assert_allclose(mine[name], array, atol=2e-5 * max(1, np.abs(array).max()), err_msg=name)


def test_the_clip_alone_changes_values_and_gradients_by_less_than_a_millionth():
    """Where the statistics are exact in both, so that nothing but the clip differs."""
    rng = np.random.RandomState(1)
    data = rng.choice([-1.0, 1.0], (2, 16, 8, 8))
    data[1] = -data[0]  # mean 0, variance 1
    arrays = {"data": data, "norm_gamma": rng.uniform(1, 5, 16), "norm_beta": rng.uniform(-1, 3, 16)}
    symbol, head = norm(mx.sym.Variable("data")), rng.normal(0, 1, data.shape)
    theirs, ours = (trained(net, arrays, head, data=data.shape) for net in (symbol, fused(symbol)))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
    np.testing.assert_allclose(ours[1]["data"], theirs[1]["data"], atol=1e-6 * np.abs(theirs[1]["data"]).max())


def test_the_network_has_no_batchnorm_left_and_the_same_parameters():
    symbol = training_symbol(get_symbol(multiplier=0.35, num_classes=10))
    found = operators(fused(symbol))
    assert found.count(OPERATOR) == operators(symbol).count("BatchNorm") == 53
    assert not {"BatchNorm", "clip"} & set(found)
    for names in ("list_arguments", "list_auxiliary_states", "list_outputs"):
        assert getattr(fused(symbol), names)() == getattr(symbol, names)()


def test_what_it_does_not_compute_is_left():
    data = mx.sym.Variable("data")
    for options in ({"fix_gamma": True}, {"use_global_stats": True}, {"axis": -1}):
        assert operators(fused(norm(data, **options))) == ["BatchNorm", "clip"]
    both = norm(data, clip=False)
    assert operators(fused(mx.sym.Activation(both, act_type="relu"))) == [OPERATOR, "Activation"]
    assert operators(fused(mx.sym.Group([mx.sym.clip(both, 0, 6), both * 2])))[:2] == [OPERATOR, "clip"]
    assert operators(fused(mx.sym.Group([mx.sym.clip(both, 0, 6), both]))) == [OPERATOR, "clip"]
    frozen = training_symbol(get_symbol(multiplier=0.35, num_classes=10), frozen=["first-3x3-conv-batchnorm_gamma"])
    assert operators(fused(frozen)).count("BatchNorm") == 1


def test_the_number_of_threads_changes_no_bit():
    code = """
import sys
import numpy as np
from common.find_mxnet import mx
from common.training.fused_batchnorm import fused, load
load()
symbol = fused(mx.sym.clip(mx.sym.BatchNorm(mx.sym.Variable("data"), fix_gamma=False), 0, 6))
executor = symbol.simple_bind(mx.cpu(), grad_req="write", data=(5, 24, 9, 9))
executor.copy_params_from({name: mx.nd.array(np.random.RandomState(1).normal(0, 1, array.shape))
                           for name, array in executor.arg_dict.items()})
executor.forward(is_train=True)
executor.backward(executor.outputs[0] + 1)
for array in (*executor.outputs, *executor.grad_arrays, *executor.aux_arrays):
    sys.stdout.buffer.write(array.asnumpy().tobytes())
"""
    answers = {subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True,
                              env={**os.environ, "OMP_NUM_THREADS": threads}).stdout
               for threads in ("1", "3")}
    assert len(answers) == 1 and len(answers.pop()) > 9000


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda library: library.unlink(), "is not built: make setup builds it"),
    (lambda library: library.write_bytes(library.read_bytes()[:5000]), "cannot be loaded: .*cut short"),
    (lambda library: shutil.copy(mx.libinfo.find_lib_path()[0].replace("libmxnet.so", "libopenblas.so.0"), library),
     "cannot be loaded"),
    (lambda library: library.with_name(f"{library.name}.txt").write_text("1.9.1 7\n"), "built for another MXNet"),
    (lambda library: library.with_name(f"{library.name}.txt").unlink(), "built for another MXNet")])
def test_without_it_training_goes_on_and_says_so_in_a_line(tmp_path, monkeypatch, caplog, damage, reason):
    library = tmp_path / LIBRARY.name
    for path in (LIBRARY, LIBRARY.with_name(f"{LIBRARY.name}.txt")):
        shutil.copy(path, tmp_path)
    damage(library)
    with pytest.raises(CannotFuse, match=reason):
        load(library)
    monkeypatch.setattr(module, "load", lambda: load(library))
    symbol = get_symbol(multiplier=0.1)
    with caplog.at_level(logging.WARNING):
        assert module._fused_where_possible(symbol) is symbol
    line, = caplog.messages
    assert re.search(reason, line) and "\n" not in line


def test_a_library_that_computes_something_else_is_not_kept(monkeypatch):
    monkeypatch.setattr(fused_batchnorm, "_operator", lambda node, limits: {
        **node, "op": OPERATOR, "attrs": {"eps": "1e-3", "momentum": "0.9", "a_min": "0", "a_max": "5.9"}})
    with pytest.raises(CannotFuse, match="does not compute"):
        fused_batchnorm.check()

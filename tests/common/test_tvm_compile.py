"""Networks compiled with TVM against MXNet. A build takes seconds to tens of seconds: few and small ones here."""
import subprocess
import sys

import numpy as np
import pytest

from common.errors import InputError
from common.find_mxnet import mx
from common.mxnet_predict import predict
from common.tvm_compile import compile_network, load_network, resolve_target
from symbols import mobilenetv2_gluon
from tests.conftest import ROOT
from tests.networks import random_params

TOLERANCE = 1e-4


def check_agreement(prefix, shape, target, epoch=0):
    network = compile_network(load_network(prefix, epoch, shape), *resolve_target(target))
    rng = np.random.RandomState(5)
    for _ in range(3):
        data = rng.normal(0, 1, shape).astype(np.float32)
        expected = predict(prefix, epoch, data)
        assert expected.std() > 0.01
        np.testing.assert_allclose(network.predict(data), expected, atol=TOLERANCE, rtol=0)
    return network


def export(prefix, image_shape, **options):
    """A checkpoint as Gluon's export writes it, with random weights."""
    symbol = mobilenetv2_gluon.get_symbol(num_classes=10, image_shape=image_shape, **options)
    arg_params, aux_params = random_params(symbol, (1, *image_shape))
    net = mobilenetv2_gluon.MobileNetV2(num_classes=10, image_shape=image_shape, **options)
    net.initialize()
    for name, parameter in net.collect_params().items():
        parameter.set_data(mx.nd.array({**arg_params, **aux_params}[name]))
    net.hybridize()
    net(mx.nd.zeros((1, *image_shape)))
    net.export(str(prefix), epoch=3)


def test_opencl_agrees_with_mxnet(checkpoint):
    network = check_agreement(checkpoint, (2, 3, 64, 64), "opencl")
    assert network.num_classes == 10
    with pytest.raises(ValueError, match="expected float32"):
        network.predict(np.zeros((1, 3, 64, 64), np.float32))


def test_llvm_agrees_with_mxnet_on_gluons_export_with_same_padding(tmp_path):
    export(tmp_path / "exported", (3, 50, 33), multiplier=0.35, strides="first", padding="same")
    check_agreement(tmp_path / "exported", (1, 3, 50, 33), "llvm", epoch=3)


@pytest.mark.long
@pytest.mark.parametrize("target", ["opencl", "llvm", "opencl -device=mali"])
@pytest.mark.parametrize(("multiplier", "strides", "padding", "size"), [
    (0.1, "published", "symmetric", 32), (0.73, "published", "same", 97), (1.0, "first", "symmetric", 160),
    (1.4, "published", "symmetric", 224), (2.0, "first", "same", 64),
])
def test_targets_agree_with_mxnet_everywhere(tmp_path, target, multiplier, strides, padding, size):
    export(tmp_path / "exported", (3, size, size), multiplier=multiplier, strides=strides, padding=padding)
    check_agreement(tmp_path / "exported", (1, 3, size, size), target, epoch=3)


@pytest.mark.parametrize("target", ["fpga", "", "opencl -foo=1", "opencl -max_num_threads=many", "{}"])
def test_unknown_targets_are_refused(target):
    with pytest.raises(InputError, match="unknown target"):
        resolve_target(target)


@pytest.mark.parametrize("target", ["hexagon", "c", "llvm -mtriple=riscv64-unknown-linux-gnu"])
def test_targets_that_cannot_run_here_are_refused(target):
    with pytest.raises(InputError, match="cannot run here"):
        resolve_target(target)


@pytest.mark.parametrize("mcpu", ["native", "pentium9"])
def test_unknown_processors_are_refused(mcpu):
    with pytest.raises(InputError, match=f"no processor '{mcpu}'"):
        resolve_target(f"llvm -mcpu={mcpu}")


def test_mxnet_after_tvm_is_refused_before_it_crashes():
    process = subprocess.run([sys.executable, "-c", "import common.tvm_runtime, common.find_mxnet"], cwd=ROOT,
                             capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "ImportError: import common.find_mxnet before TVM" in process.stderr


def test_parameters_that_do_not_fit_the_symbol_are_refused(checkpoint, tmp_path, capfd):
    symbol = (checkpoint.parent / "small-symbol.json").read_text()
    (tmp_path / "x-symbol.json").write_text(symbol)
    params = mx.nd.load(f"{checkpoint}-0000.params")
    mx.nd.save(str(tmp_path / "x-0000.params"), {k: v for k, v in params.items() if k != "arg:fc_bias"})
    with pytest.raises(InputError, match="has no 'fc_bias'"):
        load_network(tmp_path / "x", 0, (1, 3, 64, 64))
    mx.nd.save(str(tmp_path / "x-0001.params"), {**params, "arg:fc_weight": mx.nd.zeros((10, 7))})
    mx.nd.save(str(tmp_path / "x-0002.params"), {**params, "arg:last-1x1-conv-batchnorm_gamma": mx.nd.zeros((7,))})
    for epoch in (1, 2):
        with pytest.raises(InputError, match="do not fit") as error:
            load_network(tmp_path / "x", epoch, (1, 3, 64, 64))
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""

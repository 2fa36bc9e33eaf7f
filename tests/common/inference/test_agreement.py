"""Networks compiled with TVM against MXNet. A build takes seconds to tens of seconds: few and small ones here."""
import numpy as np
import pytest

from common.evaluation.score import predict
from common.find_mxnet import mx
from common.inference.network import open_network
from symbols import mobilenetv2_gluon
from symbols.mobilenetv2 import get_symbol
from tests.checkpoints import save_random
from tests.networks import random_params

TOLERANCE = 1e-4
OPENCL_ON_AVX2 = "opencl -keys=nchw8c,opencl,gpu"
# layers that are alike are compiled once; a block of each stride, with a residual connection where it may have one
SMALL = {"channels": (8,) * 8 + (16,), "repeats": (1, 1, 1, 1, 1, 1, 1)}


def check_agreement(prefix, shape, target, epoch=0):
    network = open_network(prefix, epoch, shape, target, cache=False)
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


@pytest.mark.parametrize("target", ["opencl", pytest.param(OPENCL_ON_AVX2, marks=pytest.mark.long)])
def test_opencl_agrees_with_mxnet(tmp_path, target):
    symbol = get_symbol(10, **SMALL)
    save_random(tmp_path / "short", 0, symbol, (2, 3, 64, 64))
    network = check_agreement(tmp_path / "short", (2, 3, 64, 64), target)
    assert network.num_classes == 10
    with pytest.raises(ValueError, match="expected float32"):
        network.predict(np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.long
def test_llvm_agrees_with_mxnet_on_gluons_export_with_same_padding(tmp_path):
    export(tmp_path / "exported", (3, 50, 33), strides="first", padding="same", **SMALL)
    check_agreement(tmp_path / "exported", (1, 3, 50, 33), "llvm", epoch=3)


def test_batchnorms_that_follow_no_convolution(tmp_path):
    net = mx.sym.BatchNorm(mx.sym.Variable("data"), fix_gamma=False, name="first")
    net = mx.sym.Activation(mx.sym.Convolution(net, kernel=(3, 3), num_filter=32, name="conv"), act_type="relu")
    net = mx.sym.BatchNorm(net, fix_gamma=False, name="last")
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1)))
    symbol = mx.sym.softmax(mx.sym.FullyConnected(net, num_hidden=10, name="fc"))
    save_random(tmp_path / "norms", 0, symbol, (1, 3, 16, 16))
    check_agreement(tmp_path / "norms", (2, 3, 16, 16), "llvm")


@pytest.mark.long
@pytest.mark.parametrize("target", ["opencl", OPENCL_ON_AVX2, "llvm", "llvm -mcpu=haswell", "opencl -device=mali"])
@pytest.mark.parametrize(("multiplier", "strides", "padding", "size"), [
    (0.1, "published", "symmetric", 32), (0.73, "published", "same", 97), (1.0, "first", "symmetric", 160),
    (1.4, "published", "symmetric", 224), (2.0, "first", "same", 64),
])
def test_targets_agree_with_mxnet_everywhere(tmp_path, target, multiplier, strides, padding, size):
    export(tmp_path / "exported", (3, size, size), multiplier=multiplier, strides=strides, padding=padding)
    check_agreement(tmp_path / "exported", (1, 3, size, size), target, epoch=3)


@pytest.mark.long
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("multiplier", [0.35, 1.0, 1.4])
@pytest.mark.parametrize("target", ["llvm", "opencl", OPENCL_ON_AVX2, "llvm -mcpu=haswell", "llvm -keys=cpu"])
def test_large_images_and_batches_agree_with_mxnet(tmp_path, target, multiplier, batch):
    export(tmp_path / "exported", (3, 224, 224), multiplier=multiplier)
    check_agreement(tmp_path / "exported", (batch, 3, 224, 224), target, epoch=3)

"""Gradients clipped by their norm, against float64."""
import numpy as np
import pytest

from common.find_mxnet import mx
from common.training.clipping import gradient_norm
from common.training.distributed import Workers
from common.training.optimizer import init_optimizer
from tests.common.training.test_training_math import settings

IMAGES = np.random.RandomState(1).normal(0, 1, (8, 3, 12, 12)).astype(np.float32)
LABELS = np.arange(8) % 3


def stepped(max_norm, devices=1, optimizer="sgd"):
    """(weights before, gradients of the eight images summed over the devices, weights after an update at rate 0.1)."""
    data = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=4, name="conv")
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(data, num_hidden=3, name="fc"), name="softmax")
    module = mx.mod.Module(net, context=[mx.cpu(i) for i in range(devices)])
    module.bind([("data", IMAGES.shape)], [("softmax_label", LABELS.shape)])
    mx.random.seed(0)
    module.init_params(mx.init.Xavier())
    init_optimizer(module, settings(mom=0.0, wd=0.0, optimizer=optimizer),
                   mx.lr_scheduler.FactorScheduler(1000, base_lr=0.1), "device" if devices > 1 else None)
    before = weights(module)
    module.forward_backward(mx.io.DataBatch([mx.nd.array(IMAGES)], [mx.nd.array(LABELS)]))
    gradients = {name: sum(array.asnumpy().astype(np.float64) for array in arrays)
                 for name, arrays in zip(module._exec_group.param_names, module._exec_group.grad_arrays)}
    Workers("device").update(module, max_norm)
    assert module._optimizer.rescale_grad == 1 / 8
    return before, gradients, weights(module)


def weights(module):
    return {name: array.asnumpy() for name, array in module.get_params()[0].items()}


@pytest.mark.parametrize("devices", [1, 2])
def test_all_gradients_are_scaled_to_the_norm_together(devices):
    """As torch.nn.utils.clip_grad_norm_ does: by max_norm / (norm + 1e-6), of the mean gradient of all images, whatever
    devices they are on."""
    before, gradients, after = stepped(0.05, devices)
    norm = np.sqrt(sum(np.square(gradient / 8).sum() for gradient in gradients.values()))
    assert norm > 0.5
    for name, gradient in gradients.items():
        expected = before[name] - 0.1 * (0.05 / (norm + 1e-6)) * gradient / 8
        np.testing.assert_allclose(after[name], expected, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_smaller_gradients_stay_as_they_are(devices, optimizer):
    plain, clipped = stepped(0.0, devices, optimizer)[2], stepped(100.0, devices, optimizer)[2]
    for name, array in plain.items():
        np.testing.assert_array_equal(array, clipped[name])


def test_the_norm_of_millions():
    """MXNet's own norm is 0.1 % off here."""
    rng = np.random.RandomState(0)
    gradients = [rng.normal(0, 1e-3, size).astype(np.float32) for size in (3_000_000, 10)]
    expected = np.sqrt(sum(np.square(gradient, dtype=np.float64).sum() for gradient in gradients))
    assert gradient_norm(list(map(mx.nd.array, gradients))) == pytest.approx(expected, rel=1e-6)
    half = mx.nd.array([300.0, 400.0], dtype="float16")  # whose squares float16 does not have
    assert gradient_norm([half]) == 500


def test_gradients_that_are_not_finite_reach_the_weights(monkeypatch):
    """Where the end of the run comes from."""
    monkeypatch.setitem(globals(), "IMAGES", IMAGES * np.float32("inf"))
    for optimizer in ("sgd", "adamw"):
        assert not all(np.isfinite(array).all() for array in stepped(1.0, optimizer=optimizer)[2].values())

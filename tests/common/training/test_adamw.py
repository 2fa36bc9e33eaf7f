"""AdamW against its formula in float64, which is that of torch.optim.AdamW."""
import numpy as np
import pytest

from common.find_mxnet import mx
from common.training import optimizer
from tests.common.training.test_training_math import settings

RNG = np.random.RandomState(3)
GRADIENTS = [(10.0 ** RNG.uniform(-4, 1, (40, 30)) * RNG.normal(0, 1, (40, 30))).astype(np.float32) for _ in range(20)]


def adamw(weight, gradients, lr, wd):
    w, m, v = weight.astype(np.float64), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        g = gradient.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = (1 - lr(t) * wd) * w - lr(t) * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    return w


@pytest.mark.parametrize(("name", "decayed"), [("fc_weight", True), ("fc_bias", False)])
def test_twenty_updates(name, decayed):
    """The rate falls; the gradients are of sixteen images."""
    weight = RNG.normal(0, 1, (40, 30)).astype(np.float32)
    made = mx.optimizer.create("adamw", learning_rate=0.01, wd=0.1, rescale_grad=1 / 16, param_idx2name={0: name},
                               lr_scheduler=mx.lr_scheduler.FactorScheduler(1, 0.9, base_lr=0.01))
    update, array = mx.optimizer.get_updater(made), mx.nd.array(weight)
    for gradient in GRADIENTS:
        update(0, mx.nd.array(16 * gradient), array)
    expected = adamw(weight, GRADIENTS, lambda t: 0.01 * 0.9 ** (t - 1), 0.1 * decayed)
    assert np.abs(expected - weight).max() > 0.03
    np.testing.assert_allclose(array.asnumpy(), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "nag", "rmsprop"])
def test_float16_weights_have_a_copy_in_float32(name):
    """It is that of a float32 weight with the same gradients, and the weight is it, rounded."""
    weights = [mx.nd.array(RNG.normal(0, 1, (40, 30)).astype(np.float16), dtype=dtype)
               for dtype in ("float16", "float32")]
    weights[1][:] = weights[0].astype("float32")
    updaters = []
    for weight in weights:
        made = optimizer._create(settings(optimizer=name, dtype=str(np.dtype(weight.dtype))),
                                 mx.lr_scheduler.FactorScheduler(1000, base_lr=0.001))
        updaters.append(mx.optimizer.get_updater(made))
        for gradient in GRADIENTS[:5]:
            updaters[-1](0, mx.nd.array(gradient).astype("float16").astype(weight.dtype), weight)
    master = optimizer._master(updaters[0].optimizer, updaters[0].states[0])
    assert master.dtype == np.float32
    np.testing.assert_allclose(master.asnumpy(), weights[1].asnumpy(), atol=1e-6)
    np.testing.assert_array_equal(weights[0].asnumpy(), master.asnumpy().astype(np.float16))

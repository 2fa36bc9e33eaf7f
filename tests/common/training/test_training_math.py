"""One step or a few of what training computes, against NumPy."""
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.ndarrays import write_params
from common.checkpoint.params import load_params
from common.find_mxnet import mx
from common.training.mixup import MixedIter
from common.training.module import WeightAverage
from common.training.optimizer import NOT_EXACT, check_optimizer, init_optimizer, restore_state, state_arrays
from common.training.run_summary import network_summary
from common.training.training_symbol import params_before, training_symbol
from symbols.mobilenetv2 import get_symbol

RNG = np.random.RandomState(7)


def softmax(x):
    exponents = np.exp(x - x.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def head_gradient(label, x, targets=None, **options):
    """d loss / d logits of the training head, where the network is its fc layer alone with an identity weight.
    `targets`: {name: array} of what a batch has besides labels."""
    data = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=x.shape[1], name="fc")
    symbol = training_symbol(mx.sym.SoftmaxOutput(data, name="softmax"), **options)
    inputs = {"data": x, "softmax_label": label, **(targets or {})}
    executor = symbol.simple_bind(mx.cpu(), **{name: array.shape for name, array in inputs.items()})
    executor.copy_params_from({"fc_weight": mx.nd.array(np.eye(x.shape[1])), "fc_bias": mx.nd.zeros(x.shape[1])})
    executor.forward(is_train=True, **{name: mx.nd.array(array) for name, array in inputs.items()})
    np.testing.assert_allclose(executor.outputs[0].asnumpy(), softmax(x), atol=1e-6)
    executor.backward()
    return executor.grad_dict["data"].asnumpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_label_smoothing(smoothing):
    """The gradient of the cross-entropy with a target of 1 - s, and s / (K - 1) for each other class."""
    x, label = RNG.normal(0, 2, (8, 5)), RNG.randint(0, 5, 8)
    target = np.where(np.eye(5)[label] == 1, 1 - smoothing, smoothing / 4)
    np.testing.assert_allclose(head_gradient(label, x, label_smoothing=smoothing), softmax(x) - target, atol=1e-6)


def test_soft_targets_and_the_loss_scale():
    x, target = RNG.normal(0, 2, (8, 5)), RNG.dirichlet(np.ones(5), 8)
    np.testing.assert_allclose(head_gradient(target, x, loss_scale=64.0), 64 * (softmax(x) - target), atol=1e-4)


class Batches(mx.io.DataIter):
    def __init__(self, data, labels, batch_size):
        super().__init__(batch_size)
        self._iter = mx.io.NDArrayIter(data, labels, batch_size)
        self.provide_data, self.provide_label = self._iter.provide_data, self._iter.provide_label

    def next(self):
        return self._iter.next()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup(smoothing):
    """As torchvision.transforms.v2.MixUp: l x + (1 - l) y, y the image before, and the same for smoothed targets. l is
    from Beta(a, a), another one for each batch."""
    data, labels = RNG.normal(0, 1, (40, 3, 4, 4)).astype(np.float32), RNG.randint(0, 6, 40)
    images = MixedIter(Batches(data, labels, 10), 0.4, 0, 6, smoothing, (5, 2, 0))
    assert images.provide_label[0].shape == (10, 6)
    smoothed = np.where(np.eye(6)[labels] == 1, 1 - smoothing, smoothing / 5)
    for b, batch in enumerate(images):
        rng = np.random.default_rng([5, 2, 0, b])
        share = rng.beta(0.4, 0.4)
        for source, mixed in ((data, batch.data[0]), (smoothed, batch.label[0])):
            x = source[10 * b:10 * b + 10]
            np.testing.assert_allclose(mixed.asnumpy(), share * x + (1 - share) * np.roll(x, 1, axis=0), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cutmix(smoothing):
    """As torchvision.transforms.v2.CutMix: one box, from the image before; the targets are weighed by its area."""
    data, labels = RNG.normal(0, 1, (60, 3, 20, 14)).astype(np.float32), RNG.randint(0, 6, 60)
    smoothed = np.where(np.eye(6)[labels] == 1, 1 - smoothing, smoothing / 5)
    for b, batch in enumerate(MixedIter(Batches(data, labels, 6), 0, 1.0, 6, smoothing, (5, 2, 0))):
        rng, part = np.random.default_rng([5, 2, 0, b]), slice(6 * b, 6 * b + 6)
        radius, before = np.sqrt(1 - rng.beta(1, 1)) / 2, np.roll(np.arange(6), 1)
        y, x = rng.integers(20), rng.integers(14)
        top, bottom = max(y - int(radius * 20), 0), min(y + int(radius * 20), 20)
        left, right = max(x - int(radius * 14), 0), min(x + int(radius * 14), 14)
        expected, area = data[part].copy(), (bottom - top) * (right - left) / 280
        expected[:, :, top:bottom, left:right] = data[part][before][:, :, top:bottom, left:right]
        np.testing.assert_array_equal(batch.data[0].asnumpy(), expected)
        target = batch.label[0].asnumpy()
        np.testing.assert_allclose(target, (1 - area) * smoothed[part] + area * smoothed[part][before], atol=1e-6)
        np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
        kept = (batch.data[0].asnumpy() == data[part]).all(1).mean((1, 2))  # of each image
        assert kept == pytest.approx(1 - area)


def test_mixup_and_cutmix_are_as_likely_for_a_batch():
    """Images of one colour each have several only where one was cut out."""
    data = np.tile(np.arange(2, dtype=np.float32), 800)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((1, 3, 8, 8))
    found = {"mixup": 0, "cutmix": 0}
    for batch in MixedIter(Batches(data, np.zeros(1600), 2), 1.0, 1.0, 2, 0, (7, 0, 0)):
        mixed = batch.data[0].asnumpy()
        if not (mixed == mixed[:, :1, :1, :1]).all():
            found["cutmix"] += 1
        elif ((mixed != 0) & (mixed != 1)).all():
            found["mixup"] += 1
    assert 350 < found["mixup"] < 450 and 200 < found["cutmix"] < 400  # a box can be empty, or the whole image


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0), (0, 1.0), (0.4, 1.0)])
def test_mixing_goes_on_at_any_batch(mixup, cutmix):
    data, labels = RNG.normal(0, 1, (80, 3, 8, 8)).astype(np.float32), RNG.randint(0, 6, 80)

    def mixed(first):
        batches = MixedIter(Batches(data[10 * first:], labels[10 * first:], 10), mixup, cutmix, 6, 0, (5, 2, 0), first)
        return [np.concatenate([array.asnumpy().ravel() for array in (*batch.data, *batch.label)])
                for batch in batches]
    for first in (1, 3):
        np.testing.assert_array_equal(mixed(0)[first:], mixed(first))


def test_the_share_of_mixup_has_its_distribution():
    """Beta(0.4, 0.4): mean 0.5, variance 1 / (4 (2 * 0.4 + 1)) = 0.1389; read off images of 1 and 0."""
    data, labels = np.tile(np.array([1, 0], np.float32), 2000).reshape(4000, 1, 1, 1), np.zeros(4000)
    share = np.array([batch.data[0].asnumpy()[0].item()
                      for batch in MixedIter(Batches(data, labels, 2), 0.4, 0, 2, 0, (1, 0, 0))])
    assert share.size == 2000 and share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(0.1389, abs=0.012)


def test_the_moving_average():
    weights = [RNG.normal(0, 1, (3, 2)).astype(np.float32) for _ in range(30)]
    average, expected = WeightAverage(0.8, {"w": mx.nd.array(weights[0])}), weights[0].astype(np.float64)
    for n, weight in enumerate(weights[1:], 1):
        average.update({"w": mx.nd.array(weight)}, n)
        decay = min(0.8, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight
    np.testing.assert_allclose(average.arrays["w"].asnumpy(), expected, atol=1e-6)


SMALL = dict(data=(4, 3, 32, 32))


def small_module(frozen=()):
    network = get_symbol(3, 0.1)
    module = mx.mod.Module(training_symbol(network, frozen=frozen), fixed_param_names=frozen)
    module.bind([("data", SMALL["data"])], [("softmax_label", (4,))])
    module.init_params(mx.init.Xavier())
    return module


def settings(**changes):
    return SimpleNamespace(**{**dict(optimizer="sgd", mom=0.9, wd=0.1, no_wd=0, head_lr_mult=1.0, dtype="float32"),
                              **changes})


def one_step(module, seed):
    rng = np.random.RandomState(seed)
    module.forward_backward(mx.io.DataBatch([mx.nd.array(rng.normal(0, 1, SMALL["data"]))],
                                            [mx.nd.array(rng.randint(0, 3, 4))]))
    mx.nd.waitall()
    gradients = {name: arrays[0].asnumpy() for name, arrays in
                 zip(module._exec_group.param_names, module._exec_group.grad_arrays) if arrays[0] is not None}
    before = {name: array.asnumpy() for name, array in module.get_params()[0].items()}
    module.update()
    return before, gradients, {name: array.asnumpy() for name, array in module.get_params()[0].items()}


@pytest.mark.parametrize("optimizer", ["sgd", "nag"])
@pytest.mark.parametrize("no_wd", [0, 1])
def test_weight_decay_momentum_and_the_head(optimizer, no_wd):
    """Two steps of every parameter: v = m v - lr g and w += v (sgd), w += m v - lr g with the new v (nag), where
    g = gradient / batch + wd w, no wd on biases and beta, nor with no_wd on gamma; lr times 3 for the head. MXNet's nag
    keeps v with the decay of the weight after the step."""
    module = small_module()
    init_optimizer(module, settings(optimizer=optimizer, no_wd=no_wd, head_lr_mult=3.0),
                   mx.lr_scheduler.FactorScheduler(1000, base_lr=0.05), None)
    velocity = {}
    for seed in (0, 1):
        before, gradients, after = one_step(module, seed)
        for name, weight in before.items():
            decayed = name.endswith("_weight") or name.endswith("_gamma") and not no_wd
            lr = 0.15 if name.startswith("fc_") else 0.05
            g = gradients[name] / 4 + 0.1 * decayed * weight
            velocity[name] = v = 0.9 * velocity.get(name, 0) - lr * g
            expected = weight + (v if optimizer == "sgd" else 0.9 * v - lr * g)
            if optimizer == "nag":
                velocity[name] -= lr * 0.1 * decayed * (expected - weight)
            np.testing.assert_allclose(after[name], expected, atol=2e-6, rtol=1e-5, err_msg=name)


def tiny_module():
    data = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), stride=(8, 8), num_filter=4, name="conv")
    data = mx.sym.Activation(mx.sym.BatchNorm(data, fix_gamma=False, name="norm"), act_type="relu")
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(data, num_hidden=3, name="fc"), name="softmax")
    module = mx.mod.Module(net)
    module.bind([("data", SMALL["data"])], [("softmax_label", (4,))])
    module.init_params(mx.init.Xavier())
    return module


@pytest.mark.parametrize("mom", [0.9, 0.0])
@pytest.mark.parametrize("optimizer", sorted(mx.optimizer.Optimizer.opt_registry))
def test_every_optimizer_of_mxnet_goes_on_where_it_was_or_is_refused(tmp_path, caplog, optimizer, mom):
    """Its state is saved after three updates; the next two are those of the one that goes on. The rate changes."""
    args = settings(optimizer=optimizer, mom=mom)
    if optimizer in ("adamax", "groupadagrad", "test") or (optimizer, mom) == ("dcasgd", 0.9):
        hint = "--mom 0, or " if optimizer == "dcasgd" else ""
        with pytest.raises(InputError, match=f"^--optimizer {optimizer}: .*; give {hint}one of .* sgd, .*") as error:
            check_optimizer(args)
        assert "\n" not in str(error.value) and "test" not in str(error.value).partition("; give")[2]
        return
    with caplog.at_level(logging.INFO):
        check_optimizer(args)
    assert not caplog.records  # of MXNet's own
    one, other = tiny_module(), tiny_module()

    def begin(module, updates):
        init_optimizer(module, args, mx.lr_scheduler.FactorScheduler(1, 0.5, base_lr=0.01), None, updates=updates)

    begin(one, 0)
    for seed in range(3):
        one_step(one, seed)
    write_params(tmp_path / "x.optimizer", state_arrays(one))
    other.set_params(*one.get_params())
    begin(other, 3)
    restore_state(other, load_params(tmp_path / "x.optimizer"), tmp_path / "x.optimizer")
    for seed in (3, 4):
        expected, restored = one_step(one, seed)[2], one_step(other, seed)[2]
        for name, weight in expected.items():
            assert np.isfinite(weight).all() and np.isfinite(restored[name]).all()
            assert optimizer in NOT_EXACT or (weight == restored[name]).all(), name


def test_frozen_layers_get_no_gradient():
    frozen = params_before(get_symbol(3, 0.1), "seq-6-block0")
    assert frozen[0] == "first-3x3-conv-conv2d_weight" and frozen[-1] == "seq-5-block2-linear-batchnorm_beta"
    module = small_module(frozen)
    init_optimizer(module, settings(), mx.lr_scheduler.FactorScheduler(1000, base_lr=0.05), None)
    aux_before = {name: array.asnumpy() for name, array in module.get_params()[1].items()}
    before, gradients, after = one_step(module, 0)
    assert not set(frozen) & set(gradients)
    for name, weight in before.items():
        assert (weight == after[name]).all() == (name in frozen), name
    for name, array in module.get_params()[1].items():
        assert (array.asnumpy() == aux_before[name]).all() == (f"{name.rpartition('_moving')[0]}_gamma" in frozen), name


@pytest.mark.parametrize(("multiplier", "parameters", "millions"), [(1.0, 3_505_960, 313.6), (1.4, 6_099_079, 597.1)])
def test_the_size_of_the_network(multiplier, parameters, millions):
    counted, multiply_adds = network_summary(get_symbol(1000, multiplier), (2, 3, 224, 224))
    assert counted == parameters and round(multiply_adds / 1e6, 1) == millions

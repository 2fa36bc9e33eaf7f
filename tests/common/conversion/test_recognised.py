"""MobileNetV2 recognised by its steps: what several readers share, and no file of a test here has."""
import numpy as np
import pytest

from common.base.errors import InputError
from common.conversion.structure import BatchNorm, Step, recognised
from symbols.architecture import architecture

CHANNELS, REPEATS = (4, 4, 6, 8, 8, 10, 12, 14, 16), (1, 1, 2, 1, 1, 1, 1)


def steps_of(seed=0, eps=1e-5, **options):
    """The steps of this repository's network, with random weights."""
    rng, steps = np.random.RandomState(seed), []
    plan = architecture(channels=CHANNELS, repeats=REPEATS, **options)

    def unit(unit):
        shape = (unit.channels, unit.in_channels // unit.groups, unit.kernel, unit.kernel)
        norm = BatchNorm(*rng.uniform(0.5, 1, (4, unit.channels)), eps)
        steps.append(Step("D" if unit.groups > 1 else "C", f"node {unit.name!r}", weight=rng.normal(0, 1, shape),
                          batchnorm=norm, stride=unit.stride, pads=unit.padding, activations=(unit.activation,)))
    unit(plan.first)
    for block in plan.blocks:
        begin = len(steps)
        for layer in block.units:
            unit(layer)
        if block.shortcut:
            steps.append(Step("A", f"node {block.name!r}", begin))
    unit(plan.last)
    return [*steps, Step("P", "pool"), Step("F", "fc", weight=rng.normal(0, 1, (3, plan.last.channels)))]


def test_every_option_is_recognised():
    for strides in ("published", "first"):
        for activation in ("relu6", "relu"):
            _, found = recognised(steps_of(strides=strides, activation=activation), None)
            assert found == {"strides": strides, "activation": activation, "padding": "symmetric"}


def test_same_padding_by_the_size_by_any_size_and_by_name():
    steps = steps_of(padding="same", image_shape=(3, 110, 110))
    assert recognised(steps, (3, 110, 110))[1]["padding"] == "same"
    found = recognised(steps, None)[1]  # which has to pad as 110 does
    assert found["padding"] == "same" and (found["image_shape"][1] - 110) % 32 == 0
    named = [step._replace(pads=None) if step.stride == 2 else step for step in steps]
    assert recognised(named, (3, 110, 110))[1] == recognised(steps, (3, 110, 110))[1]
    assert recognised(named, None)[1] == {"strides": "published", "activation": "relu6", "padding": "same"}
    with pytest.raises(InputError, match="padded"):
        recognised(steps, (3, 224, 224))


def test_a_step_that_is_not_mobilenets_a_network_that_ends_early_and_none():
    steps = steps_of()
    for changed, words in (([*steps[:4], Step("?", "node 'x' (Concat)")], ["'x' (Concat)", "a convolution"]),
                           (steps[:-1], ["ends", "a classifier"]), ([], ["ends", "a convolution"]),
                           ([*steps, Step("S", "softmax"), Step("S", "again")], ["again", "its end"])):
        with pytest.raises(InputError) as error:
            recognised(changed, None)
        assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("eps", [0, 1e-12, 1e-5, 1e-3])
def test_a_batchnorm_of_any_eps_computes_the_same(eps):
    """For variances below this repository's eps too, by gamma."""
    steps = steps_of(eps=eps)
    norm = steps[0].batchnorm._replace(var=np.array([1e-9, 1e-6, 1e-5, 1]))
    params, _ = recognised([steps[0]._replace(batchnorm=norm, bias=np.arange(4.0)), *steps[1:]], None)
    gamma, beta, mean, var = (params[f"first-3x3-conv-batchnorm_{part}"]
                              for part in ("gamma", "beta", "moving_mean", "moving_var"))
    x = np.random.RandomState(1).normal(0, 1, (9, 4))
    expected = norm.gamma * (x + np.arange(4) - norm.mean) / np.sqrt(norm.var + eps) + norm.beta
    np.testing.assert_allclose(gamma * (x - mean) / np.sqrt(var + 1e-5) + beta, expected, rtol=1e-10)
    assert (var >= 0).all()
    for var in (-1.0, np.nan, -eps):
        bad = norm._replace(var=np.array([1, 1, var, 1]))
        with pytest.raises(InputError, match="first-3x3-conv.*variance"):
            recognised([steps[0]._replace(batchnorm=bad), *steps[1:]], None)


def test_a_stage_too_many():
    """By a block without its shortcut."""
    steps = steps_of()
    at = next(number for number, step in enumerate(steps) if step.letter == "A")
    with pytest.raises(InputError, match="stages"):
        recognised([*steps[:at], *steps[at + 1:]], None)

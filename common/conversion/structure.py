"""MobileNetV2 recognised by what is computed, whatever the names in its file are.

A reader turns the operators of a file into steps, in the order in which they run. They give the parameters under their
published names, or one line with the first step that MobileNetV2 does not have.
"""
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.base.errors import InputError
from common.checkpoint.arrays import SIZES
from common.conversion.assemble import EPS, IDENTITY, Params
from symbols.architecture import (
    ACTIVATIONS,
    CLASSIFIER,
    REPEATS,
    STRIDES,
    Architecture,
    Padding,
    Unit,
    architecture,
)

NO_PADDING = ((0, 0), (0, 0))
HIGHEST = 6.03  # of 8 bits that are laid out for 0..6
LETTERS = {"C": "a convolution", "D": "a depthwise convolution", "A": "an addition", "P": "a pooling over the map",
           "F": "a classifier", "S": "a softmax", "": "its end"}  # and "?" for what MobileNetV2 does not have
# after each step of the network: the letters that may follow, and which step each then is
FOLLOWING = {
    "input": {"C": "first convolution"},
    "first convolution": {"C": "first expansion", "D": "first depthwise convolution"},
    "first expansion": {"D": "first depthwise convolution"},
    "first depthwise convolution": {"C": "first projection"},  # of a block that never has a shortcut
    "first projection": {"C": "expansion or last convolution"},
    "expansion or last convolution": {"D": "depthwise convolution", "P": "pooling"},
    "depthwise convolution": {"C": "projection"},
    "projection": {"A": "shortcut", "C": "expansion or last convolution"},
    "shortcut": {"C": "expansion or last convolution"},
    "pooling": {"F": "classifier"},
    "classifier": {"S": "softmax", "": "end"},
    "softmax": {"": "end"},
}
ACTIVATED = ("first convolution", "first expansion", "first depthwise convolution", "expansion or last convolution",
             "depthwise convolution")
BLOCK = re.compile("C?DCA?")


class BatchNorm(NamedTuple):
    """One that stays one: four arrays of shape (channels,), and what is added to the variance."""
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    eps: float


class Step(NamedTuple):
    """What is computed from the result of the step before; of the first, from the network's input.

    `weight` of C: (out, in, kh, kw), of D: (channels, 1, kh, kw), of F: (classes, features). `bias`: (out,), or None.
    """
    letter: str                        # of LETTERS
    name: str                          # of the node or operator, as a message has it: "node 'conv1' (Convolution)"
    other: int = 0                     # an addition's other operand: the result of the step of this number, from 1
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    batchnorm: BatchNorm | None = None
    stride: int = 1
    pads: Padding | None = NO_PADDING  # ((top, bottom), (left, right)); None: TensorFlow's SAME
    # one of ACTIVATIONS, or None; several where the file leaves it open, as 8 bits that hold no numbers but 0..6
    activations: tuple[str | None, ...] = (None,)


def recognised(steps: Sequence[Step], image_shape: tuple[int, int, int] | None,
               layouts: tuple[str, str] = ("same", "symmetric")) -> tuple[Params, dict]:
    """(params, description) of the network that the steps compute. Where they have no BatchNorm, `params` have
    UNIT-conv2d_bias. The description: "strides", "padding" and "activation", keywords of
    `symbols.architecture.architecture`, and "image_shape", for which SAME padding is laid out, if that is known.

    `image_shape`: (3, H, W) of the network's input; if None, SAME padding is recognised by any size that pads so.
    `layouts`: both of PADDINGS; the first is preferred where they are the same, as for images of 97 pixels.

    Raises InputError, with the first step that differs, for another network than MobileNetV2.
    """
    blocks = _blocks(steps)
    strides, channels, repeats = _stages(steps, blocks)
    shaped = [(padding, image_shape) for padding in layouts] if image_shape else [
        ("symmetric", None), *(("same", (3, size, size)) for size in SIZES)]
    try:
        plans = [architecture(strides=strides, padding=padding, image_shape=shape, channels=channels, repeats=repeats)
                 for padding, shape in shaped]
    except ValueError as error:
        raise InputError(str(error)) from None

    convolutions, classifier = [step for step in steps if step.letter in "CD"], _classifier(steps, channels[-1])
    params: Params = {}
    for step, unit in zip(convolutions, _units(plans[0], blocks), strict=True):
        params |= {f"{unit.name}-{part}": array for part, array in _unit_params(step, unit).items()}
    params |= zip(CLASSIFIER, (classifier.weight, _bias(classifier)))

    description = {"strides": strides, "activation": _activation(convolutions, _units(plans[0], blocks))}
    for (padding, shape), plan in zip(shaped, plans):
        if all(_pads_as(step, unit, padding) for step, unit in zip(convolutions, _units(plan, blocks))):
            known = image_shape or shape and all(step.pads for step in convolutions)
            return params, description | {"padding": padding} | ({"image_shape": shape} if known else {})
    size = " for images of {1}x{2}".format(*image_shape) if image_shape else ""
    raise InputError(f"its convolutions are padded neither as TensorFlow's SAME{size} nor by one pixel on every side")


def _blocks(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps of each block: DC, CDC or, with a shortcut, CDCA. Raises InputError unless all steps are, by their
    letters and the operands of additions, those of MobileNetV2."""
    expected_after([*steps, Step("", "")])
    blocks = []
    for match in BLOCK.finditer("".join(step.letter for step in steps), 1):
        blocks.append(list(steps[slice(*match.span())]))
        if match[0].endswith("A") and blocks[-1][-1].other != match.start():  # the result of the step before
            raise InputError(f"{blocks[-1][-1].name}: a shortcut that does not begin at its block's input")
    return blocks


def expected_after(steps: Sequence[Step]) -> str:
    """What MobileNetV2 has after these steps, for a message: "a pooling over the map, after the last". Raises
    InputError, with the first step that differs, unless by their letters the network begins with them; a step "" is
    the end."""
    place, before = "input", Step("", "").activations
    for step in steps:
        if step.letter not in FOLLOWING[place]:
            what = " is ".join(filter(None, (step.name, LETTERS.get(step.letter)))) if step.letter else "ends"
            is_other_activation = step.letter == "?" and place in ACTIVATED and before == (None,)
            expected = f"{' or '.join(ACTIVATIONS)}, after the {place}" if is_other_activation else _following(place)
            raise InputError(f"{what} where MobileNetV2 has {expected}")
        place, before = FOLLOWING[place][step.letter], step.activations
    return _following(place)


def _following(place):
    letters = FOLLOWING.get(place, {})
    return " or ".join(LETTERS[letter] for letter in letters) + f", after the {place}" if letters else "nothing"


def _stages(steps, blocks):
    """(name of the stride table, nine widths, seven numbers of blocks): a block without a shortcut begins a stage."""
    repeats, strides, channels = [], [], [_channels(steps[0])]
    for block in blocks:
        depthwise, projection = block[_depthwise(block):][:2]
        if block[-1].letter != "A":
            repeats.append(0)
            strides.append(depthwise.stride)
            channels.append(_channels(projection))
        repeats[-1] += 1
    table = next((name for name, of_stages in STRIDES.items() if of_stages == tuple(strides)), None)
    if table is None:
        raise InputError(f"its stages, each begun by a block without a shortcut, have {tuple(repeats)} blocks and "
                         f"strides {tuple(strides)}; MobileNetV2's have {REPEATS} and {STRIDES['published']}")
    last = [step for step in steps if step.letter == "C"][-1]
    return table, (*channels, _channels(last)), tuple(repeats)


def _depthwise(block):
    return [step.letter for step in block].index("D")


def _channels(step):
    return (*step.weight.shape, 0)[0]


def _units(plan: Architecture, blocks: list[list[Step]]) -> list[Unit]:
    """Those of the network, without the first block's expansion if the steps have none."""
    return [unit for unit in plan.units if unit.name != IDENTITY or _depthwise(blocks[0])]


def _classifier(steps, features):
    step, = (step for step in steps if step.letter == "F")
    if step.weight.ndim != 2 or step.weight.shape[1] != features:
        raise InputError(f"{step.name}: its weights are of shape {step.weight.shape}; MobileNetV2's classifier has "
                         f"(classes, {features})")
    return step


def _unit_params(step: Step, unit: Unit) -> Params:
    """The arrays of a convolution and what follows, with UNIT's name left out; their BatchNorm has this repository's
    eps."""
    shape = (unit.channels, unit.in_channels // unit.groups, unit.kernel, unit.kernel)
    if step.weight.shape != shape or step.stride != unit.stride:
        raise InputError(f"{step.name}, its {unit.name}, has weights of shape {step.weight.shape} and stride "
                         f"{step.stride}; MobileNetV2's has {shape} and {unit.stride}")
    bias = _bias(step)
    if step.batchnorm is None:
        return {"conv2d_weight": step.weight, "conv2d_bias": bias}
    *arrays, eps = step.batchnorm
    if any(array.shape != bias.shape for array in arrays):
        raise InputError(f"{step.name}, its {unit.name}, has {len(bias)} channels, and a BatchNorm of other shapes")
    with np.errstate(all="ignore"):  # of infinities, which are refused when all parameters are there
        gamma, beta, mean, var = (array.astype(np.float64) for array in arrays)
        if not (var + eps > 0).all():
            raise InputError(f"{step.name}, its {unit.name}, has a BatchNorm with a variance of {var.min():g}")
        # where the variance with a smaller eps is below this repository's eps, gamma makes up for it
        exact = np.maximum(var + (eps - EPS), 0)
        return {"conv2d_weight": step.weight, "batchnorm_gamma": gamma * np.sqrt((exact + EPS) / (var + eps)),
                "batchnorm_beta": beta, "batchnorm_moving_mean": mean - bias, "batchnorm_moving_var": exact}


def _bias(step: Step) -> np.ndarray:
    """(out,); zeros if the step has none."""
    bias = np.zeros(len(step.weight), np.float32) if step.bias is None else step.bias
    if bias.shape != step.weight.shape[:1]:
        raise InputError(f"{step.name} has weights for {len(step.weight)} channels and a bias of shape {bias.shape}")
    return bias


def _activation(convolutions, units):
    """The one activation of all units that have one."""
    left = ACTIVATIONS
    for step, unit in zip(convolutions, units):
        expected = left if unit.activation else (None,)
        fitting = tuple(activation for activation in expected if activation in step.activations)
        if not fitting:
            found, wanted = ([f"{name or 'no activation'}" for name in names] for names in (step.activations, expected))
            raise InputError(f"{step.name}, its {unit.name}, ends in another activation, {' or '.join(found)}, than "
                             f"MobileNetV2's, {' or '.join(wanted)}")
        left = fitting if unit.activation else left
    return left[0]


def fitting(activation: str | None, low: float, high: float) -> tuple[str | None, ...]:
    """The activations that a result may have had: its own, and all that would not change a number that the result's 8
    bits, from `low` to `high`, can hold."""
    found = [activation]
    if None in found and low >= 0:
        found.append("relu")
    if "relu" in found and high <= HIGHEST:
        found.append("relu6")
    return tuple(found)


def _pads_as(step, unit, padding):
    """Whether a convolution is padded as `unit` is, in a network of that `padding`."""
    return step.pads == unit.padding or step.pads is None and (padding == "same" or unit.stride == 1)

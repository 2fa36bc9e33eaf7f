"""From another framework's parameters to those of the published network, with all differences made up for."""
import math
import re
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, checked, widths_of
from common.checkpoint.preprocessing import Preprocessing
from symbols.architecture import CLASSIFIER, STRIDES

EPS = 1e-5  # BatchNorm's, here
BATCHNORM = ("gamma", "beta", "moving_mean", "moving_var")
FIRST_BATCHNORM = "first-3x3-conv-batchnorm"
IDENTITY = "seq-0-block0-exp"
DIMENSIONS = {"fc_weight": (2, "of two dimensions"), "fc_bias": (1, "of one dimension")}
UNIT_VARIANCE = 1 - EPS  # the variance by which a BatchNorm divides by 1

Params = dict[str, np.ndarray]  # under their published names


def check_units(params: Params, source: str | Path) -> None:
    """Raise InputError, which names `source`, unless weights have four dimensions, and the arrays that go with
    them have one."""
    for name, array in params.items():
        weight = f"{re.split('-conv2d_|-batchnorm_', name)[0]}-conv2d_weight"
        if name in DIMENSIONS or name == weight:
            dimensions, described = DIMENSIONS.get(name, (4, "of four dimensions"))
            shape = array.shape if array.ndim == dimensions else described
        elif weight not in params:
            raise InputError(f"{source}: holds {name!r}, but no {weight}")
        else:
            shape = params[weight].shape[:1]
        if array.shape != shape or not array.size:
            raise InputError(f"{source}: {name} has shape {array.shape}; expected {shape}")
    needed = [f"{FIRST_BATCHNORM}_{part}" for part in BATCHNORM]
    if missing := [name for name in (*needed, *CLASSIFIER) if name not in params]:
        raise InputError(f"{source}: has no {missing[0]}")


def with_batchnorms(params: Params) -> Params:
    """`params` in which a unit may have a bias (UNIT-conv2d_bias), into which its BatchNorm is folded: a BatchNorm
    that adds the bias replaces it."""
    out = {}
    for name, array in params.items():
        if not name.endswith("-conv2d_bias"):
            out[name] = array
            continue
        unit = name.removesuffix("-conv2d_bias")
        out[f"{unit}-batchnorm_gamma"] = np.ones_like(array)
        out[f"{unit}-batchnorm_beta"] = array
        out[f"{unit}-batchnorm_moving_mean"] = np.zeros_like(array)
        out[f"{unit}-batchnorm_moving_var"] = np.full_like(array, UNIT_VARIANCE)
    return out


def with_eps(params: Params, eps: float) -> Params:
    """`params` of a network whose BatchNorms add `eps` to the variance: the difference goes into the variances."""
    if eps == EPS:
        return params
    return {name: (array.astype(np.float64) + (eps - EPS)).astype(np.float32) if name.endswith("_moving_var") else array
            for name, array in params.items()}


def with_expansion(params: Params, activation: str = "relu6") -> Params:
    """`params`, in which a missing expansion of the first block is an identity, on the first unit's output, which is
    that of the `activation`.

    Its BatchNorm has the mean and variance of its input if the output of the first unit's BatchNorm is normally
    distributed with its beta and gamma. So it stays close to an identity in training, which uses a batch's own
    statistics instead.
    """
    if f"{IDENTITY}-conv2d_weight" in params:
        return params
    gamma, beta, mean, var = (params[f"{FIRST_BATCHNORM}_{part}"] for part in BATCHNORM)
    if is_folded(gamma, mean, var):
        mean, var = np.zeros(len(beta)), np.full(len(beta), UNIT_VARIANCE)
    else:
        mean, var = _activated_normal(beta.astype(np.float64), np.abs(gamma.astype(np.float64)), activation)
    identity = {"conv2d_weight": np.eye(len(beta)).reshape(len(beta), len(beta), 1, 1), "batchnorm_beta": mean,
                "batchnorm_gamma": np.sqrt(np.float32(var).astype(np.float64) + EPS), "batchnorm_moving_mean": mean,
                "batchnorm_moving_var": var}
    return params | {f"{IDENTITY}-{part}": array.astype(np.float32) for part, array in identity.items()}


def without_expansion(params: Params) -> Params:
    """`params` without the first block's expansion if that is an identity, else all of them."""
    weight, gamma, beta, mean, var = (params[f"{IDENTITY}-{part}"] for part in (
        "conv2d_weight", "batchnorm_gamma", "batchnorm_beta", "batchnorm_moving_mean", "batchnorm_moving_var"))
    identity = (np.array_equal(weight[:, :, 0, 0], np.eye(len(weight))) and np.array_equal(beta, mean)
                and np.allclose(gamma, np.sqrt(var.astype(np.float64) + EPS), rtol=1e-6, atol=0))
    return {name: array for name, array in params.items() if not identity or not name.startswith(f"{IDENTITY}-")}


def pixels_of(scale: np.ndarray, shift: np.ndarray, mean: np.ndarray | float | None = None,
              std: np.ndarray | float = 1) -> dict:
    """{"preprocessing", "notes"} of a description, for a network that itself computes `scale` x image + `shift`, both
    (3,), of (pixel - mean) / std; with a mean of None, of what the file does not say: of images of 0..1 if `scale` and
    `shift` are such as there are for these, else of 0..255.

    Raises InputError for a scale that is not above 0.
    """
    base = np.zeros(3) if mean is None else mean
    with np.errstate(all="ignore"):
        means, stds = base - shift * std / scale, std / scale
    if not (np.isfinite(means).all() and np.isfinite(stds).all() and (stds > 0).all()):
        raise InputError("its own normalisation of images divides by 0 or turns them into negatives")
    notes = []
    if mean is None and np.abs(means).max() <= 1 and stds.max() <= 1:
        means, stds = means * 255, stds * 255
        notes = ["its own normalisation is taken as one of images of 0..1 (--rgb-mean, --rgb-std change it)"]
    # the shortest numbers that are the same in float32: 123.68, not 123.68000030517578
    found = {"mean": means, "std": stds}
    return {"preprocessing": {name: tuple(float(str(number)) for number in numbers.astype(np.float32))
                              for name, numbers in found.items()}, "notes": notes}


def is_folded(gamma: np.ndarray, mean: np.ndarray, var: np.ndarray) -> bool:
    """Whether a BatchNorm only adds its beta."""
    return bool((gamma == 1).all() and not mean.any() and (var == np.float32(UNIT_VARIANCE)).all())


def _activated_normal(mean, deviation, activation):
    """Mean and variance of clip(x, 0, 6), or of max(0, x), x normally distributed."""
    deviation = np.maximum(deviation, 1e-6)
    top = 6 if activation == "relu6" else mean + 40 * deviation  # no number in float64 is above that
    erf = np.vectorize(math.erf, otypes=[float])
    low, high = -mean / deviation, (top - mean) / deviation
    cdf_low, cdf_high = ((1 + erf(z / math.sqrt(2))) / 2 for z in (low, high))
    pdf_low, pdf_high = (np.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in (low, high))
    inside, above = cdf_high - cdf_low, 1 - cdf_high
    first = mean * inside + deviation * (pdf_low - pdf_high) + top * above
    second = ((mean ** 2 + deviation ** 2) * inside + deviation * (mean * pdf_low - (mean + top) * pdf_high)
              + top ** 2 * above)
    return first, np.maximum(second - first ** 2, 0)


def without_background(params: Params) -> Params:
    """`params` without class 0 of TensorFlow's 1,001; the logits of the others do not change."""
    return params | {name: params[name][1:] for name in CLASSIFIER}


def first_shortcut(network: dict) -> str:
    """The first stage, with its channels, whose first block has a shortcut in frameworks that add one wherever stride
    and width allow it; empty if there is none. Here, the first block of a stage never has one."""
    channels = network["channels"]
    return next((f"stage {stage} ({into} channels in and out)"
                 for stage, (into, out, stride) in enumerate(zip(channels, channels[1:], STRIDES[network["strides"]]))
                 if stride == 1 and into == out), "")


def assembled(params: Params, network: dict, image_shape: tuple[int, int, int], preprocessing: Preprocessing,
              shortcut_rule: bool, source: str | Path) -> Checkpoint:
    """The checkpoint that `params`, under their published names, make; an InputError names `source`.

    `network`: its strides, padding and activation. `shortcut_rule`: whether the framework has a shortcut wherever
    stride and width allow it; here the first block of a stage never has one.
    """
    network = {**widths_of(params, source), **network,
               "image_shape": image_shape if network["padding"] == "same" else None}
    if shortcut_rule and (stage := first_shortcut(network)):
        raise InputError(f"{source}: at these widths the first block of {stage} has a shortcut, which this network "
                         "does not have")
    states = {name: array for name, array in params.items() if name.endswith(("_moving_mean", "_moving_var"))}
    arguments = {name: array for name, array in params.items() if name not in states}
    return checked(Checkpoint(network, len(params["fc_weight"]), arguments, states, preprocessing), source)

"""PREFIX-0032-int8.json, what a network's layers see of real images, and the 8-bit codes that follow from it.

    {"params": "SHA-256 of the parameters' file", "images": 256,
     "layers": {"fc_weight": {"low": 0.0, "high": 3.21, "mean": [a number for each channel],
                              "output": [-4.5, 9.8]}, ...}}

Each layer, after BatchNorm is folded, is named by its weight. `low`, `high` and `mean` describe its input; `output` is
the range of what it gives, after bias and activation.

A layer's input becomes codes of 0 to 255 that stand for (code - zero) x scale, with one scale and zero for the tensor,
from that range; its weights become -127 to 127 times a scale for each output channel (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877; Krishnamoorthi, 2018, https://arxiv.org/abs/1806.08342). The bias takes back what the
rounding of the weights adds on average (Nagel et al., 2019, https://arxiv.org/abs/1906.04721, 4.2).
"""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import read_json, written_atomically
from common.checkpoint.params import checkpoint_files

TOP, WEIGHT_TOP = 255, 127
MOST_BIAS = 2 ** 30  # an int32 holds twice that
DIGITS = 6  # significant ones, in the file


class Statistics(NamedTuple):
    """A layer's input over the images of the calibration: least and greatest value, and each channel's mean (C,); and
    the least and greatest value of its output (None of a file that lacks them)."""
    low: float
    high: float
    mean: np.ndarray
    output: tuple[float, float] | None = None


def calibration_file(prefix: str | Path, epoch: int) -> str:
    """The file beside a checkpoint's parameters that tools/calibrate.py writes for int8."""
    return f"{prefix}-{epoch:04d}-int8.json"


def how_to_calibrate(prefix: str | Path, epoch: int) -> str:
    """The command that makes the file."""
    return f"python tools/calibrate.py {prefix} --epoch {epoch} --images DIR"


def save_calibration(prefix: str | Path, epoch: int, statistics: Mapping[str, Statistics], images: int) -> None:
    """Write what `load_calibration` reads. `statistics`: {name of a layer's weight: Statistics}; `images`: how
    many were measured."""
    layers = {name: {"low": _short(entry.low), "high": _short(entry.high), "mean": list(map(_short, entry.mean)),
                     **({"output": list(map(_short, entry.output))} if entry.output else {})}
              for name, entry in statistics.items()}
    content = {"params": digest(checkpoint_files(prefix, epoch)[1], "sha256"), "images": images, "layers": layers}
    with written_atomically(calibration_file(prefix, epoch)) as partial:
        Path(partial).write_text(json.dumps(content) + "\n", encoding="utf-8")


def load_calibration(prefix: str | Path, epoch: int, channels: Mapping[str, int]) -> dict[str, Statistics]:
    """{name of a layer's weight: Statistics} of the layers of `channels`: {name: channels of its input}. Raises
    InputError if there is no such file, or if it is for other parameters or another network."""
    path, again = calibration_file(prefix, epoch), how_to_calibrate(prefix, epoch)
    try:
        content = read_json(path, f"JSON; make it again with: {again}")
    except FileNotFoundError:
        raise InputError(f"--precision int8 needs {path}; make it with: {again}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    params_file = checkpoint_files(prefix, epoch)[1]
    try:
        if content["params"] != digest(params_file, "sha256"):
            raise InputError(f"{path}: was made for other parameters than those in {params_file}; make it again with: "
                             f"{again}")
        return {name: _statistics(content["layers"][name], count) for name, count in channels.items()}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: not a calibration of this network; make it again with: {again}") from None


def _statistics(entry, channels):
    low, high, output = entry["low"], entry["high"], entry.get("output", [])
    numbers = np.array([low, high, *output, *entry["mean"]], np.float64)
    if not (np.abs(numbers) < 1e30).all() or low > high or len(entry["mean"]) > channels \
            or output and not (len(output) == 2 and output[0] <= output[1]):
        raise ValueError("not the ranges and the means of tensors")
    return Statistics(*numbers[:2], numbers[2 + len(output):], tuple(numbers[2:4]) if output else None)


def _short(number):
    return float(f"{number:.{DIGITS}g}")


def coding(low: float, high: float) -> tuple[np.float32, int]:
    """(scale, zero) of codes for values from `low` to `high`; 0 has a code of its own, which is `zero`."""
    low, high = min(low, 0), max(high, 0)
    scale = np.float32((high - low) / TOP) or np.float32(1)
    return scale, int(np.clip(np.rint(-low / scale), 0, TOP))


def quantized_weight(weight: np.ndarray, least: np.ndarray | float = 0) -> tuple[np.ndarray, np.ndarray]:
    """(integers of -127 to 127, of the shape of `weight` (O, ...); float32 scales (O,), of at least `least`) whose
    product is nearest."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = np.maximum(np.where(largest > 0, largest / WEIGHT_TOP, 1), least).astype(np.float32)
    return np.rint(weight / along(scales, weight.ndim)).astype(np.int32), scales


def quantized_layer(weight: np.ndarray, bias: np.ndarray, scale: np.float32, mean: np.ndarray,
                    depthwise: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(integers, scales) as of `quantized_weight`, and the bias (O,) in int32, in units of `scale` x scales, with what
    `rounding_loss` finds; for an input whose codes have that `scale`."""
    weight = weight.astype(np.float64)
    integers, scales = quantized_weight(weight, np.abs(bias) / scale / MOST_BIAS)
    bias = bias + rounding_loss(weight, integers, scales, mean, depthwise)
    return integers, scales, np.rint(bias / (scale * scales.astype(np.float64))).astype(np.int32)


def rounding_loss(weight: np.ndarray, integers: np.ndarray, scales: np.ndarray, mean: np.ndarray,
                  depthwise: bool) -> np.ndarray:
    """What a layer's sums (O,) lack on average by the rounding of its weights (O, I, ...), for an input of those means
    of channels; of further channels, which have been added, they are 0."""
    axis = 0 if depthwise else 1
    mean = along(np.pad(mean, (0, weight.shape[axis] - len(mean))), weight.ndim, axis)
    return ((weight - integers * along(scales, weight.ndim)) * mean).sum(axis=tuple(range(1, weight.ndim)))


def along(values: np.ndarray, ndim: int, axis: int = 0) -> np.ndarray:
    """`values` in the shape that broadcasts them along an axis of a tensor with `ndim` dimensions."""
    return np.reshape(values, [-1 if i == axis else 1 for i in range(ndim)])

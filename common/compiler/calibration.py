"""The inputs that a network's layers get from real images: their ranges are those of the 8-bit codes.

PREFIX-0032-int8.json, beside PREFIX-0032.params:

    {"params": "SHA-256 of the parameters' file", "images": 256,
     "layers": {"fc_weight": {"low": 0.0, "high": 3.21, "mean": [a number for each channel]}, ...}}

Each layer, after BatchNorm is folded, is named by its weight; the numbers describe its input.
"""
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tvm
from tvm import relay

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import read_json, written_atomically
from common.checkpoint.params import checkpoint_files
from common.checkpoint.symbol import INPUT
from common.compiler.build import executor_of
from common.compiler.quantize import Statistics, layers_of
from common.compiler.relay_network import Network
from common.compiler.targets import host_cpu
from common.inference.choices import calibration_file

DIGITS = 6  # significant ones, in the file


def measure(network: Network, images: Iterable[np.ndarray]) -> tuple:
    """({name of a layer's weight: Statistics of its input}, number of images), by running `network` here in float32.

    `images`: float32 arrays of the network's data_shape. Raises InputError if an input is not finite.
    """
    layers = layers_of(network)
    inputs = list(dict.fromkeys(node.args[0] for node in layers.values()))
    outputs = relay.Tuple(inputs)
    module = tvm.IRModule.from_expr(relay.Function(relay.analysis.free_vars(outputs), outputs))
    target = tvm.target.Target(f"llvm -mcpu={host_cpu()}")
    executor = executor_of(network._replace(module=module), target)
    low, high, total, count = [math.inf] * len(inputs), [-math.inf] * len(inputs), [0] * len(inputs), 0
    for image in images:
        executor.set_input(INPUT, image)
        executor.run()
        count += len(image)
        for i in range(len(inputs)):
            values = executor.get_output(i).numpy()
            low[i], high[i] = min(low[i], float(values.min())), max(high[i], float(values.max()))
            total[i] += values.reshape(*values.shape[:2], -1).mean(axis=2, dtype=np.float64).sum(axis=0)
    statistics = {}
    for name, node in layers.items():
        i = inputs.index(node.args[0])
        statistics[name] = Statistics(low[i], high[i], np.asarray(total[i] / max(count, 1)))
        if count and not np.isfinite([low[i], high[i], *statistics[name].mean]).all():
            raise InputError(f"the input of the layer of {name!r} is not finite: the weights hold NaN or infinity, or "
                             "numbers that lead there (training may have diverged)")
    return statistics, count


def save_calibration(prefix: str | Path, epoch: int, statistics: dict, images: int) -> None:
    """Write what `load_calibration` reads. `statistics`: {name of a layer's weight: Statistics}; `images`: how
    many were measured."""
    layers = {name: {"low": _short(entry.low), "high": _short(entry.high), "mean": list(map(_short, entry.mean))}
              for name, entry in statistics.items()}
    content = {"params": digest(checkpoint_files(prefix, epoch)[1], "sha256"), "images": images, "layers": layers}
    with written_atomically(calibration_file(prefix, epoch)) as partial:
        Path(partial).write_text(json.dumps(content) + "\n", encoding="utf-8")


def load_calibration(prefix: str | Path, epoch: int, network: Network) -> dict:
    """{name of a layer's weight: Statistics}. Raises InputError if there is no such file, or if it is for other
    parameters or another network."""
    path, again = calibration_file(prefix, epoch), f"python tools/calibrate.py {prefix} --epoch {epoch} --images DIR"
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
        return {name: _statistics(content["layers"][name], node) for name, node in layers_of(network).items()}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: not a calibration of this network; make it again with: {again}") from None


def _statistics(entry, node):
    numbers = np.array([entry["low"], entry["high"], *entry["mean"]], np.float64)
    channels = int(node.args[0].checked_type.shape[1])
    if not (np.abs(numbers) < 1e30).all() or entry["low"] > entry["high"] or len(entry["mean"]) > channels:
        raise ValueError("not the range and the means of a tensor")
    return Statistics(*numbers[:2], numbers[2:])


def _short(number):
    return float(f"{number:.{DIGITS}g}")

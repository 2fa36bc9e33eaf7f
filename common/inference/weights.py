"""From a checkpoint to the arrays that a compiled network reads: padded, laid out in blocks, rounded.

`weights.json`, beside network.so, says how:

    {"network": identity, by common.checkpoint.fold, "inputs": {name of an input of graph.json: expression, ...}}

An expression is the name of one of the checkpoint's parameters (BatchNorm folded), a number, or [operation, argument,
...]: of ARITHMETIC, whose arguments are expressions, or of SHAPING, of which the first is one.

So one network.so serves all checkpoints of a network. What depends on the numbers of one checkpoint alone, as int8
does, is in `network.params`, in the form of TVM's save_param_dict.
"""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.base.errors import InputError
from common.base.files import read_json
from common.inference.runtime import tvm

WEIGHTS, PARAMS = "weights.json", "network.params"

ARITHMETIC: dict[str, Callable] = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply,
                                   "divide": np.divide, "negative": np.negative, "sqrt": np.sqrt}
SHAPING: dict[str, Callable] = {"pad": np.pad, "reshape": np.reshape, "transpose": np.transpose, "cast": np.asarray}


class Weights(NamedTuple):
    """The content of weights.json."""
    network: str
    inputs: dict[str, Any]


def packed(expressions: dict[str, Any], params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: array} of the `expressions` of weights.json over the `params` of a checkpoint, BatchNorm folded."""
    return {name: np.ascontiguousarray(value(expression, params)) for name, expression in expressions.items()}


@np.errstate(over="ignore")  # in float16, as in compiled code
def value(expression: Any, params: dict[str, np.ndarray]) -> Any:
    """The array of one expression, or the number."""
    if isinstance(expression, str):
        return params[expression]
    if not isinstance(expression, list):
        return expression
    operation, *operands = expression
    if operation in ARITHMETIC:
        return ARITHMETIC[operation](*(value(operand, params) for operand in operands))
    return SHAPING[operation](value(operands[0], params), *operands[1:])


def load_weights(folder: str | Path) -> Weights | None:
    """Those of the compiled network in `folder`; None if none of its numbers are a checkpoint's own."""
    try:
        content = read_json(Path(folder) / WEIGHTS, "the weights of a compiled network")
        return Weights(content["network"], dict(content["inputs"]))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{Path(folder) / WEIGHTS}: damaged") from None


def inputs_of(folder: str | Path, params: dict[str, np.ndarray]) -> dict[str, Any]:
    """{name: tvm.nd.NDArray} of all that the compiled network in `folder` takes besides an image, of the checkpoint
    whose parameters, BatchNorm folded, are `params`. Raises InputError if they are those of another network."""
    path, weights = Path(folder) / PARAMS, load_weights(folder)
    arrays = dict(tvm.runtime.load_param_dict(path.read_bytes())) if path.exists() else {}
    if weights:
        try:
            found = packed(weights.inputs, params)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise InputError(f"{folder}: was compiled for another network") from None
        arrays |= {name: tvm.nd.array(array) for name, array in found.items()}
    return arrays


def params_bytes(folder: str | Path, params: dict[str, np.ndarray]) -> bytes:
    """What network.params holds in a bundle: all of `inputs_of`."""
    return bytes(tvm.runtime.save_param_dict(inputs_of(folder, params)))


def save_weights(folder: str | Path, weights: Weights) -> None:
    """Write weights.json."""
    lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(how)}" for name, how in weights.inputs.items())
    (Path(folder) / WEIGHTS).write_text(f'{{"network": {json.dumps(weights.network)}, "inputs": {{\n {lines}}}}}\n')

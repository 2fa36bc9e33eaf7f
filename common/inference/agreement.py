"""Whether a compiled network answers as MXNet does."""
import importlib
from collections.abc import Callable, Sequence

import numpy as np

from common.base.errors import InputError, missing_package
from common.inference.choices import kind_of

TOLERANCE = 1e-4  # between probabilities, in float32

Predict = Callable[[np.ndarray], np.ndarray]
Reference = Callable[[str, int, np.ndarray], np.ndarray]


def reference() -> Reference:
    """`common.evaluation.score.predict`, which imports MXNet: to be called before TVM is imported. Raises InputError if
    MXNet is not installed."""
    try:
        return importlib.import_module("common.evaluation.score").predict
    except ModuleNotFoundError as error:
        raise InputError(f"--verify: {missing_package(error)}") from None


def agreement(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], target: str, precision: str) -> str:
    """By how much probabilities differ from MXNet's, in a line. Raises InputError above TOLERANCE, if the network
    computes in float32."""
    difference = float(np.abs(np.subtract(expected, found)).max())
    name = "OpenCL" if kind_of(target) == "opencl" else kind_of(target)
    if precision != "float32":
        return f"{name} in {precision} and MXNet differ by {difference:.1e} at most"
    if difference <= TOLERANCE:
        return f"{name} and MXNet agree (max difference {difference:.1e})"
    raise InputError(f"{name} and MXNet disagree (max difference {difference:.1e}, allowed {TOLERANCE:g})")


def checked_once(predict: Predict, check: Callable[[np.ndarray, np.ndarray], None]) -> Predict:
    """`predict`, which calls `check(data, probabilities)` for the first batch."""
    first = [check]

    def checked(data):
        probabilities = predict(data)
        if first:
            first.pop()(data, probabilities)
        return probabilities
    return checked

"""What a network's probabilities say: its best answers, and whether they are numbers at all."""
import numpy as np

from common.base.errors import InputError


def top_answers(probabilities: np.ndarray, k: int) -> np.ndarray:
    """The k (or all) most probable classes, (N, k) of (N, classes) or (k,) of (classes,), best first; among
    equals the smaller number, as argmax does."""
    return np.argsort(-probabilities, axis=-1, kind="stable")[..., :k]


def check_finite(what: object, probabilities: np.ndarray) -> None:
    """Raises InputError if the answer to `what`, an image, is not finite."""
    if not np.isfinite(probabilities).all():
        raise InputError(f"the network's output for {what} is not finite: its weights hold NaN or infinity, or "
                         "numbers that lead there (training may have diverged)")

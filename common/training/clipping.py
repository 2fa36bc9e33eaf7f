"""Gradients whose norm is bounded."""
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from common.find_mxnet import mx

EPSILON = 1e-6  # PyTorch's


@contextmanager
def clipped(module: mx.mod.Module, max_norm: float) -> Iterator[None]:
    """Within this block the optimizer of `module` takes all gradients times min(1, max_norm / (norm + 1e-6)), as after
    torch.nn.utils.clip_grad_norm_; `max_norm` 0: as they are. Norm is that of all of them together, rescaled as the
    optimizer does; on each device they are the sum over all.

    A norm that is not finite changes nothing: what it makes of the weights ends the run.
    """
    optimizer = module._optimizer
    before = optimizer.rescale_grad
    if max_norm:
        norm = before * gradient_norm([arrays[0] for arrays in module._exec_group.grad_arrays if arrays[0] is not None])
        if math.isfinite(norm):
            optimizer.rescale_grad = before * min(1.0, max_norm / (norm + EPSILON))
    try:
        yield
    finally:
        optimizer.rescale_grad = before


def gradient_norm(gradients: list) -> float:
    """The Euclidean norm of all numbers in these NDArrays."""
    # not multi_sum_sq and norm: they add one number after the other in float32, 0.1 % off for millions
    squares = [mx.nd.sum(mx.nd.square(gradient.astype("float32", copy=False))) for gradient in gradients]
    return math.sqrt(mx.nd.concat(*squares, dim=0).asnumpy().sum(dtype=np.float64))

"""Weights and images drawn from a seed, the same under every version of NumPy: RandomState's streams are frozen.

Needs NumPy alone, so that the frameworks' own Python and the tests' draw the same.
"""
import numpy as np

GAMMA_LIKE = ("gamma", "running_var", "moving_var", "moving_variance")


def draw(shapes: dict, seed: int) -> dict:
    """{name: float32 array} for {name: shape} in the framework's order, such that activations keep their size, the
    answer is not flat, and no BatchNorm is like another. Names of BatchNorms' scales need not say so: they are the
    weights of one dimension."""
    rng = np.random.RandomState(seed)
    return {name: _draw(rng, name, tuple(shape)).astype(np.float32) for name, shape in shapes.items()}


def _draw(rng, name, shape):
    kernel = name.endswith(("weight", "kernel"))
    if kernel and len(shape) > 1:
        # outputs come first in PyTorch's and MXNet's weights; in Keras's last, but for depthwise ones
        outputs = shape[0] if name.endswith("weight") else shape[-2] if "depthwise" in name else shape[-1]
        return rng.normal(0, np.sqrt(2 * outputs / np.prod(shape)), shape)
    if kernel or name.endswith(GAMMA_LIKE):
        return rng.uniform(0.5, 1.5, shape)
    return rng.normal(0, 0.3, shape)


def images(size: int, seed: int, count: int = 2) -> np.ndarray:
    """Noise over a colour that differs from image to image: uint8 (count, 3, size, size), RGB."""
    rng = np.random.RandomState(seed)
    colours = rng.uniform(0, 256, (count, 3, 1, 1))
    return (colours / 2 + rng.uniform(0, 128, (count, 3, size, size))).astype(np.uint8)

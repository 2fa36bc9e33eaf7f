"""Keras's own files without their weights, small enough to keep, and weights drawn into them.

Needs NumPy and h5py alone, so that Keras's own Python and the tests' draw the same.
"""
import io
import zipfile

import h5py
import numpy as np

MEMBER = "model.weights.h5"  # of .keras, a zip file


def blank(content: bytes) -> bytes:
    """The file of a network that is not trained, its kernels zeros."""
    return _changed(content, lambda rng, array: np.zeros_like(array) if array.ndim > 1 else array, 0)


def fill(content: bytes, seed: int) -> bytes:
    """With weights `drawn` from the seed, in the order of the arrays' names."""
    return _changed(content, drawn, seed)


def drawn(rng, array):
    """An array in the place of one before training: ones become like a scale, zeros like a shift, kernels such that
    activations keep their size. What has learned already, a Normalization, stays."""
    shape = array.shape
    if array.ndim > 1:
        inputs = np.prod(shape[:2]) if array.ndim == 4 and shape[3] == 1 else np.prod(shape[:-1])  # depthwise
        found = rng.normal(0, np.sqrt(2 / inputs), shape)
    elif (array == 1).all():
        found = rng.uniform(0.5, 1.5, shape)
    else:
        found = array if array.any() else rng.normal(0, 0.3, shape)
    return found.astype(np.float32)


def _changed(content, change, seed):
    rng = np.random.RandomState(seed)
    if not content.startswith(b"PK"):
        return _changed_h5(content, change, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as changed:
        for name in sorted(archive.namelist()):
            member = archive.read(name)
            changed.writestr(zipfile.ZipInfo(name), _changed_h5(member, change, rng) if name == MEMBER else member)
    return out.getvalue()


def _changed_h5(content, change, rng):
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as root:
        def visit(name, dataset):
            if isinstance(dataset, h5py.Dataset) and dataset.dtype.kind == "f" and not name.startswith("optimizer"):
                dataset[()] = change(rng, dataset[()])
        root.visititems(visit)
    return file.getvalue()

"""Read the weights that Keras saves, as NumPy arrays."""
import io
import re
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np

from common.conversion.readers import check_size, reading
from common.errors import InputError


def read_keras(path: str | Path) -> dict[str, np.ndarray] | list[tuple[str, np.ndarray]]:
    """{layer/weight: array} of Keras 3's .weights.h5 and .keras; of older .h5 files [(weight, array)] in the order of
    the network: those that are published have other layer names than the model's code, and Keras goes by the order."""
    with reading(path, "a Keras weight file", zipfile.BadZipFile, zlib.error, RuntimeError, TypeError, EOFError,
                 NotImplementedError, AttributeError, RecursionError):
        content: str | Path | io.BytesIO = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_size(archive.getinfo("model.weights.h5").file_size, path)
                content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as file:
            if "layers" in file:
                return _keras_by_name(file, path)
            return _keras_in_order(file.get("model_weights", file), path)


# the arrays of a layer, as Keras 3 numbers them
VARIABLES = {"batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"), "dense": ("kernel", "bias"),
             "conv2d": ("kernel",), "depthwise_conv2d": ("depthwise_kernel",)}


def _keras_by_name(file, path):
    arrays = {}
    for group, layer in file["layers"].items():
        variables = layer.get("vars", {})
        names = VARIABLES.get(re.sub(r"_\d+$", "", group), ())
        if len(variables) != len(names):
            raise InputError(f"{path}: {group} has {len(variables)} arrays, which no layer of MobileNetV2 has")
        for number, variable in enumerate(names):
            name = str(variables.attrs.get("name", group))
            arrays[f"{name}/{variable}"] = _dataset(variables[str(number)], file, path)
    return arrays


def _keras_in_order(file, path):
    if not any(key.startswith("layer_names") for key in file.attrs):
        raise InputError(f"{path}: not a Keras weight file: it names no layers")
    return [(weight.split("/")[-1].split(":")[0], _dataset(file[layer][weight], file, path))
            for layer in _texts(file.attrs, "layer_names") for weight in _texts(file[layer].attrs, "weight_names")]


def _texts(attributes, key):
    """A list of texts, which Keras cuts in pieces KEY0, KEY1, ... where it is long."""
    pieces = [attributes[key]] if key in attributes else []
    while f"{key}{len(pieces)}" in attributes:
        pieces.append(attributes[f"{key}{len(pieces)}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for piece in pieces for text in piece]


def _dataset(dataset, file, path):
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.external \
            or dataset.file.filename != file.file.filename:
        raise InputError(f"{path}: {getattr(dataset, 'name', '?')} is no array of floating-point numbers in this file")
    check_size(dataset.size * dataset.dtype.itemsize, path)
    return dataset[()]

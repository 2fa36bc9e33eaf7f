"""Read the weights that Keras saves, as NumPy arrays.

HDF5's library crashes, loops or fills the memory on some damaged files: call this by `common.base.processes.confined`.
"""
import io
import json
import re
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from common.base.errors import InputError
from common.conversion.readers import IMAGE_SHAPE, check_arrays, reading

MAX_ARRAYS = 1000  # Keras's MobileNetV2 has 262
MAX_CONFIGURATION = 1 << 24  # bytes; its has 100,000


def read_keras(path: str | Path) -> list[tuple[str, np.ndarray]]:
    """[(layer/weight, array)] of Keras 3's .weights.h5 and .keras; of older .h5 files [(weight, array)], which has no
    slash, in the order of the network: those that are published have other layer names than the model's code, and
    Keras goes by the order. For a file with a complete model (IMAGE_SHAPE, [3, H, W]) comes first, if its
    configuration gives the shape of its images. Raises InputError."""
    with reading(path, "a Keras weight file"):
        content: str | Path | io.BytesIO = path
        configuration: str | bytes = b""
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_arrays(archive.getinfo("model.weights.h5").file_size, path)
                content = io.BytesIO(archive.read("model.weights.h5"))
                if "config.json" in archive.namelist() and archive.getinfo("config.json").file_size < MAX_CONFIGURATION:
                    configuration = archive.read("config.json")
        with h5py.File(content, "r") as file:
            found = list(islice(_by_name(file, path) if _has(file, "layers") else _in_order(file, path),
                                MAX_ARRAYS + 1))
            if len(found) > MAX_ARRAYS:
                raise InputError(f"{path}: has more than {MAX_ARRAYS} arrays, which no MobileNetV2 has")
            # together: an array that the file does not even hold may have many names
            check_arrays(sum(dataset.size * dataset.dtype.itemsize for _, dataset in found), path)
            shape = _image_shape(configuration or file.attrs.get("model_config", b""))
            return [*([(IMAGE_SHAPE, np.array(shape))] if shape else []),
                    *((name, dataset[()]) for name, dataset in found)]


def _image_shape(configuration):
    """[3, H, W] of the first layer that gives the shape of its input, in the JSON of a model; None if none does."""
    try:
        left = [json.loads(configuration)]
    except (ValueError, TypeError, RecursionError):
        return None
    while left:
        part = left.pop()
        if isinstance(part, dict):
            for shape in (part.get("batch_shape"), part.get("batch_input_shape")):  # of Keras 3, and before
                if isinstance(shape, list) and len(shape) == 4 and shape[3] == 3 \
                        and all(type(side) is int and 0 < side < 2 ** 31 for side in shape[1:3]):
                    return [3, *shape[1:3]]
            part = [*part.values()]
        left += reversed(part) if isinstance(part, list) else ()
    return None


# the arrays of a layer, as Keras 3 numbers them
VARIABLES = {"batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"), "dense": ("kernel", "bias"),
             "conv2d": ("kernel",), "depthwise_conv2d": ("depthwise_kernel",)}


def _by_name(file: h5py.File, path: str | Path) -> Iterator[tuple[str, h5py.Dataset]]:
    layers = _member(file, "layers", path)
    for group in layers:
        layer = _member(layers, group, path)
        count = len(_member(layer, "vars", path)) if _has(layer, "vars") else 0
        names = VARIABLES.get(re.sub(r"_\d+$", "", group), ())
        if count != len(names):
            raise InputError(f"{path}: {group!r} has {count} arrays, which no layer of MobileNetV2 has")
        for number, variable in enumerate(names):
            name = str(layer["vars"].attrs.get("name", group))
            yield f"{name}/{variable}", _dataset(layer, f"vars/{number}", path)


def _in_order(file: h5py.File, path: str | Path) -> Iterator[tuple[str, h5py.Dataset]]:
    if _has(file, "model_weights"):
        file = _member(file, "model_weights", path)
    if not any(key.startswith("layer_names") for key in file.attrs):
        raise InputError(f"{path}: not a Keras weight file: it names no layers")
    for name in _texts(file.attrs, "layer_names"):
        layer = _member(file, name, path)
        for weight in _texts(layer.attrs, "weight_names"):
            yield weight.split("/")[-1].split(":")[0], _dataset(layer, weight, path)


def _texts(attributes, key):
    """A list of texts; Keras cuts a long one in pieces KEY0, KEY1, ..."""
    pieces = [attributes[key]] if key in attributes else []
    while f"{key}{len(pieces)}" in attributes:
        pieces.append(attributes[f"{key}{len(pieces)}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for piece in pieces for text in piece]


def _has(group: h5py.Group, name: str) -> bool:
    return group.id.links.exists(name.encode())


def _member(group: h5py.Group, name: str, path: str | Path) -> h5py.Group | h5py.Dataset:
    """The member `name`, with slashes between its parts, of `group`; in this very file, so only by hard links."""
    for part in name.split("/"):
        if group.id.links.get_info(part.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
            raise InputError(f"{path}: {name!r} is a link, perhaps out of this file")
        group = group[part]
    return group


def _dataset(group: h5py.Group, name: str, path: str | Path) -> h5py.Dataset:
    dataset = _member(group, name, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.external or dataset.is_virtual:
        raise InputError(f"{path}: {name!r} is no array of floating-point numbers in this file")
    return dataset

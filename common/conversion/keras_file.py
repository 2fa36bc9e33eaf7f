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
from typing import Any, NamedTuple

import h5py
import numpy as np

from common.base.errors import InputError
from common.conversion.keras_config import MAX_CONFIGURATION, read_model
from common.conversion.names import KERAS, source_names
from common.conversion.readers import DESCRIPTION, check_arrays, reading
from symbols.architecture import REPEATS

MAX_ARRAYS = 1000  # Keras's MobileNetV2 has 262
MAX_DEPTH = 8      # of models within models
MODELS = ("layers", "_layer_checkpoint_dependencies")  # what holds a model's layers in .keras and .weights.h5, by now
# and at first, in Keras 2.12 and 2.13
# the arrays of a layer, as those two number them
VARIABLES = {"batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"), "dense": ("kernel", "bias"),
             "conv2d": ("kernel", "bias"), "depthwise_conv2d": ("depthwise_kernel", "bias"),
             "normalization": ("mean", "variance")}
LAYERS: dict[str, list[str]] = {}  # {layer in Keras applications: its arrays}, in the network's order
for _name in source_names(KERAS, REPEATS, False).values():
    LAYERS.setdefault(_name.split("/")[0], []).append(_name.split("/")[1])
*NETWORK, CLASSIFIER = LAYERS


class Weight(NamedTuple):
    """An array of a layer."""
    layers: tuple[str, ...]  # the layer's name, perhaps with a second one by which it is known; () if none is given
    group: str               # that holds it, such as conv2d_3
    name: str
    dataset: h5py.Dataset


def read_keras(path: str | Path) -> list[tuple[str, np.ndarray]]:
    """[(layer/weight, array)] of a .keras, .weights.h5 or .h5 file, by the names of Keras applications. Of an .h5
    without a model's configuration and without these names [(weight, array)], which has no slash, in the order of the
    file: older ones that are published have other layer names than the model's code, and Keras goes by the order. For
    a complete model (DESCRIPTION, JSON of its description) comes first. Raises InputError."""
    with reading(path, "a Keras weight file"):
        content: str | Path | io.BytesIO = path
        configuration: str | bytes | None = None
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_arrays(archive.getinfo("model.weights.h5").file_size, path)
                content = io.BytesIO(archive.read("model.weights.h5"))
                if "config.json" in archive.namelist():
                    with archive.open("config.json") as member:
                        configuration = member.read(MAX_CONFIGURATION + 1)
        with h5py.File(content, "r") as file:
            numbered = any(_has(file, model) for model in MODELS)
            found = list(islice(_numbered(file, path) if numbered else _listed(file, path), MAX_ARRAYS + 1))
            if len(found) > MAX_ARRAYS:
                raise InputError(f"{path}: has more than {MAX_ARRAYS} arrays, which no MobileNetV2 has")
            # together: an array that the file does not even hold may have many names
            check_arrays(sum(weight.dataset.size * weight.dataset.dtype.itemsize for weight in found), path)
            if configuration is None:
                configuration = file.attrs.get("model_config")
            return _by_name(found, configuration, numbered, path)


def _by_name(found: list[Weight], configuration: str | bytes | None, numbered: bool,
             path: str | Path) -> list[tuple[str, np.ndarray]]:
    arrays: dict[str, dict[str, Weight]] = {}  # those of a layer; first by its own name
    for rank in range(2):
        for weight in found:
            for layer in weight.layers[rank:rank + 1]:
                arrays.setdefault(layer, {}).setdefault(weight.name, weight)
    out, used = [], []

    def normalization(layer, name):
        for weight in found:
            if weight.name == name and (layer in weight.layers or not weight.layers
                                        and re.sub(r"_\d+$", "", weight.group) == "normalization"):
                used.append(weight)
                return weight.dataset[()]
        raise InputError(f"it has no {name} of the layer {layer!r}")

    if configuration is not None:
        try:
            model = read_model(configuration, normalization)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        out.append((DESCRIPTION, np.array(json.dumps(model.description))))
    if configuration is not None and arrays:
        layers = {layer: arrays.get(name, {}) for layer, name in zip(LAYERS, model.layers, strict=True)}
    elif all(layer in arrays for layer in NETWORK) or numbered and any(layer in arrays for layer in NETWORK):
        layers = {layer: arrays.get(layer, {}) for layer in NETWORK} | {CLASSIFIER: _classifier(found, arrays, path)}
    elif numbered:
        layers = _by_kind(found)
    else:
        return [(weight.name, weight.dataset[()]) for weight in found]
    for layer, weights in LAYERS.items():
        own = layers[layer]
        for name in weights:
            if weight := own.get(name) or own.get(name.removeprefix("depthwise_")):  # as Keras 3 has it in .h5
                used.append(weight)
                out.append((f"{layer}/{name}", weight.dataset[()]))
            elif name == "bias" and "kernel" in own:
                out.append((f"{layer}/{name}", np.zeros(own["kernel"].dataset.shape[-1:], np.float32)))
    if unknown := [weight for weight in found if weight not in used]:
        raise InputError(f"{path}: holds {f'{unknown[0].group}/{unknown[0].name}'[:99]!r}, which MobileNetV2 does not "
                         "have; if that is for its images, give the complete model, a .keras file")
    return out


def _classifier(found, arrays, path):
    """{name: Weight} of the one linear layer."""
    dense = [weight for weight in found if weight.name == "kernel" and weight.dataset.ndim == 2]
    if len(dense) != 1:
        raise InputError(f"{path}: has no classifier; give the file with the top" if not dense else
                         f"{path}: has {len(dense)} linear layers, {dense[0].layers[0]!r} and {dense[1].layers[0]!r}; "
                         "MobileNetV2 has one")
    return arrays[dense[0].layers[0]]


def _by_kind(found):
    """{layer in Keras applications: {name: Weight}} of a file that numbers the layers of a kind, in the network's
    order, and does not name them."""
    kinds: dict[str, dict[str, dict[str, Weight]]] = {}
    for weight in found:
        kinds.setdefault(re.sub(r"_\d+$", "", weight.group), {}).setdefault(weight.group, {})[weight.name] = weight
    left = {kind: iter(groups.values()) for kind, groups in kinds.items()}
    kind_of = {layer: "dense" if layer == CLASSIFIER else "batch_normalization" if "gamma" in weights
               else "depthwise_conv2d" if "depthwise_kernel" in weights else "conv2d"
               for layer, weights in LAYERS.items()}
    return {layer: next(left.get(kind, iter(())), {}) for layer, kind in kind_of.items()}


def _numbered(model: h5py.Group, path: str | Path, depth: int = 0) -> Iterator[Weight]:
    """Of .keras and .weights.h5, in which layers are numbered in groups of their kind."""
    if depth > MAX_DEPTH:
        raise InputError(f"{path}: holds models within models, more than {MAX_DEPTH} deep")
    for layers in (_member(model, name, path) for name in MODELS if _has(model, name)):
        for group in sorted(layers, key=_number):
            layer = _member(layers, group, path)
            variables: Any = _member(layer, "vars", path) if _has(layer, "vars") else {}
            names = VARIABLES.get(_number(group)[0], ())
            known = (str(variables.attrs["name"]),) if variables and "name" in variables.attrs else ()
            for i, variable in enumerate(sorted(variables, key=_number)):
                if dataset := _dataset(layer, f"vars/{variable}", path):
                    yield Weight(known, group, names[i] if i < len(names) else variable, dataset)
            yield from _numbered(layer, path, depth + 1)


def _number(name):
    """(kind, number) of KIND_NUMBER: conv2d is before conv2d_2, and that before conv2d_10."""
    match = re.fullmatch(r"(.*?)_?(\d{0,9})", name, re.DOTALL)
    return match[1], int(match[2] or 0)


def _listed(file: h5py.File, path: str | Path) -> Iterator[Weight]:
    """Of an older .h5, which lists the layers of the outermost model, and all arrays within each."""
    if _has(file, "model_weights"):
        file = _member(file, "model_weights", path)
    if not any(key.startswith("layer_names") for key in file.attrs):
        raise InputError(f"{path}: not a Keras weight file: it names no layers")
    for group in _texts(file.attrs, "layer_names"):
        layer = _member(file, group, path)
        weights = _texts(layer.attrs, "weight_names")
        scopes = [weight.split("/")[-2] if "/" in weight else group for weight in weights]
        for weight, scope in zip(weights, scopes):
            # a model within the model, or one layer, whose arrays may lie in a scope of another name
            layers = (scope,) if len(set(scopes)) > 1 else (group, scope)
            if dataset := _dataset(layer, weight, path):
                yield Weight(layers, group, weight.split("/")[-1].split(":")[0], dataset)


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


def _dataset(group: h5py.Group, name: str, path: str | Path) -> h5py.Dataset | None:
    """None for whole numbers: counters, and states of random generators."""
    dataset = _member(group, name, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu" or dataset.external \
            or dataset.is_virtual:
        raise InputError(f"{path}: {name!r} is no array of numbers in this file")
    return dataset if dataset.dtype.kind == "f" else None

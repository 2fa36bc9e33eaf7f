"""Read the files that weights come in, as {name: NumPy array}. Nothing is unpickled."""
import io
import re
import zipfile
import zlib
from contextlib import contextmanager

import h5py
import ml_dtypes  # noqa: F401  bfloat16 for safetensors
import numpy as np
import safetensors

from common.conversion.description import ENTRY, parse_description
from common.errors import InputError
from common.params_file import load_params

MAX_BYTES = 2 ** 30  # of the arrays of a file; the widest MobileNetV2 here has 60 MB


@contextmanager
def _reading(path, kind, *errors):
    """What a library raises for a file that is not as it should be, as one line."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(f"{path}: {getattr(error, 'strerror', error)}") from None
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, MemoryError, *errors) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not {kind}, or a damaged one ({reason})") from None


def read_torch(path) -> tuple:
    """(arrays, description) of a state_dict in .safetensors, or in .pth through torch's weights_only loader."""
    if not str(path).endswith(".safetensors"):
        return _read_pth(path), {}
    with (_reading(path, "a safetensors file", safetensors.SafetensorError, OverflowError),
          safetensors.safe_open(path, "numpy") as file):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, parse_description((file.metadata() or {}).get(ENTRY), path)


def _read_pth(path):
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError(f"{path}: only PyTorch can read it; pip install torch, or give a .safetensors file") from None
    with _reading(path, "a state_dict that torch.load(weights_only=True) takes", Exception):
        content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no state_dict; save model.state_dict()")
    return {str(name).removeprefix("module."): tensor.to(torch.float32).numpy()
            if tensor.is_floating_point() else tensor.numpy() for name, tensor in content.items()}


def read_npz(path) -> tuple:
    """(arrays, description) of an .npz file."""
    with _reading(path, "an .npz file", zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
                  TypeError, SyntaxError):
        with zipfile.ZipFile(path) as archive:
            _check_size(sum(member.file_size for member in archive.infolist()), path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text = arrays.pop(ENTRY, None)
        return arrays, parse_description(None if text is None else str(text), path)


def read_gluon(path) -> dict:
    """Arrays of a .params file of Gluon's, without `arg:`, `aux:` and the network's own prefix."""
    arrays = {}
    for name, array in load_params(path).items():
        bare = name.removeprefix("arg:").removeprefix("aux:")
        arrays[re.sub(r"^\w*?(?=features_|output_)", "", bare)] = array
    return arrays


def read_keras(path):
    """{layer/weight: array} of Keras 3's .weights.h5 and .keras; of older .h5 files [(weight, array)] in the order of
    the network: those that are published have other layer names than the model's code, and Keras goes by the order."""
    with _reading(path, "a Keras weight file", zipfile.BadZipFile, zlib.error, RuntimeError, TypeError, EOFError,
                  NotImplementedError, AttributeError, RecursionError):
        content = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_size(archive.getinfo("model.weights.h5").file_size, path)
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
    _check_size(dataset.size * dataset.dtype.itemsize, path)
    return dataset[()]


def _check_size(size, path):
    if size > MAX_BYTES:
        raise InputError(f"{path}: unpacks to {size / 2 ** 30:.1f} GB, which no MobileNetV2 has; a damaged file?")

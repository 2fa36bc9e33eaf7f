"""Read the state_dict of a PyTorch module, as NumPy arrays."""
import argparse
import re
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import ml_dtypes  # noqa: F401  so that NumPy has bfloat16
import numpy as np
import safetensors

from common.base.errors import InputError
from common.conversion.readers import ENTRY, parse_description, reading

CURRENT = "current_model_state"  # where Lightning's WeightAveraging puts it; "state_dict" is the average then
NESTED = (CURRENT, "state_dict", "model_state_dict", "model", "net")  # the places in which training scripts put it
AVERAGE = re.compile(r"(?<![^_.-])(ema|swa)(?![^_.-])", re.IGNORECASE)  # a word of what they call moving averages


def read_state_dict(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, description) of a .safetensors file, or of a .pth file through torch's weights_only loader.

    A moving average that a checkpoint of training holds beside the weights is among the arrays: AVERAGE finds their
    names, as it finds those of one inside the module."""
    with reading(path, "a state_dict"), open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # after the header's length
        arrays, description = _read_safetensors(path)
    elif start[:2] in (b"PK", b"\x80\x02"):
        arrays, description = _read_pth(path), {}
    else:
        raise InputError(f"{path}: neither a .safetensors nor a .pth file, or a damaged one")
    return arrays, description


def _read_safetensors(path):
    with reading(path, "a .safetensors file"), safetensors.safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, parse_description((file.metadata() or {}).get(ENTRY), path)


def _read_pth(path):
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError(f"{path}: only PyTorch can read it; pip install torch, or give a .safetensors file") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, say, which is refused
            # the flags of torchvision's and timm's scripts: no more than a dict; versions before 2.5 lack the function
            allow = getattr(torch.serialization, "safe_globals", nullcontext)
            with allow([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds, whose text advises to unpickle the file
        raise InputError(f"{path}: torch.load(weights_only=True) does not take it: it is damaged, or holds more than "
                         "weights, such as a model or TorchScript; save model.state_dict()") from None
    found = {"": _inner(content), **{f"{key}.": _inner(average) for key, average in _averages(content)}}
    tensors = {f"{place}{name}": tensor for place, values in found.items() if isinstance(values, dict)
               for name, tensor in values.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no state_dict; save model.state_dict()")
    with reading(path, "a state_dict of dense tensors"):
        return {name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).detach().numpy()
                for name, tensor in tensors.items()}


def _inner(content: object) -> object:
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return content


def _averages(content: object, depth: int = 3) -> Iterator[tuple[str, dict]]:
    """(key, state_dict) of the moving averages in a checkpoint of training, and in what its callbacks have saved."""
    if not isinstance(content, dict) or not depth:
        return
    for key, value in content.items():
        if key == "state_dict" and CURRENT in content:
            yield "ema", value
        elif isinstance(key, str) and AVERAGE.search(key) and isinstance(value, dict):
            yield key, value
        else:
            yield from _averages(value, depth - 1)

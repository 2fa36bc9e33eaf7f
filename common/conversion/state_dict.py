"""Read the state_dict of a PyTorch module, as NumPy arrays."""
import warnings
from pathlib import Path

import ml_dtypes  # noqa: F401  so that NumPy has bfloat16
import numpy as np
import safetensors

from common.base.errors import InputError
from common.conversion.readers import ENTRY, parse_description, reading

# the places in which training scripts put it; a moving average only if there is nothing else
NESTED = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema", "ema")


def read_state_dict(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, description) of a .safetensors file, or of a .pth file through torch's weights_only loader."""
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
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds, whose text advises to unpickle the file
        raise InputError(f"{path}: torch.load(weights_only=True) does not take it: it is damaged, or holds more than "
                         "weights, such as a model or TorchScript; save model.state_dict()") from None
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no state_dict; save model.state_dict()")
    return {str(name): (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).numpy()
            for name, tensor in content.items()}

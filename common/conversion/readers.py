"""Read the files that weights come in, as {name: NumPy array}. Nothing is unpickled.

Those that need a package of their own are read by state_dict.py, keras_file.py and tflite.py.
"""
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, check_size
from common.checkpoint.arrays import Checkpoint
from common.checkpoint.params import load_params
from common.checkpoint.preprocessing import preprocessing_from
from symbols.architecture import architecture

DESCRIPTION = ":description"  # among arrays: JSON of what they do not hold; no parameter has such a name
ENTRY = "mxnet-mobilenet-v2"  # the description's name in such a file
NETWORK = ("repeats", "strides", "padding", "image_shape", "activation")


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn anything that a library raises for a damaged file into one line."""
    check_size(path, MOST_WEIGHTS)
    try:
        with open(path, "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(f"{path}: {getattr(error, 'strerror', error)}") from None
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of a dozen kinds for zip files and NumPy's content alone
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not {kind}, or a damaged one ({reason})") from None


def read_npz(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, description) of an .npz file."""
    with reading(path, "an .npz file"):
        with zipfile.ZipFile(path) as archive:
            check_arrays(sum(member.file_size for member in archive.infolist()), path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise InputError(f"{path}: {strange[0]!r} is no array; not an .npz file, or a damaged one")
        text = arrays.pop(ENTRY, None)
        return arrays, parse_description(None if text is None else str(text), path)


def read_gluon(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a .params file of Gluon's, without `arg:`, `aux:` and the network's own prefix."""
    arrays = {}
    with reading(path, "an MXNet parameter file"):
        for name, array in load_params(path).items():
            bare = name.removeprefix("arg:").removeprefix("aux:")
            arrays[re.sub(r"^\w*?(?=features_|output_)", "", bare)] = array
    return arrays


def check_arrays(size: int, path: str | Path) -> None:
    """Raise InputError for more than MOST_WEIGHTS bytes of arrays in the file `path`."""
    if size > MOST_WEIGHTS:
        raise InputError(f"{path}: holds {size / 2 ** 30:.1f} GB, which no MobileNetV2 has; a damaged file?")


def description_of(checkpoint: Checkpoint) -> str:
    """JSON of what the arrays of a checkpoint do not hold; `parse_description` reads it."""
    network = {key: checkpoint.network[key] for key in NETWORK if checkpoint.network.get(key) is not None}
    return json.dumps({**network, "preprocessing": checkpoint.preprocessing._asdict()})


def parse_description(text: str | None, path: str | Path) -> dict:
    """{"preprocessing"} and those of NETWORK that the ENTRY `text` of the file `path` has; {} for None. Raises
    InputError for a text that `description_of` did not write."""
    if text is None:
        return {}
    try:
        content = json.loads(text)
        found = {key: content[key] for key in NETWORK if key in content}
        for key in ("repeats", "image_shape"):
            if key in found:
                found[key] = tuple(found[key])
        architecture(**found)
        preprocessing = content["preprocessing"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: its entry {ENTRY} cannot be understood; the file is damaged") from None
    return {**found, "preprocessing": preprocessing_from(preprocessing, path)._asdict()}

"""What arrays alone cannot tell of a network: kept as JSON in the .safetensors and .npz files that are written here."""
import json
from pathlib import Path

from common.checkpoint_arrays import Checkpoint
from common.errors import InputError
from common.preprocessing_file import preprocessing_from
from symbols.architecture import architecture

ENTRY = "mxnet-mobilenet-v2"  # its name in such a file
NETWORK = ("repeats", "strides", "padding", "image_shape")


def description_of(checkpoint: Checkpoint) -> str:
    """JSON of what the arrays do not tell of a checkpoint, which `parse_description` reads."""
    network = {key: checkpoint.network[key] for key in NETWORK if checkpoint.network.get(key) is not None}
    return json.dumps({**network, "preprocessing": checkpoint.preprocessing._asdict()})


def parse_description(text: str | None, path: str | Path) -> dict:
    """{"repeats", "strides", "padding", "image_shape", "preprocessing"}, those that are there, of an ENTRY in the file
    `path`; none of `text` None. Raises InputError for what was not written by `description_of`."""
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
    return {**found, "preprocessing": preprocessing_from(preprocessing, path)}

"""Read a MobileNetV2 classifier from an ONNX file, whichever exporter wrote it.

The nodes are followed from the network's input to its output; names, which are not reliable, are ignored. The result is
the network in floating point: weights of 8 bits are dequantised as the format defines it.
"""
import json
from pathlib import Path

import numpy as np
import onnx

from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, read_bytes
from common.checkpoint.preprocessing import Preprocessing, preprocessing_from
from common.conversion.assemble import Params, pixels_of
from common.conversion.onnx_graph import Graph
from common.conversion.onnx_operators import FOLLOWED
from common.conversion.onnx_walk import Walk
from common.conversion.readers import reading


def read_onnx(path: str | Path, image_shape: tuple[int, int, int] | None = None) -> tuple[Params, dict]:
    """(params, description) of an .onnx file, as `common.conversion.structure.recognised` gives them; "preprocessing",
    as far as its metadata (of our own export) and a normalisation of its input say it; "notes", lines about that.

    `image_shape`: (3, H, W) in place of the input's, which need not be known.

    Raises InputError for a file that is damaged, or whose graph is not that of MobileNetV2.
    """
    with reading(path, "an ONNX file"):
        content = read_bytes(path, MOST_WEIGHTS)
        try:
            model = onnx.ModelProto.FromString(content)
            with np.errstate(all="ignore"):  # what is not finite is refused with the parameters
                graph = Graph(model, len(content), Path(path).parent)
                walk = Walk(graph, image_shape, FOLLOWED)
                params, description = walk.network()
                return params, description | _preprocessing(walk, _metadata(model))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _preprocessing(walk: Walk, metadata: dict) -> dict:
    """{"preprocessing", "notes"} of a description: what the metadata and the arithmetic on the input say."""
    if (walk.scale == 1).all() and not walk.shift.any():
        return {"preprocessing": metadata} if metadata else {}
    given = (np.array(metadata[name]) for name in ("mean", "std")) if metadata else ()
    found = pixels_of(walk.scale, walk.shift, *given)
    return found | {"preprocessing": metadata | found["preprocessing"]}


def _metadata(model: onnx.ModelProto) -> dict:
    """The preprocessing that our own export, or a tool that kept it, has written; else {}."""
    entries = [entry.value for entry in model.metadata_props if entry.key == "preprocessing"]
    try:
        content = json.loads(entries[0]) if entries else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or set(content) != set(Preprocessing._fields):
        return {}
    return preprocessing_from(content, "its preprocessing")._asdict()

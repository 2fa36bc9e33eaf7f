"""Whether a checkpoint can be used for images of a size."""
from collections.abc import Sequence
from pathlib import Path

from common.checkpoint_arrays import network_of
from common.errors import InputError
from symbols.architecture import MIN_SIZE, architecture


def check_image_size(graph: dict, arg_params: dict, data_shape: Sequence[int], source: str | Path) -> None:
    """Raise InputError, which names `source`, where the symbol `graph` has SAME padding that was laid out for images of
    another size than `data_shape` (N, 3, height, width), and would not pad as SAME does: the answer would be wrong.

    Sizes that differ by multiples of 32 are padded alike. Of other networks than this repository's nothing is known.
    """
    if not any(node["op"] == "Pad" for node in graph["nodes"]):
        return
    try:
        network = network_of(graph, arg_params, source)
    except InputError:
        return
    if network["padding"] != "same":
        return
    try:
        fits = _paddings(network) == _paddings({**network, "image_shape": tuple(data_shape[1:])})
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    if not fits:
        laid_out = ",".join(str(MIN_SIZE + size % 32) for size in network["image_shape"][1:])
        raise InputError(f"{source}: its SAME padding is not that of images of 3,{data_shape[2]},{data_shape[3]}; it "
                         f"is for 3,{laid_out} and for what differs from it by multiples of 32")


def _paddings(network):
    return [unit.padding for unit in architecture(**network).units]

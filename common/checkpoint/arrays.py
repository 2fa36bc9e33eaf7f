"""A checkpoint of this repository's network as NumPy arrays, without MXNet: read, recognised, written."""
import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.base.errors import InputError
from common.base.files import written_atomically
from common.checkpoint.attributes import Attributes
from common.checkpoint.foreign import converts
from common.checkpoint.params import checkpoint_files, load_checkpoint_params, save_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, preprocessing_file, preprocessing_json
from common.checkpoint.symbol import SOFTMAX_OPS, load_symbol
from symbols.architecture import ACTIVATIONS, REPEATS, STRIDES, TOTAL_STRIDE, architecture
from symbols.mobilenetv2_json import get_graph

# operator: the attributes that matter
ATTRIBUTES = {
    "Convolution": ("kernel", "stride", "dilate", "pad", "num_group", "no_bias"),
    "Pad": ("mode", "pad_width", "constant_value"),
    "BatchNorm": ("eps", "fix_gamma", "axis"),
    "clip": ("a_min", "a_max"),
    "Activation": ("act_type",),
    "Pooling": ("global_pool", "pool_type"),
    "FullyConnected": ("no_bias", "flatten"),
}
SIZES = range(224, 256)  # SAME pads any other size as the one of these that is equal modulo 32


class Checkpoint(NamedTuple):
    """`network`: keywords of `symbols.architecture.architecture`; both params: {published name: array}."""
    network: dict
    num_classes: int
    arg_params: dict
    aux_params: dict
    preprocessing: Preprocessing = Preprocessing()

    def graph(self) -> dict:
        """The symbol JSON."""
        return get_graph(self.num_classes, **self.network)


def unit_names(repeats: Sequence[int] = REPEATS) -> list:
    """The published names of the units, in the network's order."""
    return [unit.name for unit in architecture(repeats=repeats).units]


def parameter_shapes(network: dict, num_classes: int) -> tuple:
    """({argument: shape}, {auxiliary state: shape}) of the network, in its order."""
    plan = architecture(**network)
    arguments: dict[str, tuple[int, ...]] = {}
    states: dict[str, tuple[int, ...]] = {}
    for unit in plan.units:
        arguments[f"{unit.name}-conv2d_weight"] = (unit.channels, unit.in_channels // unit.groups, unit.kernel,
                                                   unit.kernel)
        for name in ("gamma", "beta"):
            arguments[f"{unit.name}-batchnorm_{name}"] = (unit.channels,)
        for name in ("moving_mean", "moving_var"):
            states[f"{unit.name}-batchnorm_{name}"] = (unit.channels,)
    arguments["fc_weight"], arguments["fc_bias"] = (num_classes, plan.last.channels), (num_classes,)
    return arguments, states


def check_numbers(params: dict, source: str | Path) -> None:
    """Raise InputError, which names `source`, for an array of anything but whole or floating-point numbers."""
    for name, array in params.items():
        # kind V: types that are not NumPy's own, such as bfloat16; and records
        if array.dtype.kind not in "fiu" and (array.dtype.kind != "V" or array.dtype.type is np.void):
            raise InputError(f"{source}: {name!r} is of type {array.dtype}; expected numbers")


def checked(checkpoint: Checkpoint, source: str | Path) -> Checkpoint:
    """`checkpoint` with its arrays in the network's order, as float32; an InputError names `source` if they are not
    those of its network, or not finite."""
    groups = []
    check_numbers(checkpoint.arg_params | checkpoint.aux_params, source)
    for shapes, arrays in zip(parameter_shapes(checkpoint.network, checkpoint.num_classes),
                              (checkpoint.arg_params, checkpoint.aux_params)):
        for name, shape in shapes.items():
            if name not in arrays:
                raise InputError(f"{source}: has no {name}")
            if arrays[name].shape != shape:
                raise InputError(f"{source}: {name} has shape {arrays[name].shape}, but this network needs {shape}")
        if unknown := sorted(set(arrays) - set(shapes)):
            raise InputError(f"{source}: {unknown[0]} is no parameter of this network")
        with np.errstate(over="ignore"):
            groups.append({name: np.ascontiguousarray(arrays[name], np.float32) for name in shapes})
        for name, array in groups[-1].items():
            if not np.isfinite(array).all():
                raise InputError(f"{source}: {name} holds NaN, infinity or numbers beyond float32")
    return checkpoint._replace(arg_params=groups[0], aux_params=groups[1])


def save(checkpoint: Checkpoint, prefix: str | Path, epoch: int = 0) -> None:
    """Write PREFIX-%04d.params, PREFIX-preprocess.json and PREFIX-symbol.json: all are written before the first is
    renamed, and the symbol, without which no checkpoint loads, is renamed last."""
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with (written_atomically(symbol_file) as symbol, written_atomically(preprocessing_file(prefix)) as preprocessing,
          written_atomically(params_file) as params):
        Path(symbol).write_text(json.dumps(checkpoint.graph(), indent=2) + "\n", encoding="utf-8")
        save_checkpoint_params(params, checkpoint.arg_params, checkpoint.aux_params)
        Path(preprocessing).write_text(preprocessing_json(checkpoint.preprocessing), encoding="utf-8")


def load(prefix: str | Path, epoch: int) -> Checkpoint:
    """Read a checkpoint of this network, of any widths, strides and padding. Raises InputError for any other."""
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    graph = load_symbol(symbol_file)
    arg_params, aux_params = load_checkpoint_params(params_file)
    preprocessing = load_preprocessing(prefix)
    network = network_of(graph, arg_params, params_file, preprocessing.crop)
    num_classes = (*np.shape(arg_params.get("fc_weight")), 0)[0]
    return checked(Checkpoint(network, num_classes, arg_params, aux_params, preprocessing), params_file)


def widths_of(arg_params: dict, source: str | Path) -> dict:
    """{"channels": ..., "repeats": ...} of parameters with the published names; an InputError names `source`."""
    blocks = [tuple(map(int, match.groups())) for match in
              (re.fullmatch(r"seq-([0-6])-block(\d{1,3})-linear-conv2d_weight", name) for name in arg_params) if match]
    repeats = tuple(sum(stage == i for stage, _ in blocks) for i in range(len(REPEATS)))
    ends = ("first-3x3-conv", *(f"seq-{i}-block0-linear" for i in range(len(REPEATS))), "last-1x1-conv")
    try:
        channels = tuple(len(arg_params[f"{name}-conv2d_weight"]) for name in ends)
        architecture(channels=channels, repeats=repeats)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{source}: does not hold the parameters of this repository's MobileNetV2"
                         f"{converts(source)}") from None
    return {"channels": channels, "repeats": repeats}


def network_of(graph: dict, arg_params: dict, source: str | Path, crop: int = 224) -> dict:
    """Keywords of `architecture` for which the symbol JSON `graph` is this network with parameters of those shapes.

    SAME padding gives the image's shape up to multiples of 32; `crop` high and wide is preferred. An InputError names
    `source` if it is another network.
    """
    widths = widths_of(arg_params, source)
    layers = _layers(graph)
    for strides, activation in product(STRIDES, ACTIVATIONS):
        network = {**widths, "strides": strides, "padding": "symmetric", "activation": activation}
        if _layers(get_graph(1, **network)) == layers:
            return network
        for image_shape in _image_shapes(widths, strides, layers, crop):
            network |= {"padding": "same", "image_shape": image_shape}
            if _layers(get_graph(1, **network)) == layers:
                return network
    raise InputError(f"{source}: its symbol is not that of this repository's MobileNetV2 at any widths")


def _layers(graph: dict) -> dict:
    """{name: (operator, names of its inputs except variables, {attribute that matters: value})} of all nodes but
    the softmax."""
    nodes = graph["nodes"]
    return {node["name"]: (node["op"], tuple(nodes[i]["name"] for i, *_ in node["inputs"] if nodes[i]["op"] != "null"),
                           {key: Attributes(node)[key] for key in ATTRIBUTES.get(node["op"], ())})
            for node in nodes if node["op"] != "null" and node["op"] not in SOFTMAX_OPS}


def _image_shapes(widths: dict, strides: str, layers: dict, crop: int) -> list:
    """The image shape for which TensorFlow's SAME pads as `layers` do, `crop` high and wide if possible; empty if
    there is none."""
    pads = {name.removesuffix("-pad"): attributes["pad_width"][4:]
            for name, (op, _, attributes) in layers.items() if op == "Pad"}

    def fits(axis, size):
        units = architecture(**widths, strides=strides, padding="same", image_shape=(3, size, size)).units
        return all(unit.padding[axis] == pads.get(unit.name, ())[2 * axis:2 * axis + 2]
                   for unit in units if unit.pad_layer)
    sizes = [next((size for size in (crop, *SIZES) if fits(axis, size)), None) for axis in (0, 1)]
    return [] if None in sizes else [(3, *sizes)]


def check_image_size(graph: dict, arg_params: dict, data_shape: Sequence[int], source: str | Path) -> None:
    """Raise InputError, which names `source`, if the symbol `graph` has SAME padding that was laid out for another size
    than `data_shape` (N, 3, height, width) and differs from SAME at that size: the answer would be wrong.

    Sizes that differ by multiples of 32 are padded alike. Networks other than this repository's are not checked.
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
        laid_out = ",".join(str(TOTAL_STRIDE + size % TOTAL_STRIDE) for size in network["image_shape"][1:])
        raise InputError(f"{source}: its SAME padding is not that of images of 3,{data_shape[2]},{data_shape[3]}; it "
                         f"is for 3,{laid_out}, and for sizes that differ from it by multiples of 32")


def _paddings(network):
    return [unit.padding for unit in architecture(**network).units]

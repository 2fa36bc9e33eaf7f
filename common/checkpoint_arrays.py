"""A checkpoint of this repository's network as NumPy arrays, without MXNet: read, recognised, written."""
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import written_atomically
from common.params_file import checkpoint_files, load_checkpoint_params, save_checkpoint_params
from common.preprocessing_file import Preprocessing, load_preprocessing, save_preprocessing
from common.symbol_attributes import Attributes
from common.symbol_json import SOFTMAX_OPS, load_symbol
from symbols.architecture import REPEATS, STRIDES, architecture
from symbols.mobilenetv2_json import get_graph

# operator: the attributes that matter
ATTRIBUTES = {
    "Convolution": ("kernel", "stride", "dilate", "pad", "num_group", "no_bias"),
    "Pad": ("mode", "pad_width", "constant_value"),
    "BatchNorm": ("eps", "fix_gamma", "axis"),
    "clip": ("a_min", "a_max"),
    "Pooling": ("global_pool", "pool_type"),
    "FullyConnected": ("no_bias", "flatten"),
}
SIZES = range(224, 256)  # SAME pads other sizes as that one of these which is the same modulo 32


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


def unit_names(repeats=REPEATS) -> list:
    """The published names of the units, in the network's order."""
    plan = architecture(repeats=repeats)
    return [unit.name for unit in (plan.first, *(unit for block in plan.blocks for unit in block.units), plan.last)]


def parameter_shapes(network: dict, num_classes: int) -> tuple:
    """({argument: shape}, {auxiliary state: shape}) of the network, in its order."""
    plan = architecture(**network)
    arguments, states = {}, {}
    for unit in (plan.first, *(unit for block in plan.blocks for unit in block.units), plan.last):
        arguments[f"{unit.name}-conv2d_weight"] = (unit.channels, unit.in_channels // unit.groups, unit.kernel,
                                                   unit.kernel)
        for name in ("gamma", "beta"):
            arguments[f"{unit.name}-batchnorm_{name}"] = (unit.channels,)
        for name in ("moving_mean", "moving_var"):
            states[f"{unit.name}-batchnorm_{name}"] = (unit.channels,)
    arguments["fc_weight"], arguments["fc_bias"] = (num_classes, plan.last.channels), (num_classes,)
    return arguments, states


def checked(checkpoint: Checkpoint, source) -> Checkpoint:
    """`checkpoint` with its arrays in the network's order, as float32; an InputError names `source` where they are not
    those of its network, or not finite."""
    groups = []
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


def save(checkpoint: Checkpoint, prefix, epoch: int = 0) -> None:
    """Write PREFIX-symbol.json, PREFIX-preprocess.json and PREFIX-%04d.params, each whole or not at all."""
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(symbol_file) as partial:
        Path(partial).write_text(json.dumps(checkpoint.graph(), indent=2) + "\n", encoding="utf-8")
    save_preprocessing(prefix, checkpoint.preprocessing)
    save_checkpoint_params(params_file, checkpoint.arg_params, checkpoint.aux_params)


def load(prefix, epoch: int) -> Checkpoint:
    """Read a checkpoint of this network, of any widths, strides and padding. Raises InputError for any other."""
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    graph = load_symbol(symbol_file)
    arg_params, aux_params = load_checkpoint_params(params_file)
    network = network_of(graph, arg_params, params_file)
    num_classes = (*np.shape(arg_params.get("fc_weight")), 0)[0]
    return checked(Checkpoint(network, num_classes, arg_params, aux_params, load_preprocessing(prefix)), params_file)


def widths_of(arg_params: dict, source) -> dict:
    """{"channels": ..., "repeats": ...} of parameters with the published names; an InputError names `source`."""
    blocks = [tuple(map(int, match.groups())) for match in
              (re.fullmatch(r"seq-([0-6])-block(\d{1,3})-linear-conv2d_weight", name) for name in arg_params) if match]
    repeats = tuple(sum(stage == i for stage, _ in blocks) for i in range(len(REPEATS)))
    ends = ("first-3x3-conv", *(f"seq-{i}-block0-linear" for i in range(len(REPEATS))), "last-1x1-conv")
    try:
        channels = tuple(len(arg_params[f"{name}-conv2d_weight"]) for name in ends)
        architecture(channels=channels, repeats=repeats)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{source}: does not hold the parameters of this repository's MobileNetV2") from None
    return {"channels": channels, "repeats": repeats}


def network_of(graph: dict, arg_params: dict, source) -> dict:
    """Keywords of `architecture` for which the symbol JSON `graph` is this network with parameters of those shapes.

    An InputError names `source` where there are none: it is another network.
    """
    widths = widths_of(arg_params, source)
    layers = _layers(graph)
    for strides in STRIDES:
        network = {**widths, "strides": strides, "padding": "symmetric"}
        if _layers(get_graph(1, **network)) == layers:
            return network
        for image_shape in _image_shapes(widths, strides, layers):
            network |= {"padding": "same", "image_shape": image_shape}
            if _layers(get_graph(1, **network)) == layers:
                return network
    raise InputError(f"{source}: its symbol is not that of this repository's MobileNetV2, of whatever widths")


def _layers(graph) -> dict:
    """{name: (operator, names of its inputs but for variables, {attribute that matters: value})} of all but the
    softmax."""
    nodes = graph["nodes"]
    return {node["name"]: (node["op"], tuple(nodes[i]["name"] for i, *_ in node["inputs"] if nodes[i]["op"] != "null"),
                           {key: Attributes(node)[key] for key in ATTRIBUTES.get(node["op"], ())})
            for node in nodes if node["op"] != "null" and node["op"] not in SOFTMAX_OPS}


def _image_shapes(widths, strides, layers) -> list:
    """The image shape for which TensorFlow's SAME pads as `layers` do; none where there is none."""
    found = []
    for axis in (0, 1):
        for size in SIZES:
            plan = architecture(**widths, strides=strides, padding="same", image_shape=(3, size, size))
            depthwise = [block.units[1] for block in plan.blocks]
            if all(unit.padding[axis] == _padding(layers, unit.name, axis) for unit in (plan.first, *depthwise)):
                found.append(size)
                break
    return [(3, *found)] if len(found) == 2 else []


def _padding(layers, unit: str, axis: int):
    """(before, after) of a unit's convolution and the Pad that may stand before it."""
    if f"{unit}-pad" in layers:
        return layers[f"{unit}-pad"][2].get("pad_width", ())[4 + 2 * axis:6 + 2 * axis]
    pad = layers.get(f"{unit}-conv2d", ("", (), {}))[2].get("pad", ())
    return pad[axis:axis + 1] * 2

"""An MXNet checkpoint in Relay, TVM's language of networks."""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tvm
from tvm import relay
from tvm.relay.frontend import mxnet as frontend

from common.base.errors import InputError, is_of_memory, last_line
from common.checkpoint.arrays import parameter_shapes
from common.checkpoint.fold import fold_batch_norm, identity, load_folded
from common.checkpoint.params import checkpoint_files
from common.checkpoint.symbol import INPUT, is_label
from common.compiler.channel_padding import pad_channels
from symbols.mobilenetv2_json import get_graph


def _fully_connected(inputs, attrs):
    """MXNet's FullyConnected in Relay. (TVM's own converter imports MXNet, to ask for its version.)"""
    data, weight = inputs[:2]
    if attrs.get_bool("flatten", True):
        data = relay.nn.batch_flatten(data)
    out = relay.nn.dense(data, weight, units=attrs.get_int("num_hidden"))
    return out if attrs.get_bool("no_bias", False) else relay.nn.bias_add(out, inputs[2], axis=-1)


frontend._convert_map["FullyConnected"] = _fully_connected
tvm.ir.diagnostics.override_renderer(lambda context: None)  # it would print pages before the exception


class Folded(NamedTuple):
    """Of a checkpoint, BatchNorm folded: `common.checkpoint.fold.identity`, and {name: shape} of its parameters."""
    identity: str
    shapes: dict[str, tuple[int, ...]]


class Network(NamedTuple):
    """A checkpoint in Relay, ready to be compiled for input `data` of `data_shape`.

    `params`: {name: array} of the module's variables. `folded`: the checkpoint whose numbers they are, with zeros after
    them where the shapes here are longer. None if they are other numbers.
    """
    module: tvm.IRModule
    params: dict[str, np.ndarray]
    data_shape: tuple
    num_classes: int
    folded: Folded | None = None


def load_network(prefix: str | Path, epoch: int, data_shape: Sequence[int], block: int = 1) -> Network:
    """Read `PREFIX-symbol.json` and `PREFIX-%04d.params` for input of `data_shape` (N, 3, H, W), without MXNet.

    Its layers are widened by zeros to a number of channels that is a multiple of `block`.

    Raises InputError for files that are missing, damaged or do not belong together.
    """
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    graph, params = load_folded(prefix, epoch, data_shape)
    try:
        return _padded(graph, params, data_shape, block)
    except tvm.error.OpNotImplemented as error:
        raise InputError(f"{symbol_file}: TVM cannot convert it: {last_line(error)}") from None
    except Exception as error:  # of any kind: also of TVM's Python, on what it did not foresee
        if is_of_memory(error):
            raise
        raise InputError(f"{params_file} and {symbol_file} do not fit each other or the input {tuple(data_shape)}: "
                         f"{last_line(error)}") from None


def untrained_network(multiplier: float, data_shape: Sequence[int], block: int = 1) -> Network:
    """MobileNetV2 of that width with arbitrary weights, as `load_network` would read it."""
    graph = get_graph(multiplier=multiplier)
    graph = {**graph, "nodes": [{"attrs": {}, **node} for node in graph["nodes"]]}
    arguments, states = parameter_shapes({"multiplier": multiplier}, 1000)
    params = {name: np.ones(shape, np.float32) for name, shape in (arguments | states).items()}
    return _padded(*fold_batch_norm(graph, params), data_shape, block)


def _padded(graph, params, data_shape, block):
    folded = Folded(identity(graph, params), {name: array.shape for name, array in params.items()})
    return to_relay(*pad_channels(graph, params, block), data_shape)._replace(folded=folded)


def to_relay(graph: dict, params: dict, data_shape: Sequence[int]) -> Network:
    """`graph` (of `common.checkpoint.symbol`) with `params` (str to float32 numpy.ndarray) in Relay, types checked."""
    labels = {node["name"]: (data_shape[0],) for node in graph["nodes"] if is_label(node["name"])}
    shapes = {INPUT: tuple(data_shape), **labels, **{name: array.shape for name, array in params.items()}}
    module = tvm.IRModule()
    module["main"] = frontend._from_mxnet_impl(graph, shapes, "float32", params, module)
    module = relay.transform.InferType()(module)
    shape = tuple(map(int, module["main"].ret_type.shape))
    if len(shape) != 2 or shape[0] != data_shape[0]:
        raise ValueError(f"the output has shape {shape}, not (N, classes)")
    return Network(module, params, tuple(data_shape), shape[1])

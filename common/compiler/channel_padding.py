"""Widen a network's layers by channels of zeros, so that their number is a multiple of a vector's."""
from collections import Counter
from typing import NamedTuple

import numpy as np

from common.checkpoint.attributes import SCALARS, Attributes
from common.checkpoint.symbol import INPUT, SOFTMAX_OPS

# operators of which a channel of the output depends on the same channel of the inputs alone. Not a number divided by
# them: that of zero is infinite, and infinite times a weight of zero is no number
CHANNELWISE = {"Activation", "LeakyReLU", "clip", "elemwise_add", "broadcast_add", "add_n", "Pooling", "Pad", "Dropout",
               "Flatten", *SCALARS} - {"_rdiv_scalar"}
LEAKY = ("leaky", "elu")  # the kinds of LeakyReLU without a parameter of each channel


class Width(NamedTuple):
    """Channels of a node's output: those of the network as it was, and those added after them."""
    channels: int
    added: int


def pad_channels(graph: dict, params: dict, multiple: int) -> tuple[dict, dict]:
    """(graph, params) of a network that computes the same, whose convolutions have a `multiple` of channels.

    What the added channels hold reaches no output: the weights that read them are zero. A network with a layer that
    this does not know how to widen is returned as it is.

    Parameters
    ----------
    graph : dict of `common.checkpoint.symbol`, without BatchNorm (`fold_batch_norm`); not changed.
    params : dict of str to numpy.ndarray; not changed.
    """
    nodes, new_params, widths = [], dict(params), {}
    outputs = _of_output(graph)
    users = Counter(i for node in graph["nodes"] for i, *_ in node["inputs"])
    for position, node in enumerate(graph["nodes"]):
        if node["op"] == "null":
            nodes.append(node)
            if node["name"] == INPUT:
                widths[position] = Width(3, 0)
            continue
        before = {widths[i] for i, *_ in node["inputs"] if i in widths}
        if len(before) != 1:
            return graph, params
        sources = [i for i, *_ in node["inputs"] if i not in widths]
        arrays = [graph["nodes"][i]["name"] for i in sources]
        change = LAYERS.get(node["op"])
        if change is None or any(users[i] > 1 for i in sources):
            return graph, params
        changed = change(node, arrays, before.pop(), new_params, 1 if position in outputs else multiple)
        if changed is None:
            return graph, params
        nodes.append(changed[0])
        widths[position] = changed[1]
    return {**graph, "nodes": nodes}, new_params


def _of_output(graph):
    """Positions of the nodes whose channels are the output's."""
    found, pending = set(), [i for i, *_ in graph["heads"]]
    while pending:
        i = pending.pop()
        found.add(i)
        if graph["nodes"][i]["op"] in CHANNELWISE | set(SOFTMAX_OPS):
            pending += [source for source, *_ in graph["nodes"][i]["inputs"] if source not in found]
    return found


def _convolution(node, arrays, before, params, multiple):
    attrs = Attributes(node)
    filters, groups = attrs["num_filter"], attrs["num_group"]
    new_attrs = dict(node["attrs"])
    if groups == 1:
        after = Width(filters, -filters % multiple)
        _append(params, arrays[0], 1, before.added)
    elif groups == filters == before.channels and multiple > 1:
        after = before
        new_attrs["num_group"] = str(groups + after.added)
    else:
        return None
    for name in arrays:
        _append(params, name, 0, after.added)
    new_attrs["num_filter"] = str(filters + after.added)
    return {**node, "attrs": new_attrs}, after


def _fully_connected(node, arrays, before, params, multiple):
    attrs = Attributes(node)
    if before.added and not attrs["flatten"]:
        return None
    width = params[arrays[0]].shape[1]  # of all pixels, a channel after the other
    _append(params, arrays[0], 1, before.added * (width // before.channels))
    return node, Width(attrs["num_hidden"], 0)


def _channelwise(node, arrays, before, params, multiple):
    return None if arrays else (node, before)


def _leaky_relu(node, arrays, before, params, multiple):
    return _channelwise(node, arrays, before, params, multiple) if Attributes(node)["act_type"] in LEAKY else None


def _softmax(node, arrays, before, params, multiple):
    return None if before.added else (node, before)


def _append(params, name, axis, count):
    if count:
        shape = list(params[name].shape)
        shape[axis] = count
        params[name] = np.concatenate([params[name], np.zeros(shape, params[name].dtype)], axis)


LAYERS = {"Convolution": _convolution, "FullyConnected": _fully_connected,
          **dict.fromkeys(CHANNELWISE, _channelwise), **dict.fromkeys(SOFTMAX_OPS, _softmax), "LeakyReLU": _leaky_relu}

"""A checkpoint as inference takes it: BatchNorm folded into the convolutions before it."""
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.checkpoint.arrays import check_image_size
from common.checkpoint.attributes import Attributes
from common.checkpoint.params import checkpoint_files, load_checkpoint_params
from common.checkpoint.symbol import load_symbol, parameter_names, reachable


def load_folded(prefix: str | Path, epoch: int, data_shape: Sequence[int]) -> tuple[dict, dict]:
    """(graph, params) of `PREFIX-symbol.json` and `PREFIX-%04d.params` after `fold_batch_norm`, params in float32.

    Raises InputError for files that are missing, damaged or do not belong together, and for padding that is not that of
    images of `data_shape` (N, 3, H, W).
    """
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    graph = load_symbol(symbol_file)
    arg_params, aux_params = load_checkpoint_params(params_file)
    check_image_size(graph, arg_params, data_shape, symbol_file)
    params = {name: array.astype(np.float32) for name, array in (arg_params | aux_params).items()}
    missing = [name for name in parameter_names(graph) if name not in params]
    if missing:
        raise InputError(f"{params_file}: has no {missing[0]!r}, which {symbol_file} needs ({len(missing)} missing)")
    try:
        return fold_batch_norm(graph, params)
    except InputError as error:
        raise InputError(f"{params_file} and {symbol_file} do not fit each other: {error}") from None


def identity(graph: dict, params: dict) -> str:
    """SHA-256 of a network without the numbers in its parameters: equal for all checkpoints that the same code runs."""
    shapes = {name: array.shape for name, array in params.items()}
    return hashlib.sha256(json.dumps([graph, shapes], sort_keys=True).encode()).hexdigest()


def fold_batch_norm(graph: dict, params: dict) -> tuple[dict, dict]:
    """(graph, params) with every BatchNorm that follows a Convolution folded into its weight and bias.

    Inference only: it uses the moving mean and variance. TVM would do the same, but compiles and runs a small program
    for each constant.

    Parameters
    ----------
    graph : dict, as `common.checkpoint.symbol.load_symbol` gives it; not changed.
    params : dict of str to numpy.ndarray, arguments and auxiliary states together; not changed.

    Raises InputError for parameters that are missing or of other shapes than their layer.
    """
    nodes, params = graph["nodes"], dict(params)
    uses = [0] * len(nodes)
    for source, *_ in [entry for node in nodes for entry in node["inputs"]] + graph["heads"]:
        uses[source] += 1

    new_nodes, moved = [], {}  # moved: position of a node -> position in new_nodes of what stands for it

    def append(node):
        new_nodes.append(node)
        return len(new_nodes) - 1

    for position, node in enumerate(nodes):
        if _folds(node, nodes, uses):
            convolution_at = moved[node["inputs"][0][0]]
            convolution = new_nodes[convolution_at]
            weight = new_nodes[convolution["inputs"][1][0]]["name"]
            bias = f"{convolution['name']}_folded_bias"
            params[weight], params[bias] = _folded(nodes[node["inputs"][0][0]], node, nodes, params)
            bias_at = append({"op": "null", "name": bias, "attrs": {}, "inputs": []})
            moved[position] = append({**convolution, "attrs": {**convolution["attrs"], "no_bias": "False"},
                                      "inputs": convolution["inputs"][:2] + [[bias_at, 0, 0]]})
        else:
            moved[position] = append({**node, "inputs": [[moved[i], *rest] for i, *rest in node["inputs"]]})
    heads = [[moved[i], *rest] for i, *rest in graph["heads"]]
    graph = reachable(new_nodes, heads)
    names = set(parameter_names(graph))
    return graph, {name: array for name, array in params.items() if name in names}


def _folds(node, nodes, uses):
    if node["op"] != "BatchNorm" or Attributes(node)["axis"] != 1:
        return False
    source = node["inputs"][0][0]
    return (nodes[source]["op"] == "Convolution" and uses[source] == 1
            and all(nodes[i]["op"] == "null" and uses[i] == 1 for i, *_ in nodes[source]["inputs"][1:])
            and all(nodes[i]["op"] == "null" for i, *_ in node["inputs"][1:]))


def _folded(convolution, batch_norm, nodes, params):
    """Weight and bias of both together, computed in float64 (BatchNorm as in MXNet's src/operator/nn/batch_norm)."""
    attrs = Attributes(batch_norm)
    names = [nodes[i]["name"] for i, *_ in convolution["inputs"][1:] + batch_norm["inputs"][1:]]
    for name in names:
        if name not in params:
            raise attrs.error(f"there is no parameter {name!r}")
    weight, *bias, gamma, beta, mean, var = (params[name] for name in names)
    for name in names[1:]:
        if weight.ndim < 2 or params[name].shape != weight.shape[:1]:
            raise attrs.error(f"parameter {name!r} has shape {params[name].shape}, which does not fit {names[0]!r} of "
                              f"shape {weight.shape}")
    with np.errstate(all="ignore"):  # a negative variance, say, which MXNet makes NaN of as well
        scale = 1 / np.sqrt(var.astype(np.float64) + attrs["eps"])
        if not attrs["fix_gamma"]:
            scale *= gamma
        shift = beta + scale * (sum(bias) - mean.astype(np.float64))
        weight_scale = scale.reshape(-1, *(1,) * (weight.ndim - 1))
        return (weight * weight_scale).astype(weight.dtype), shift.astype(weight.dtype)

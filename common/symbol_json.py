"""Read `PREFIX-symbol.json` without MXNet, as the dict that TVM's MXNet frontend takes, and simplify it there."""
import json

import numpy as np

from common.errors import InputError

INPUT = "data"
SOFTMAX_OPS = ("SoftmaxOutput", "softmax", "SoftmaxActivation")


def load_symbol(path) -> dict:
    """The graph of a symbol JSON file: {"nodes": [...], "heads": [...]}.

    A node is {"op", "name", "attrs", "inputs": [[node, output, version], ...]}; nodes come after their inputs, and op
    "null" is a variable. The two older spellings of "attrs" ("attr", "param") are understood. A graph that ends in
    logits, as Gluon's export does, is given a softmax. Raises InputError for a file that is missing or holds no such
    graph.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a symbol JSON file, or a truncated one ({error})") from None
    try:
        graph = {"nodes": [_node(node, i) for i, node in enumerate(content["nodes"])],
                 "heads": [list(head) for head in content["heads"]]}
        head, = graph["heads"]
        head_op = graph["nodes"][head[0]]["op"]
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(f"{path}: not the symbol of an MXNet classifier with one output") from None
    if head_op not in SOFTMAX_OPS:
        graph["nodes"].append({"op": "softmax", "name": "softmax", "attrs": {"axis": "-1"}, "inputs": [head]})
        graph["heads"] = [[len(graph["nodes"]) - 1, 0, 0]]
    return graph


def _node(node, position):
    inputs = [[int(i) for i in entry] for entry in node["inputs"]]
    if any(not 0 <= source[0] < position for source in inputs):
        raise ValueError("a node before its inputs")
    attrs = node.get("attrs") or node.get("attr") or node.get("param") or {}
    return {"op": str(node["op"]), "name": str(node["name"]), "attrs": dict(attrs), "inputs": inputs}


def parameter_names(graph) -> list:
    """Names of the variables that a checkpoint has to hold: all but `data` and the labels."""
    return [node["name"] for node in graph["nodes"]
            if node["op"] == "null" and node["name"] != INPUT and not node["name"].endswith("label")]


def fold_batch_norm(graph, params) -> tuple:
    """(graph, params) with every BatchNorm that follows a Convolution folded into its weight and bias.

    Inference only: it uses the moving mean and variance. TVM would do the same, but compiles and runs a small program
    for each constant, which is most of a build's time (benchmarks/compile.py).

    Parameters
    ----------
    graph : dict, as `load_symbol` gives it; not changed.
    params : dict of str to numpy.ndarray, arguments and auxiliary states together; not changed.
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
            scale, shift = _scale_and_shift(node, nodes, params)
            if len(convolution["inputs"]) == 3:
                shift = shift + scale * params[new_nodes[convolution["inputs"][2][0]]["name"]]
            params[weight] = (params[weight] * scale.reshape(-1, 1, 1, 1)).astype(params[weight].dtype)
            params[bias] = shift.astype(params[weight].dtype)
            bias_at = append({"op": "null", "name": bias, "attrs": {}, "inputs": []})
            moved[position] = append({**convolution, "attrs": {**convolution["attrs"], "no_bias": "False"},
                                      "inputs": convolution["inputs"][:2] + [[bias_at, 0, 0]]})
        else:
            moved[position] = append({**node, "inputs": [[moved[i], *rest] for i, *rest in node["inputs"]]})
    heads = [[moved[i], *rest] for i, *rest in graph["heads"]]
    graph = _reachable(new_nodes, heads)
    names = set(parameter_names(graph))
    return graph, {name: array for name, array in params.items() if name in names}


def _folds(node, nodes, uses):
    if node["op"] != "BatchNorm" or int(node["attrs"].get("axis", 1)) != 1:
        return False
    source = node["inputs"][0][0]
    return (nodes[source]["op"] == "Convolution" and uses[source] == 1
            and all(nodes[i]["op"] == "null" and uses[i] == 1 for i, *_ in nodes[source]["inputs"][1:]))


def _scale_and_shift(batch_norm, nodes, params):
    """y = scale * x + shift per channel, in float64 (BatchNorm's defaults as in MXNet's src/operator/nn/batch_norm)."""
    gamma, beta, mean, var = (params[nodes[i]["name"]].astype(np.float64) for i, *_ in batch_norm["inputs"][1:])
    attrs = batch_norm["attrs"]
    if attrs.get("fix_gamma", "True") in ("True", "true", "1"):
        gamma = np.ones_like(gamma)
    scale = gamma / np.sqrt(var + float(attrs.get("eps", 1e-3)))
    return scale, beta - mean * scale


def _reachable(nodes, heads):
    """The graph of only those nodes that the heads need, renumbered."""
    needed, pending = set(), [i for i, *_ in heads]
    while pending:
        i = pending.pop()
        if i not in needed:
            needed.add(i)
            pending += [source for source, *_ in nodes[i]["inputs"]]
    number = {old: new for new, old in enumerate(sorted(needed))}
    return {"nodes": [{**nodes[old], "inputs": [[number[i], *rest] for i, *rest in nodes[old]["inputs"]]}
                      for old in sorted(needed)],
            "heads": [[number[i], *rest] for i, *rest in heads]}

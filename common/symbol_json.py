"""Read `PREFIX-symbol.json` without MXNet, as the dict that TVM's MXNet frontend takes."""
import json
from pathlib import Path

from common.errors import InputError
from common.files import read_text
from common.symbol_attributes import Attributes

INPUT = "data"
MOST_NODES = 5000  # this network has about 500; MXNet and TVM recurse along a graph, until their stacks are full
SOFTMAX_OPS = ("SoftmaxOutput", "softmax", "SoftmaxActivation")


def load_symbol(path: str | Path) -> dict:
    """The graph of a symbol JSON file: {"nodes": [...], "heads": [...]}.

    A node is {"op", "name", "attrs", "inputs": [[node, output, version], ...]}; nodes come after their inputs, and op
    "null" is a variable. The two older spellings of "attrs" ("attr", "param") are understood. A graph that ends in
    logits, as Gluon's export does, is given a softmax. Raises InputError for a file that is missing or holds no such
    graph.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a symbol JSON file, or a truncated one ({error})") from None
    try:
        if len(content["nodes"]) > MOST_NODES:
            raise InputError(f"{len(content['nodes'])} nodes, more than the {MOST_NODES} that are read")
        graph = {"nodes": [_node(node, i) for i, node in enumerate(content["nodes"])],
                 "heads": [_entry(head, len(content["nodes"])) for head in content["heads"]]}
        for node in graph["nodes"]:
            Attributes(node).check()
        head, = graph["heads"]
        if head[1] != 0:
            raise ValueError("not the first output")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, IndexError, AttributeError, TypeError, ValueError):
        raise InputError(f"{path}: not the symbol of an MXNet classifier with one output") from None
    if ends_in_logits(graph):
        graph["nodes"].append({"op": "softmax", "name": "softmax", "attrs": {"axis": "-1"}, "inputs": [head]})
        graph["heads"] = [[len(graph["nodes"]) - 1, 0, 0]]
    return graph


def ends_in_logits(graph: dict) -> bool:
    """Whether the one output of a symbol, as JSON, is no softmax's: whatever its name is."""
    (head, *_), = graph["heads"]
    return graph["nodes"][head]["op"] not in SOFTMAX_OPS


def _node(node, position):
    if not node["op"].isidentifier():
        raise ValueError("not an operator")
    attrs = dict(node.get("attrs") or node.get("attr") or node.get("param") or {})
    "".join([node["op"], node["name"], *attrs, *attrs.values()]).encode()  # all have to be text, and writable as such
    return {"op": node["op"], "name": node["name"], "attrs": attrs,
            "inputs": [_entry(entry, position) for entry in node["inputs"]]}


def _entry(entry, nodes):
    """[node, output] and perhaps a version, of one of the first `nodes` nodes."""
    if len(entry) not in (2, 3) or any(type(n) is not int or n < 0 for n in entry) or entry[0] >= nodes:
        raise ValueError("no output of an earlier node")
    return list(entry)


def parameter_names(graph: dict) -> list:
    """Names of the variables that a checkpoint has to hold: all but `data` and the labels."""
    return [node["name"] for node in graph["nodes"]
            if node["op"] == "null" and node["name"] != INPUT and not is_label(node["name"])]


def is_label(name: str) -> bool:
    """Whether a variable of that name is for labels, which an output is compared with in training alone."""
    return name.endswith("label")

"""Read `PREFIX-symbol.json` without MXNet, as the dict that TVM's MXNet frontend takes."""
import re
from pathlib import Path

from common.base.errors import InputError
from common.base.files import read_json
from common.checkpoint.attributes import SCALARS, Attributes

INPUT = "data"
MOST_NODES = 5000  # this network has about 500; MXNet and TVM recurse along a graph, until their stacks are full
SOFTMAX_OPS = ("SoftmaxOutput", "softmax", "SoftmaxActivation")
VERSION_WITH_STATES = 900  # MXNet 0.9.0; earlier ones, the oldest without a version, leave out BatchNorm's states
# other names of operators, most of them of MXNet 0.x
OPERATORS = {
    "Softmax": "SoftmaxOutput", "ElementWiseSum": "add_n", "flatten": "Flatten", "reshape": "Reshape", "cast": "Cast",
    "pad": "Pad", "concat": "Concat", "identity": "_copy", "stop_gradient": "BlockGrad",
    "broadcast_plus": "broadcast_add", "broadcast_minus": "broadcast_sub",
    **{old: f"elemwise_{new}" for new, name in (("add", "Plus"), ("sub", "Minus"), ("mul", "Mul"), ("div", "Div"))
       for old in (f"_{name}", f"_{name.lower()}", f"_{new}")},
    **{f"_{name}Scalar": f"_{name.lower()}_scalar" for name in ("Plus", "Minus", "RMinus", "Mul", "Div", "RDiv")}}
# the output of these has as many channels, or as many numbers, as the first input
KEEPING_CLASSES = {*SOFTMAX_OPS, *SCALARS, "Flatten", "Dropout", "Cast", "amp_cast", "BlockGrad", "_copy", "Pooling",
                   "Activation", "LeakyReLU", "clip", "BatchNorm"}
FLAT = re.compile(r"[(\[]\s*(0|-1)\s*,\s*(-1|[0-9]+)\s*[)\]]")  # the shape of (N, classes)
PYTHON_2_LONG = re.compile(r"(?<=[0-9])L(?=\s*[,)\]])")  # in "(3L, 3L)"


def load_symbol(path: str | Path, with_softmax: bool = True) -> dict:
    """The graph of a symbol JSON file: {"nodes": [...], "heads": [...]}.

    A node is {"op", "name", "attrs", "inputs": [[node, output, version], ...]}; nodes come after their inputs, the head
    needs all nodes, and op "null" is a variable. What older versions of MXNet wrote is brought up to date as MXNet
    1.9.1 does it. A graph that ends in logits, as Gluon's export does, is given a softmax, unless `with_softmax` is
    False. Raises InputError for a file that is missing or holds no such graph.
    """
    try:
        content = read_json(path, "a symbol JSON file, or a truncated one")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        graph = _graph(content)
        for node in graph["nodes"]:
            Attributes(node).check()
        _check_inputs(graph)
        head, = graph["heads"]
        if head[1] != 0:
            raise ValueError("not the first output")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, IndexError, AttributeError, TypeError, ValueError):
        raise InputError(f"{path}: not the symbol of an MXNet classifier with one output") from None
    if with_softmax and ends_in_logits(graph):
        graph["nodes"].append({"op": "softmax", "name": "softmax", "attrs": {"axis": "-1"}, "inputs": [head]})
        graph["heads"] = [[len(graph["nodes"]) - 1, 0, 0]]
    return graph


def ends_in_logits(graph: dict) -> bool:
    """Whether the one output of a symbol, as JSON, is not that of a softmax, by any name."""
    (head, *_), = graph["heads"]
    return graph["nodes"][head]["op"] not in SOFTMAX_OPS


def _graph(content):
    """As MXNet loads it (src/nnvm/legacy_json_util.cc): variables of states that the file leaves out are named after
    the operator."""
    if len(content["nodes"]) > MOST_NODES:
        raise InputError(f"{len(content['nodes'])} nodes, more than the {MOST_NODES} that are read")
    kind, version = content.get("attrs", {}).get("mxnet_version", ("int", 800))
    if kind != "int" or type(version) is not int:
        raise ValueError("not a version")
    nodes, moved = [], []  # moved: places in `nodes` of the file's nodes
    for written in content["nodes"]:
        node = _node(written, moved)
        if version < VERSION_WITH_STATES and node["inputs"]:
            for name in Attributes(node).parameters()[len(node["inputs"]) - 1:]:
                node["inputs"].append([len(nodes), 0, 0])
                nodes.append({"op": "null", "name": "_".join(filter(None, (node["name"], name))), "attrs": {},
                              "inputs": []})
        moved.append(len(nodes))
        nodes.append(node)
    return reachable(nodes, [_entry(head, moved) for head in content["heads"]])


def _node(node, moved):
    op = OPERATORS.get(node["op"], node["op"])
    if not op.isidentifier():
        raise ValueError("not an operator")
    # before 0.9, "param" are the operator's and "attr" the user's; of later names, MXNet takes the one that comes last
    written = {**node.get("param", {}), **[{}, *(node[key] for key in node if key in ("attr", "attrs"))][-1]}
    attrs = {key: PYTHON_2_LONG.sub("", text) for key, text in written.items()}
    "".join([op, node["name"], *attrs, *attrs.values()]).encode()  # all have to be text, and writable as such
    return {"op": op, "name": node["name"], "attrs": attrs,
            "inputs": [_entry(entry, moved) for entry in node["inputs"]]}


def _entry(entry, moved):
    """[node, output, version] of an earlier node; the version may be left out."""
    if len(entry) not in (2, 3) or any(type(n) is not int or n < 0 for n in entry):
        raise ValueError("no output of an earlier node")
    return [moved[entry[0]], *entry[1:], 0][:3]


def reachable(nodes: list[dict], heads: list[list[int]]) -> dict:
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


def _check_inputs(graph):
    """Raise InputError unless inputs exist and variables have different names: MXNet crashes otherwise."""
    nodes = graph["nodes"]
    variables = [node["name"] for node in nodes if node["op"] == "null"]
    if INPUT not in variables:
        raise InputError(f"no variable has the name {INPUT!r}, that of the images")
    if len(set(variables)) != len(variables):
        raise InputError(f"two variables have the name {max(variables, key=variables.count)!r}")
    for node in nodes:
        attrs, sources = Attributes(node), [nodes[i] for i, *_ in node["inputs"]]
        if "$" in "".join([node["name"], *node["attrs"]]):
            raise attrs.error("'$' in names of nodes and attributes is not allowed in MXNet")
        for source, (_, output, _) in zip(sources, node["inputs"]):
            if output and not (source["op"] == "SliceChannel" and output < Attributes(source)["num_outputs"]):
                raise attrs.error(f"takes output {output} of {source['name']!r}, which has none")
        for name, source in zip(attrs.parameters(), sources[1:]):
            if name.startswith("moving_") and (source["op"] != "null" or source["name"] == INPUT):
                raise attrs.error(f"its {name} is {source['name']!r}, not a parameter")


def parameter_names(graph: dict) -> list:
    """Names of the variables that a checkpoint has to hold: all but `data` and the labels."""
    return [node["name"] for node in graph["nodes"]
            if node["op"] == "null" and node["name"] != INPUT and not is_label(node["name"])]


def is_label(name: str) -> bool:
    """Whether a variable of that name is for labels, which an output is compared with in training alone."""
    return name.endswith("label")


def num_classes_of(graph: dict) -> int | None:
    """The number of classes of a graph of `load_symbol`: the outputs of its last layer, a FullyConnected or a
    Convolution of one pixel; None if it is neither."""
    at, classes, pooled = graph["heads"][0][0], None, False
    while classes is None or not pooled:
        node = graph["nodes"][at]
        op, attrs = node["op"], Attributes(node)
        if op == "FullyConnected":
            return classes or (attrs["num_hidden"] if attrs["flatten"] else None)
        if op == "Convolution" and (pooled or (attrs["kernel"], attrs["pad"]) == ((1, 1), (0, 0))):
            classes = classes or attrs["num_filter"]
        elif op == "Pooling" and attrs["global_pool"]:
            pooled = True
        elif op not in KEEPING_CLASSES and not (op == "Reshape" and FLAT.fullmatch(node["attrs"].get("shape", ""))):
            return None
        at = node["inputs"][0][0]
    return classes

"""MobileNetV2 as the symbol JSON that MXNet writes and reads, made without MXNet."""
from collections.abc import Sequence

from .architecture import Unit, architecture, check_num_classes

MXNET_VERSION = 10901  # the format is that of 1.9.1
OUTPUTS = {"BatchNorm": 3}  # of the operators that have more than one


def get_graph(num_classes: int = 1000, multiplier: float = 1.0, strides: str = "published",
              padding: str = "symmetric", image_shape: Sequence[int] | None = None,
              channels: Sequence[int] | None = None, repeats: Sequence[int] | None = None,
              activation: str = "relu6") -> dict:
    """What `json.loads(symbols.mobilenetv2.get_symbol(...).tojson())` gives for the same arguments."""
    check_num_classes(num_classes)
    plan = architecture(multiplier, strides, padding, image_shape, channels, repeats, activation)
    nodes = _Nodes()
    at = _unit(nodes, nodes.add("null", "data"), plan.first)
    for block in plan.blocks:
        incoming = at
        for unit in block.units:
            at = _unit(nodes, at, unit)
        if block.shortcut:
            at = nodes.add("elemwise_add", f"{block.name}-shortcut", inputs=(incoming, at))
    at = _unit(nodes, at, plan.last)
    at = nodes.add("Pooling", "global_pool", {"global_pool": True, "kernel": (7, 7), "pool_type": "avg"}, (at,))
    at = nodes.add("Flatten", "flatten", inputs=(at,))
    at = nodes.layer("FullyConnected", "fc", {"num_hidden": num_classes}, at, ("weight", "bias"))
    return nodes.graph(nodes.layer("SoftmaxOutput", "softmax", {}, at, ("label",)))


def _unit(nodes: "_Nodes", at: int, unit: Unit) -> int:
    """As `symbols.mobilenetv2` lays it out; returns the position of the last node."""
    (top, bottom), (left, right) = unit.padding
    if unit.pad_layer:
        at = nodes.add("Pad", f"{unit.name}-pad", {"constant_value": 0, "mode": "constant", "pad_width":
                                                   (0, 0, 0, 0, top, bottom, left, right)}, (at,))
    at = nodes.layer("Convolution", f"{unit.name}-conv2d",
                     {"kernel": (unit.kernel,) * 2, "no_bias": True, "num_filter": unit.channels,
                      "num_group": unit.groups, "pad": (0, 0) if unit.pad_layer else (top, left),
                      "stride": (unit.stride,) * 2}, at, ("weight",))
    at = nodes.layer("BatchNorm", f"{unit.name}-batchnorm", {"eps": 1e-5, "fix_gamma": False}, at,
                     ("gamma", "beta"), {"moving_mean": '["zero", {}]', "moving_var": '["one", {}]'})
    if unit.activation == "relu":
        return nodes.add("Activation", f"{unit.name}-relu", {"act_type": "relu"}, (at,))
    return nodes.add("clip", f"{unit.name}-relu6", {"a_max": 6, "a_min": 0}, (at,)) if unit.activation else at


class _Nodes:
    """The nodes of a graph that grows; an auxiliary state, which the operator changes, has version 1."""

    def __init__(self) -> None:
        self._nodes = []

    def add(self, op: str, name: str, attrs: dict | None = None, inputs: Sequence[int] = (),
            states: Sequence[int] = ()) -> int:
        attrs = {"attrs": {key: str(value) for key, value in attrs.items()}} if attrs else {}
        entries = [[source, 0, 0] for source in inputs] + [[source, 0, 1] for source in states]
        self._nodes.append({"op": op, "name": name, **attrs, "inputs": entries})
        return len(self._nodes) - 1

    def layer(self, op: str, name: str, attrs: dict, source: int, params: Sequence, states: dict | None = None) -> int:
        """An operator and its variables: {name of a state: its initializer}; those have its attributes too."""
        params = [self.add("null", f"{name}_{param}", attrs) for param in params]
        kept = [self.add("null", f"{name}_{state}", {"__init__": init, **attrs})
                for state, init in (states or {}).items()]
        return self.add(op, name, attrs, (source, *params), kept)

    def graph(self, head: int) -> dict:
        row_ptr = [0]
        for node in self._nodes:
            row_ptr.append(row_ptr[-1] + OUTPUTS.get(node["op"], 1))
        return {"nodes": self._nodes, "arg_nodes": [i for i, node in enumerate(self._nodes) if node["op"] == "null"],
                "node_row_ptr": row_ptr, "heads": [[head, 0, 0]], "attrs": {"mxnet_version": ["int", MXNET_VERSION]}}

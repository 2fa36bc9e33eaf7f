"""The network as it is trained: what differs from the one that is saved."""
import json
from collections.abc import Sequence

from common.base.errors import InputError
from common.find_mxnet import mx


def training_symbol(network: mx.sym.Symbol, label_smoothing: float = 0.0, dtype: str = "float32",
                    loss_scale: float = 1.0, frozen: Sequence[str] = ()) -> mx.sym.Symbol:
    """`network`, which ends in a SoftmaxOutput, with the head and types of training.

    `label_smoothing`: that share of the target goes to the other classes, in equal parts (`smooth_alpha`).
    `dtype` float16: the data is cast, weights and activations follow; BatchNorm's parameters and the softmax are in
    float32. `loss_scale`: the gradient is multiplied by it. `frozen`: parameters that stay as they are; their
    BatchNorms then use their moving mean and variance, and leave these as they are too. Raises InputError if that is
    asked of a network with another end.
    """
    graph = json.loads(network.tojson())
    head = graph["nodes"][graph["heads"][0][0]]
    if head["op"] != "SoftmaxOutput":
        if label_smoothing or dtype != "float32" or loss_scale != 1:
            raise InputError(f"the network ends in {head['op']}: --label-smoothing, --loss-scale, --mixup, --cutmix "
                             "and --dtype float16 need a SoftmaxOutput there")
        return network
    attrs = head.setdefault("attrs", {})
    attrs |= {"smooth_alpha": str(label_smoothing), "grad_scale": str(loss_scale * float(attrs.get("grad_scale", 1)))}
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm" and graph["nodes"][node["inputs"][1][0]]["name"] in frozen:
            node["attrs"]["use_global_stats"] = "True"
    symbol = mx.sym.load_json(json.dumps(graph))
    if dtype == "float16":
        logits, _ = symbol.get_children()
        logits = logits(data=mx.sym.Cast(mx.sym.Variable("data"), dtype="float16"))
        symbol = mx.sym.SoftmaxOutput(mx.sym.Cast(logits, dtype="float32"), name=head["name"], **attrs)
    return symbol


def params_before(network: mx.sym.Symbol, layer: str) -> list:
    """The parameters of the layers before `layer`, in the order of the network; InputError if it has no such layer."""
    order = network.list_arguments()
    first = next((i for i, name in enumerate(order) if name.startswith((f"{layer}_", f"{layer}-"))), None)
    if first is None or order[first].endswith("_label"):
        raise InputError(f"--train-from {layer}: the network has no such layer; give the beginning of a parameter's "
                         f"name, of {order[1]} to {[name for name in order if not name.endswith('_label')][-1]}")
    return [name for name in order[:first] if name != "data"]

"""The network as it is trained: what differs from the one that is saved."""
import json
from collections.abc import Sequence

from common.base.errors import InputError
from common.find_mxnet import mx


def training_symbol(network: mx.sym.Symbol, label_smoothing: float = 0.0, dtype: str = "float32",
                    loss_scale: float = 1.0, frozen: Sequence[str] = ()) -> mx.sym.Symbol:
    """`network` (with the names of `symbols.mobilenetv2`) with the head and types of training.

    `label_smoothing`: that share of the target goes to the other classes, in equal parts (`smooth_alpha`).
    `dtype` float16: the data is cast, weights and activations follow; BatchNorm's parameters and the softmax are in
    float32. `loss_scale`: the gradient is multiplied by it. `frozen`: parameters that stay as they are; their
    BatchNorms then use their moving mean and variance, and leave these as they are too.
    """
    logits = network.get_internals()["fc_output"]
    if frozen:
        graph = json.loads(logits.tojson())
        for node in graph["nodes"]:
            if node["op"] == "BatchNorm" and f"{node['name']}_gamma" in frozen:
                node["attrs"]["use_global_stats"] = "True"
        logits = mx.sym.load_json(json.dumps(graph))
    if dtype == "float16":
        logits = logits(data=mx.sym.Cast(mx.sym.Variable("data"), dtype="float16"))
        logits = mx.sym.Cast(logits, dtype="float32")
    return mx.sym.SoftmaxOutput(logits, name="softmax", smooth_alpha=label_smoothing, grad_scale=loss_scale)


def params_before(network: mx.sym.Symbol, layer: str) -> list:
    """The parameters of the layers before `layer`, in the order of the network; InputError where it has no such."""
    order = network.list_arguments()
    first = next((i for i, name in enumerate(order) if name.startswith((f"{layer}_", f"{layer}-"))), None)
    if first is None or order[first].endswith("_label"):
        raise InputError(f"--train-from {layer}: the network has no such layer; its names begin with first-3x3-conv, "
                         "seq-0 to seq-6, last-1x1-conv, fc")
    return [name for name in order[:first] if name != "data"]

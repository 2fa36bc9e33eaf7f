"""The network as it is trained: what differs from the one that is saved."""
import json
from collections.abc import Sequence

from common.base.errors import InputError
from common.find_mxnet import mx

# what a batch has besides its labels
TEACHER, WEIGHTS = "teacher_answers", "image_weights"


def training_symbol(network: mx.sym.Symbol, label_smoothing: float = 0.0, dtype: str = "float32",
                    loss_scale: float = 1.0, frozen: Sequence[str] = (),
                    distillation: tuple[float, float] | None = None, weighted: bool = False) -> mx.sym.Symbol:
    """`network`, which ends in a SoftmaxOutput, with the head and types of training.

    `label_smoothing`: that share of the target goes to the other classes, in equal parts (`smooth_alpha`).
    `dtype` float16: the data is cast, weights and activations follow; BatchNorm's parameters and the softmax are in
    float32. `loss_scale`: the gradient is multiplied by it. `frozen`: parameters that stay as they are; their
    BatchNorms then use their moving mean and variance, and leave these as they are too. Raises InputError if that is
    asked of a network with another end.

    `distillation`: (temperature T, hard weight a) of the loss a CE(label, softmax(z)) +
    (1 - a) T^2 CE(teacher_answers, softmax(z / T)) of logits z, where teacher_answers (N, classes) are the teacher's
    probabilities at T: that of GluonCV's DistillationSoftmaxCrossEntropyLoss. softmax(z) stays the first output.
    `weighted`: the gradient of each image is multiplied by its image_weights (N, 1).
    """
    graph = json.loads(network.tojson())
    head = graph["nodes"][graph["heads"][0][0]]
    if head["op"] != "SoftmaxOutput":
        if label_smoothing or dtype != "float32" or loss_scale != 1 or distillation or weighted:
            raise InputError(f"the network ends in {head['op']}: --label-smoothing, --loss-scale, --mixup, --cutmix, "
                             "--teacher, --class-weights and --dtype float16 need a SoftmaxOutput there")
        return network
    attrs = head.setdefault("attrs", {})
    temperature, hard_weight = distillation or (1.0, 1.0)
    scale = loss_scale * float(attrs.get("grad_scale", 1))
    attrs |= {"smooth_alpha": str(label_smoothing), "grad_scale": str(scale * hard_weight)}
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm" and graph["nodes"][node["inputs"][1][0]]["name"] in frozen:
            node["attrs"]["use_global_stats"] = "True"
    symbol = mx.sym.load_json(json.dumps(graph))
    logits, label = symbol.get_children()
    if dtype == "float16":
        logits = logits(data=mx.sym.Cast(mx.sym.Variable("data"), dtype="float16"))
        logits = mx.sym.Cast(logits, dtype="float32")
    if weighted:  # by a term that is 0, whose gradient is not: SoftmaxOutput's own out_grad multiplies by its output
        more = mx.sym.broadcast_mul(logits, mx.sym.Variable(WEIGHTS) - 1)
        logits = logits + (more - mx.sym.BlockGrad(more))
    if dtype == "float16" or distillation or weighted:
        symbol = mx.sym.SoftmaxOutput(logits, label, name=head["name"], **attrs)
    if distillation:
        soft = mx.sym.SoftmaxOutput(logits / temperature, mx.sym.Variable(TEACHER), name="soft",
                                    grad_scale=scale * (1 - hard_weight) * temperature ** 2)
        symbol = mx.sym.Group([symbol, soft])
    return symbol


def params_before(network: mx.sym.Symbol, layer: str) -> list:
    """The parameters of the layers before `layer`, in the order of the network; InputError if it has no such layer."""
    order = network.list_arguments()
    first = next((i for i, name in enumerate(order) if name.startswith((f"{layer}_", f"{layer}-"))), None)
    if first is None or order[first].endswith("_label"):
        raise InputError(f"--train-from {layer}: the network has no such layer; give the beginning of a parameter's "
                         f"name, of {order[1]} to {[name for name in order if not name.endswith('_label')][-1]}")
    return [name for name in order[:first] if name != "data"]

"""A checkpoint as an ONNX model that computes in float32, without MXNet: what each operator becomes."""
import math
from collections.abc import Sequence

import numpy as np
import onnx

from common.base.errors import InputError
from common.checkpoint.attributes import Attributes
from common.checkpoint.fold import fold_batch_norm
from common.checkpoint.preprocessing import Preprocessing
from common.checkpoint.symbol import INPUT, parameter_names
from common.conversion.onnx_build import BATCH, OPSET, Build

# MXNet's op: ONNX's
UNARY = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
ACTIVATIONS = UNARY | {"softrelu": "Softplus", "softsign": "Softsign"}
MANY = 2 ** 31 - 1, 2 ** 61 - 1  # numbers of images; both are primes
POOLS = {"avg": "AveragePool", "max": "MaxPool"}
SAME_SHAPES = {f"{mxnet}{name}": onnx_op
               for name, onnx_op in (("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"))
               for mxnet in ("elemwise_", "broadcast_")}
SAME_SHAPES["add_n"] = "Add"
# and whether the number comes first
SCALARS = {"_plus_scalar": ("Add", False), "_minus_scalar": ("Sub", False), "_rminus_scalar": ("Sub", True),
           "_mul_scalar": ("Mul", False), "_div_scalar": ("Div", False), "_rdiv_scalar": ("Div", True)}


def to_onnx(graph: dict, params: dict[str, np.ndarray], data_shape: Sequence[int], fold: bool = False,
            preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  a tuple
            pixels: bool = False, opset: int = OPSET) -> onnx.ModelProto:
    """An MXNet classifier as an ONNX model that `onnx.checker` passes. Equal arguments give equal bytes.

    Input `data`: float32 (N, 3, H, W), for any N. Output: probabilities (N, classes), or logits if the graph ends in
    them, which the metadata's "output" says. Nodes, tensors and weights have the symbol's names, so that the output of
    this repository's networks is `softmax`; a second node of the same name gets a number behind it. The metadata's
    "preprocessing", JSON as in `common.checkpoint.preprocessing`, says what has to be done to an image to get `data`.

    Parameters
    ----------
    graph : dict, as `common.checkpoint.symbol.load_symbol` gives it.
    params : dict of str to numpy.ndarray, arguments and auxiliary states together.
    data_shape : (3, H, W), with or without N before it.
    fold : whether the BatchNorms that follow a convolution become part of it.
    preprocessing : that of the checkpoint.
    pixels : whether the model itself subtracts the mean and divides by the standard deviation, so that `data` is RGB
        from 0 to 255.
    opset : the version of ONNX's operators, one of `common.conversion.onnx_build.OPSETS`; the file's own version goes
        with it.

    Raises InputError, with the node's name and operator, for anything that cannot be converted or does
    not fit.
    """
    *_, channels, height, width = data_shape
    params = {name: _float32(name, params) for name in parameter_names(graph)}
    if fold:
        graph, params = fold_batch_norm(graph, params)
    build = Build(graph, params, (BATCH, channels, height, width), opset)
    data = build.normalized(preprocessing) if pixels else INPUT
    tensors = []  # of each node of the graph
    for node in graph["nodes"]:
        if node["op"] == "null":
            tensors.append(data if node["name"] == INPUT else node["name"])
            continue
        attrs = Attributes(node)
        if node["op"] not in CONVERTERS or not node["inputs"]:
            raise attrs.error("this operator cannot be converted to ONNX")
        attrs.check()
        if any(output != 0 for _, output, *_ in node["inputs"]):
            raise attrs.error("takes another than the first output of a node")
        tensors.append(CONVERTERS[node["op"]](build, node, [tensors[i] for i, *_ in node["inputs"]], attrs))
    size = max(height, width)
    preprocessing = preprocessing._replace(resize=preprocessing.resize_for(size), crop=size)
    if pixels:
        preprocessing = preprocessing._replace(mean=(0, 0, 0), std=(1, 1, 1))
    return build.model(tensors[graph["heads"][0][0]], preprocessing)


def _float32(name, params):
    if name not in params:
        raise InputError(f"the parameters lack {name!r}, which the symbol needs")
    if params[name].dtype.kind != "f" and params[name].dtype.name != "bfloat16":
        raise InputError(f"parameter {name!r} is {params[name].dtype}; only floating-point numbers can be converted")
    with np.errstate(over="ignore"):
        return params[name].astype(np.float32)


def _convolution(build, node, inputs, attrs):
    _, channels, *_ = build.shape(attrs, inputs[0], rank=4)
    filters, groups, kernel = attrs["num_filter"], attrs["num_group"], attrs["kernel"]
    _only(attrs, "layout", "None", "NCHW")
    if channels % groups or filters % groups:
        raise attrs.error(f"{channels} channels in and {filters} out cannot be split into {groups} groups")
    build.check_parameters(attrs, inputs, (filters, channels // groups, *kernel), (filters,))
    return build.add("Conv", node["name"], inputs, attrs, kernel_shape=kernel, strides=attrs["stride"],
                     pads=attrs["pad"] * 2, dilations=attrs["dilate"], group=groups)


def _batch_norm(build, node, inputs, attrs):
    channels = build.shape(attrs, inputs[0])[1]
    _only(attrs, "axis", 1)
    build.check_parameters(attrs, inputs, *[(channels,)] * 4)
    if attrs["fix_gamma"]:
        inputs = [inputs[0], build.constant(f"{node['name']}_fixed_gamma", np.ones(channels)), *inputs[2:]]
    return build.add("BatchNormalization", node["name"], inputs, attrs, epsilon=attrs["eps"])


def _clip(build, node, inputs, attrs):
    limits = [build.constant(f"{node['name']}_{end}", attrs[f"a_{end}"]) for end in ("min", "max")]
    return build.add("Clip", node["name"], inputs + limits, attrs)


def _activation(build, node, inputs, attrs):
    onnx_op = UNARY.get(node["op"]) or ACTIVATIONS[_only(attrs, "act_type", *ACTIVATIONS)]
    return build.add(onnx_op, node["name"], inputs, attrs)


def _leaky_relu(build, node, inputs, attrs):
    kind = _only(attrs, "act_type", "leaky", "elu", "prelu")
    if kind == "prelu":
        build.check_parameters(attrs, inputs, (build.shape(attrs, inputs[0], rank=4)[1],))
        slope = build.constant(f"{node['name']}_slope", build.params[inputs[1]].reshape(-1, 1, 1))
        return build.add("PRelu", node["name"], [inputs[0], slope], attrs)
    return build.add("LeakyRelu" if kind == "leaky" else "Elu", node["name"], inputs, attrs, alpha=attrs["slope"])


def _same_shapes(build, node, inputs, attrs):
    shapes = [build.shape(attrs, tensor) for tensor in inputs]
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise attrs.error(f"only two inputs of equal shapes can be converted, not {shapes}")
    return build.add(SAME_SHAPES[node["op"]], node["name"], inputs, attrs)


def _scalar(build, node, inputs, attrs):
    onnx_op, first = SCALARS[node["op"]]
    operands = [*inputs, build.constant(f"{node['name']}_scalar", attrs["scalar"])]
    return build.add(onnx_op, node["name"], operands[::-1] if first else operands, attrs)


def _pooling(build, node, inputs, attrs):
    build.shape(attrs, inputs[0], rank=4)
    onnx_op = POOLS[_only(attrs, "pool_type", *POOLS)]
    _only(attrs, "layout", "None", "NCHW")
    if attrs["global_pool"]:
        return build.add(f"Global{onnx_op}", node["name"], inputs, attrs)
    full = _only(attrs, "pooling_convention", "valid", "full") == "full"
    kernel, stride, pad = attrs["kernel"], attrs["stride"], attrs["pad"]
    if any(p >= k or full and p + s > k for k, s, p in zip(kernel, stride, pad)):
        raise attrs.error("has windows that may lie outside the image, on which runtimes differ")
    options = {}
    if onnx_op == "AveragePool":
        options["count_include_pad"] = attrs["count_include_pad"] and any(pad)
        if full and options["count_include_pad"]:
            raise attrs.error("averages over padding in incomplete windows, on which runtimes differ")
    return build.add(onnx_op, node["name"], inputs, attrs, kernel_shape=kernel, strides=stride, pads=pad * 2,
                     ceil_mode=full, **options)


def _flatten(build, node, inputs, attrs):
    return build.add("Flatten", node["name"], inputs, attrs, axis=1)


def _reshape(build, node, inputs, attrs):
    shape = build.shape(attrs, inputs[0])
    _only(attrs, "reverse", False)
    # what is the same for two numbers of images, neither of them a factor of the sizes, is so for any
    (batch, *sizes), (other, *same) = (_reshaped((n, *shape[1:]), attrs["shape"]) or [0] for n in MANY)
    if (batch, other, *same) != (*MANY, *sizes):
        raise attrs.error(f"shape is {attrs['shape']} for an input of shape {shape}; only what keeps each image by "
                          "itself can be converted")
    if len(sizes) == 1:
        return _flatten(build, node, inputs, attrs)
    sizes = build.constant(f"{node['name']}_shape", [0, *sizes], np.int64)
    return build.add("Reshape", node["name"], [*inputs, sizes], attrs)


def _reshaped(sizes, codes):
    """The sizes that MXNet's Reshape makes (InferReshapeShape of its src/operator/tensor/matrix_op-inl.h); None where
    it makes none."""
    left, codes, made, inferred = list(sizes), list(codes), [], None
    try:
        while codes:
            code = codes.pop(0)
            if code == -2:
                made, left = made + left, []
            elif code == -3:
                made.append(left.pop(0) * left.pop(0))
            elif code == -4:
                size, first, second = left.pop(0), codes.pop(0), codes.pop(0)
                made += [size // second if first == -1 else first, size // first if second == -1 else second]
            else:
                if code == -1:
                    if inferred is not None:
                        return None
                    inferred = len(made)
                made.append(left[0] if code == 0 else abs(code))
                left = left[1:]
        if inferred is not None:
            made[inferred] = math.prod(sizes) // math.prod(made)
    except (IndexError, ZeroDivisionError):
        return None
    return made if math.prod(made) == math.prod(sizes) else None


def _fully_connected(build, node, inputs, attrs):
    shape, hidden = build.shape(attrs, inputs[0]), attrs["num_hidden"]
    if len(shape) > 2 and not attrs["flatten"]:
        raise attrs.error(f"flatten is False for an input of shape {shape}, which cannot be converted")
    build.check_parameters(attrs, inputs, (hidden, math.prod(shape[1:])), (hidden,))
    if len(shape) > 2:
        inputs = [build.add("Flatten", f"{node['name']}_flatten", inputs[:1], attrs, axis=1), *inputs[1:]]
    return build.add("Gemm", node["name"], inputs, attrs, transB=1)


def _softmax(build, node, inputs, attrs):
    shape, axis = build.shape(attrs, inputs[0]), -1
    if node["op"] == "softmax":
        axis = _only(attrs, "axis", *range(-len(shape), len(shape)))
        _only(attrs, "use_length", False)
        _only(attrs, "temperature", "None", "1", "1.0")
    elif len(shape) != 2:
        raise attrs.error(f"its input has shape {shape}, not (N, classes)")
    return build.add("Softmax", node["name"], inputs[:1], attrs, axis=axis)  # the second may be the label


def _pad(build, node, inputs, attrs):
    _only(attrs, "mode", "constant")
    build.shape(attrs, inputs[0], rank=4)
    widths = attrs["pad_width"]
    if any(widths[:4]):
        raise attrs.error("pads images or channels; only height and width can be converted")
    pads = build.constant(f"{node['name']}_pads", widths[::2] + widths[1::2], np.int64)
    value = build.constant(f"{node['name']}_value", attrs["constant_value"])
    return build.add("Pad", node["name"], [*inputs, pads, value], attrs, mode="constant")


def _identity(build, node, inputs, attrs):
    if node["op"] in ("Cast", "amp_cast"):
        _only(attrs, "dtype", "float16", "bfloat16", "float32", "float64")
    if node["op"] == "Dropout":
        _only(attrs, "mode", "training")
    return inputs[0]


def _only(attrs, key, *values):
    """The attribute, which has to be one of `values`; no other can be converted."""
    if attrs[key] not in values:
        raise attrs.error(f"{key} is {attrs[key]!r}; only {', '.join(map(str, values))} can be converted")
    return attrs[key]


CONVERTERS = {
    "Convolution": _convolution, "BatchNorm": _batch_norm, "clip": _clip, "Activation": _activation,
    "LeakyReLU": _leaky_relu, "Pooling": _pooling, "Flatten": _flatten, "Reshape": _reshape,
    "FullyConnected": _fully_connected, "SoftmaxOutput": _softmax, "softmax": _softmax, "SoftmaxActivation": _softmax,
    "Pad": _pad, **dict.fromkeys(("Cast", "amp_cast", "Dropout", "_copy", "BlockGrad"), _identity),
    **dict.fromkeys(UNARY, _activation), **dict.fromkeys(SAME_SHAPES, _same_shapes), **dict.fromkeys(SCALARS, _scalar),
}

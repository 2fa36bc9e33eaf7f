"""What each operator of ONNX is in MobileNetV2: a step, or a part of the one before (FOLLOWED lists them)."""
from collections.abc import Callable

import numpy as np

from common.base.errors import InputError
from common.conversion.onnx_graph import ARITHMETIC, FLOATS, Node, axes_of, quantisation
from common.conversion.onnx_walk import UNLIMITED, Value, Walk
from common.conversion.structure import NO_PADDING, BatchNorm, Step
from symbols.architecture import TOTAL_STRIDE

HUGE = 1e30  # a limit beyond it, such as the largest float32, is none
EVALUATION = "export the network after model.eval(), not with training=TrainingMode.TRAINING"


def _same(walk: Walk, node: Node, value: Value) -> Value:
    if node.op == "Cast" and node.attribute("to") not in FLOATS:
        raise InputError(f"{node.name} makes whole numbers, where MobileNetV2 has {walk.expected()}")
    if node.op == "Dropout" and np.any(walk.graph.constant(node, 2)):
        raise InputError(f"{node.name} is of training: {EVALUATION}")
    return value


def _convolution(walk: Walk, node: Node, value: Value) -> Value:
    pooled = any(step.letter == "P" for step in walk.steps)
    walk.last(node, value)
    weight, bias = _weight(walk, node, 1, 4), _optional(walk, node, 2)
    group, strides, dilations = node.attribute("group", 1), node.attribute("strides", [1, 1]), \
        node.attribute("dilations", [1, 1])
    if value.axes != ("NC11" if pooled else "NCHW"):
        raise InputError(f"{node.name}: its input's dimensions are {value.axes}, not (N, channels, height, width)")
    if strides[0] != strides[-1] or set(dilations) != {1} or group not in (1, len(weight)):
        raise InputError(f"{node.name} has strides {strides}, dilations {dilations} and {group} groups; no convolution "
                         "of MobileNetV2 has")
    pads = _pads(walk, node, value)
    if pooled:
        if weight.shape[2:] != (1, 1) or pads != NO_PADDING or group != 1:
            raise InputError(f"{node.name}, a convolution after the pooling, is no classifier")
        return walk.append(Step("F", node.name, weight=weight[:, :, 0, 0], bias=bias), value.axes)
    return walk.append(Step("C" if group == 1 else "D", node.name, weight=weight, bias=bias, stride=strides[0],
                            pads=pads), value.axes)


def _pads(walk, node, value):
    """Those of a convolution, and of the Pad before it; None for SAME."""
    kind = node.attribute("auto_pad", "NOTSET")
    if kind == "SAME_UPPER" and value.pads == NO_PADDING:
        walk.laid_out = True
        return None
    if kind not in ("NOTSET", "VALID"):
        raise InputError(f"{node.name} has auto_pad {kind}; no convolution of MobileNetV2 has")
    top, left, bottom, right = node.attribute("pads", [0] * 4) if kind == "NOTSET" else [0] * 4
    (above, below), (before, after) = value.pads
    return (top + above, bottom + below), (left + before, right + after)


def _pad(walk: Walk, node: Node, value: Value) -> Value:
    pads, number = node.attribute("pads"), node.attribute("value", 0)
    if node.opset >= 11:
        pads, number = walk.graph.constant(node, 1), walk.graph.constant(node, 2)
    axes = walk.graph.constant(node, 3)
    letters = value.axes if axes is None else [value.axes[int(axis)] for axis in axes]
    if pads is None:
        raise InputError(f"{node.name}: its padding is computed from the image; export the network for images of one "
                         "size")
    widths = dict(zip(letters, zip(map(int, pads), map(int, pads[len(letters):]))))
    if node.attribute("mode", "constant") != "constant" or np.any(number) or len(pads) != 2 * len(letters) \
            or any(any(pair) for letter, pair in widths.items() if letter not in "HW"):
        raise InputError(f"{node.name} is a padding that MobileNetV2 does not have")
    walk.last(node, value)
    walk.laid_out = True
    return value._replace(pads=(widths.get("H", (0, 0)), widths.get("W", (0, 0))))


def _batch_norm(walk: Walk, node: Node, value: Value) -> Value:
    walk.last(node, value)
    if node.attribute("training_mode", 0):
        raise InputError(f"{node.name} is of training: {EVALUATION}")
    if not walk.steps or walk.steps[-1].letter not in "CD" or walk.steps[-1].batchnorm or not walk.is_linear() \
            or value.axes != "NCHW":
        raise InputError(f"{node.name} where MobileNetV2 has {walk.expected()}")
    gamma, beta, mean, var = (_weight(walk, node, number, 1) for number in range(1, 5))
    eps = float(str(np.float32(node.attribute("epsilon", 1e-5))))  # 1e-5, not the float32 that is next to it
    walk.change(batchnorm=BatchNorm(gamma, beta, mean, var, eps))
    return walk.changed(value.axes)


def _limited(walk: Walk, node: Node, value: Value) -> Value:
    """Clip, Relu, Min or Max: one of the nodes of an activation."""
    low, high = UNLIMITED
    if node.op == "Relu":
        low = 0
    elif node.op == "Clip" and node.opset < 11:
        low, high = node.attribute("min", low), node.attribute("max", high)
    else:
        names = {"Clip": ("low", "high"), "Min": ("high",), "Max": ("low",)}[node.op]
        given = {name: _number(walk, node, number) for number, name in enumerate(names, 1)
                 if walk.graph.is_given(node, number)}
        low, high = given.get("low", low), given.get("high", high)
    low, high = (np.copysign(np.inf, limit) if abs(limit) >= HUGE else limit for limit in (low, high))
    walk.last(node, value)
    if not walk.steps or walk.steps[-1].letter not in "CD":
        raise InputError(f"{node.name} where MobileNetV2 has {walk.expected()}")
    walk.limits = max(walk.limits[0], low), min(walk.limits[1], high)
    return walk.changed(value.axes)


def _arithmetic(walk: Walk, node: Node, value: Value | None) -> Value:
    """Of two values a shortcut; of one and constants, for each channel, a part of the step before or of what is done to
    images."""
    other = walk.values.get(node.inputs[1])
    if value is not None and other is not None:
        return _shortcut(walk, node, value, other)
    if value is None and (other is None or node.op not in ("Add", "Mul")):
        raise InputError(f"{node.name} where MobileNetV2 has {walk.expected()}")
    number = 0 if value is None else 1
    value = value or other
    constant = _channels(walk, node, number, walk.last(node, value).axes)
    scale = {"Mul": constant, "Div": 1 / constant}.get(node.op, np.ones(1))
    shift = {"Add": constant, "Sub": -constant}.get(node.op, np.zeros(1))
    if not walk.steps:
        walk.scale, walk.shift = walk.scale * scale, walk.shift * scale + shift
        return walk.changed(value.axes)
    step = walk.steps[-1]
    if step.letter not in "CDF" or step.batchnorm or not walk.is_linear():
        raise InputError(f"{node.name} where MobileNetV2 has {walk.expected()}")
    channels = len(step.weight)
    scale, shift = (np.broadcast_to(numbers, channels) for numbers in (scale, shift))
    bias = np.zeros(channels) if step.bias is None else step.bias
    walk.change(weight=(step.weight * scale.reshape(-1, *(1,) * (step.weight.ndim - 1))).astype(np.float32),
                bias=(bias * scale + shift).astype(np.float32))
    return walk.changed(value.axes)


def _shortcut(walk, node, value, other):
    if node.op != "Add" or value.axes != other.axes or other.pads != NO_PADDING:
        raise InputError(f"{node.name} where MobileNetV2 has {walk.expected()}")
    first, second = sorted((value, other), key=lambda value: value.token == walk.results[-1])
    walk.last(node, second)
    if first.token not in walk.results:
        raise InputError(f"{node.name} adds what no step of MobileNetV2 results in")
    return walk.append(Step("A", node.name, other=walk.results.index(first.token)), value.axes)


def _pool(walk: Walk, node: Node, value: Value) -> Value:
    """An average over the map, or over one side of it."""
    axes = walk.last(node, value).axes
    if node.op == "ReduceMean":
        over = {axes[axis] for axis in axes_of(walk.graph, node) or range(len(axes))}
        one = "1" if node.attribute("keepdims", 1) else ""
        made = "".join(one if letter in over else letter for letter in axes)
    else:
        over, made = {"H", "W"}, axes.replace("H", "1").replace("W", "1")
    if not over or not over <= {"H", "W"} or node.op != "ReduceMean" and axes != "NCHW":
        raise InputError(f"{node.name} is no average over a map, where MobileNetV2 has {walk.expected()}")
    if node.op == "AveragePool":
        _check_over_map(walk, node)
    if {"H", "W"} & set(made):
        return value._replace(axes=made)
    return walk.append(Step("P", node.name), made)


def _check_over_map(walk, node):
    kernel = node.attribute("kernel_shape", [])
    if walk.image_shape is None:  # of an input whose size is not known
        walk.image_shape = (3, *(TOTAL_STRIDE * size for size in kernel))
    if kernel != [-(-size // TOTAL_STRIDE) for size in walk.image_shape[1:]] or any(node.attribute("pads", [])):
        raise InputError(f"{node.name} averages over {kernel}; the last map of MobileNetV2, for images of "
                         "{1}x{2}, is of another size".format(*walk.image_shape))


def _reshaped(walk: Walk, node: Node, value: Value) -> Value:
    """Flatten, Reshape, Squeeze or Unsqueeze of a map that is one pixel, such that (N, channels) stay."""
    made, axes = "", value.axes
    if not {"H", "W"} & set(axes):
        if node.op == "Flatten":
            made = "NC" if node.attribute("axis", 1) % len(axes) == 1 else ""
        elif node.op == "Reshape":
            made = _target(walk, node, axes)
        else:
            numbers = axes_of(walk.graph, node)
            if node.op == "Unsqueeze":
                letters, rank = iter(axes), len(axes) + len(numbers)
                made = "".join("1" if i in {n % rank for n in numbers} else next(letters) for i in range(rank))
            else:
                gone = {i for i, letter in enumerate(axes) if letter == "1"} if numbers is None else {
                    n % len(axes) for n in numbers}
                made = "".join("" if i in gone else letter for i, letter in enumerate(axes))
    if made.replace("1", "") != "NC":
        raise InputError(f"{node.name} changes the dimensions of a map, where MobileNetV2 has "
                         f"{walk.expected()}")
    return value._replace(axes=made)


def _target(walk, node, axes):
    """The axes after a Reshape."""
    if node.inputs[1] in walk.shapes:  # computed from the number of images
        return "NC"
    shape = walk.graph.constant(node, 1)
    channels = len([step for step in walk.steps if step.weight is not None][-1].weight)
    kept = [axes[i] if n == 0 and i < len(axes) else "C" if n in (-1, channels) else str(n)
            for i, n in enumerate(map(int, shape))][1:]
    return "N" + "".join(kept)


def _transposed(walk: Walk, node: Node, value: Value) -> Value:
    order = node.attribute("perm", range(len(value.axes))[::-1])
    return value._replace(axes="".join(value.axes[i] for i in order))


def _classifier(walk: Walk, node: Node, value: Value) -> Value:
    """Gemm or MatMul."""
    walk.last(node, value)
    weight, bias = _weight(walk, node, 1, 2), None
    if not node.attribute("transB", 0):
        weight = weight.T
    if value.axes.replace("1", "") != "NC" or value.axes[-1] != "C" or node.attribute("transA", 0):
        raise InputError(f"{node.name} is no classifier of pooled channels, where MobileNetV2 has "
                         f"{walk.expected()}")
    weight = weight * np.float32(node.attribute("alpha", 1))
    if walk.graph.is_given(node, 2):
        constant = np.float32(node.attribute("beta", 1)) * np.float32(_channels(walk, node, 2, "NC"))
        bias = np.broadcast_to(constant, len(weight))
    return walk.append(Step("F", node.name, weight=weight, bias=bias), value.axes)


def _softmax(walk: Walk, node: Node, value: Value) -> Value:
    axis = node.attribute("axis", 1 if node.opset < 13 else -1)
    if value.axes[axis] != "C":
        raise InputError(f"{node.name} is not over the classes")
    walk.last(node, value)
    return walk.append(Step("S", node.name), value.axes)


def _quantised(walk: Walk, node: Node, value: Value) -> Value:
    """To 8 bits: the numbers stay, within the limits of these."""
    scale, zero, dtype = quantisation(walk.graph, node, len(value.axes))
    if dtype.kind in "iu" and scale.size == 1 and value.token == walk.results[-1]:
        limits = np.iinfo(dtype)
        low, high = (float(scale.ravel()[0] * (limit - zero.ravel()[0])) for limit in (limits.min, limits.max))
        walk.range = max(walk.range[0], low), min(walk.range[1], high)
    return value._replace(quantised=True)


def _dequantised(walk: Walk, node: Node, value: Value) -> Value:
    """Back; of an input of 8 bits, what is done to images."""
    if value.quantised:
        return value._replace(quantised=False)
    scale, zero, dtype = quantisation(walk.graph, node, len(value.axes))
    if walk.steps or dtype != np.uint8 or scale.size != 1:
        raise InputError(f"{node.name} where MobileNetV2 has {walk.expected()}")
    walk.scale, walk.shift = walk.scale * scale.ravel(), (walk.shift - zero.ravel()) * scale.ravel()
    return walk.changed(value.axes)


def _weight(walk, node, number, dimensions):
    array = walk.graph.constant(node, number)
    if array is None or array.ndim != dimensions or not array.size:
        raise InputError(f"{node.name}: its weights are not in the file, or not of {dimensions} dimensions")
    return array.astype(np.float32)


def _optional(walk, node, number):
    return _weight(walk, node, number, 1) if walk.graph.is_given(node, number) else None


def _number(walk, node, number):
    array = walk.graph.constant(node, number)
    if array is None or array.size != 1:
        raise InputError(f"{node.name} has limits that are not one constant number each")
    return float(array.ravel()[0])


def _channels(walk, node, number, axes):
    """float64 (channels,) or (1,) of a constant operand, which may differ between channels alone."""
    array = walk.graph.constant(node, number)
    if array is None or array.ndim > len(axes):
        raise InputError(f"{node.name}: an operand is no constant for each channel")
    shape = (1,) * (len(axes) - array.ndim) + array.shape
    if any(size != 1 for size, letter in zip(shape, axes) if letter != "C"):
        raise InputError(f"{node.name}: an operand of shape {array.shape} is no constant for each channel")
    return array.astype(np.float64).ravel()


FOLLOWED: dict[str, Callable[[Walk, Node, Value], Value]] = {
    **dict.fromkeys(("Identity", "Dropout", "Cast", "CastLike"), _same),
    "Conv": _convolution, "Pad": _pad, "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Clip", "Relu", "Min", "Max"), _limited), **dict.fromkeys(ARITHMETIC, _arithmetic),
    **dict.fromkeys(("GlobalAveragePool", "AveragePool", "ReduceMean"), _pool), "Transpose": _transposed,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshaped),
    "Gemm": _classifier, "MatMul": _classifier, "Softmax": _softmax,
    "QuantizeLinear": _quantised, "DequantizeLinear": _dequantised,
}

"""Read a MobileNetV2 classifier from a TensorFlow Lite file, without TensorFlow.

The operators are followed in the order in which they run, from the network's input to its output; names of tensors,
which are not reliable, are ignored. The result is the network in floating point: weights of 8 bits are dequantised as
the format defines it.
"""
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tflite
from tflite import ActivationFunctionType, BuiltinOperator, TensorType

from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, read_bytes
from common.conversion.assemble import IDENTITY
from common.conversion.readers import reading
from common.conversion.tflite_graph import OPTIONS, Graph
from symbols.architecture import PADDINGS, REPEATS, STRIDES, Architecture, Padding, Unit, architecture

PIXEL_OFFSET = {TensorType.UINT8: 0, TensorType.INT8: 128}  # an 8-bit input takes an image's 0..255 less this
HIGHEST = 6.03       # of 8 bits that are laid out for 0..6
NO_PADDING = ((0, 0), (0, 0))

# operators that leave the values as they are, the second two if a map is one pixel
NEUTRAL = (BuiltinOperator.QUANTIZE, BuiltinOperator.DEQUANTIZE)
FLATTENING = (BuiltinOperator.RESHAPE, BuiltinOperator.SQUEEZE)
# operators that compute no values: weights in another representation, the shape for a RESHAPE
ASIDE = (BuiltinOperator.DEQUANTIZE, BuiltinOperator.STRIDED_SLICE, BuiltinOperator.PACK)

# The network, a letter for each operator: C convolution, D depthwise, A add, P pooling over the map, F classifier,
# S softmax. The first block has no expansion.
BLOCK, NETWORK = re.compile("CDCA?"), re.compile("C(DCA?)((?:CDCA?)+)CPFS?")


class TFLite(NamedTuple):
    """`layers`: (weight, bias) of each convolution and of the classifier, in the network's order, float32, in MXNet's
    layouts: (out, in, kh, kw), depthwise (channels, 1, kh, kw), classifier (classes, features). `strides`: the name of
    the stages' in STRIDES. `padding`: "same" or "symmetric". `input_shape`: (1, height, width, 3). `mean`, `std`: three
    numbers each, as the quantisation of an 8-bit input says ((pixel - mean) / std), or None for other inputs."""
    layers: list[tuple[np.ndarray, np.ndarray]]
    strides: str
    padding: str
    input_shape: tuple[int, int, int, int]
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None


class _Step(NamedTuple):
    """An operator that computes: `value` is the number of its result, `other` that of an addition's other operand."""
    letter: str
    value: int = 0
    other: int = 0
    layer: tuple = ()
    stride: int = 1
    pads: Padding | None = NO_PADDING  # ((top, bottom), (left, right)); None: TensorFlow's SAME
    clipped: bool = False              # to 0..6
    linear: bool = False


def read_tflite(path: str | Path) -> TFLite:
    """The layers of a .tflite file: float32, float16, or 8-bit weights with activations of 8 bits or float32.

    Raises InputError for a file that is damaged, or whose graph is not that of MobileNetV2 with folded BatchNorms.
    """
    with reading(path, "a TensorFlow Lite file"):  # offsets out of it raise errors of many kinds
        content = read_bytes(path, MOST_WEIGHTS)
        if content[4:8] != b"TFL3":
            raise InputError(f"{path}: not a TensorFlow Lite file")
        try:
            graph = Graph(content)
            return _network(graph, _steps(graph))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _steps(graph: Graph) -> list[_Step]:
    """The steps of the operators, in order, each from the result of the one before."""
    steps, values, paddings = [], {graph.input: 0}, {}  # values: tensor -> number of the value that it holds
    for operator in graph.operators:
        code, tensors = graph.code(operator), [operator.Inputs(i) for i in range(operator.InputsLength())]
        name, made = tflite.opcode2name(code), operator.Outputs(0)
        sources = [values[tensor] for tensor in tensors if tensor in values]
        pooled = any(step.letter == "P" for step in steps)
        if (not sources and code in ASIDE) or (pooled and code == BuiltinOperator.SHAPE):
            continue
        if len(sources) != (2 if code == BuiltinOperator.ADD else 1) or tensors[0] not in values \
                or max(sources) != len(steps) or operator.OutputsLength() != 1 or made in values:
            raise InputError(f"operator {name} is not where MobileNetV2 has it")
        if any(tensor in paddings for tensor in tensors) and code not in (BuiltinOperator.CONV_2D,
                                                                          BuiltinOperator.DEPTHWISE_CONV_2D):
            raise InputError(f"a padding before {name}, where MobileNetV2 has none")
        if code == BuiltinOperator.PAD:
            paddings[made] = graph.constant(tensors[1])
        elif code in OPTIONS:
            step = _step(graph, code, operator, tensors, pooled)
            if tensors[0] in paddings:
                step = step._replace(pads=_explicit(paddings[tensors[0]], step.pads))
            steps.append(step._replace(value=len(steps) + 1, other=min(sources)))
        elif code not in NEUTRAL and not (pooled and code in FLATTENING):
            raise InputError(f"has an operator {name} where MobileNetV2 has none")
        values[made] = len(steps)
    if values.get(graph.output) != len(steps):
        raise InputError("its output is not the result of its last operator")
    return steps


def _step(graph: Graph, code: int, operator: tflite.Operator, tensors: list[int], pooled: bool) -> _Step:
    options = graph.options(operator)
    activation = ActivationFunctionType.NONE
    if hasattr(options, "FusedActivationFunction"):
        activation = options.FusedActivationFunction()
    linear = activation == ActivationFunctionType.NONE
    if code in (BuiltinOperator.CONV_2D, BuiltinOperator.DEPTHWISE_CONV_2D) and not pooled:
        return _convolution(graph, code, options, tensors)._replace(
            linear=linear, clipped=_is_clipped(activation, graph.range(operator.Outputs(0))))
    if not linear:
        raise InputError(f"{tflite.opcode2name(code)} has an activation, which MobileNetV2 does not have there")
    if code == BuiltinOperator.ADD:
        return _Step("A")
    if code == BuiltinOperator.CONV_2D:
        weight, bias = _convolution(graph, code, options, tensors).layer
        if weight.shape[2:] != (1, 1):
            raise InputError("the convolution after the pooling is no classifier")
        return _Step("F", layer=(weight[:, :, 0, 0], bias))
    if code == BuiltinOperator.FULLY_CONNECTED:
        if options.WeightsFormat() != 0:
            raise InputError("its classifier's weights are shuffled")
        return _Step("F", layer=_layer(graph, tensors, dimensions=2, axis=0))
    if code == BuiltinOperator.SOFTMAX:
        if options.Beta() != 1:
            raise InputError(f"its softmax has beta {options.Beta():g}; expected 1")
        return _Step("S")
    if code == BuiltinOperator.DEPTHWISE_CONV_2D or not _is_over_map(graph, code, options, tensors):
        raise InputError(f"operator {tflite.opcode2name(code)} is not one of MobileNetV2's, or not over an entire map")
    return _Step("P")


def _convolution(graph: Graph, code: int, options: tflite.Conv2DOptions | tflite.DepthwiseConv2DOptions,
                 tensors: list[int]) -> _Step:
    strides, dilations = (options.StrideH(), options.StrideW()), (options.DilationHFactor(), options.DilationWFactor())
    if strides[0] != strides[1] or dilations != (1, 1):
        raise InputError(f"has a convolution with strides {strides} and dilations {dilations}; MobileNetV2 has none")
    depthwise = code == BuiltinOperator.DEPTHWISE_CONV_2D
    weight, bias = _layer(graph, tensors, dimensions=4, axis=3 if depthwise else 0)
    return _Step("D" if depthwise else "C", stride=strides[0],
                 layer=(weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)), bias),
                 pads=None if options.Padding() == tflite.Padding.SAME else NO_PADDING)


def _is_over_map(graph, code, options, tensors):
    if code == BuiltinOperator.MEAN:
        return {int(axis) % 4 for axis in np.ravel(graph.constant(tensors[1]))} == {1, 2}
    _, height, width, _ = graph.shape(graph.input)
    return (options.FilterHeight(), options.FilterWidth()) == (-(-height // 32), -(-width // 32)) \
        and options.Padding() == tflite.Padding.VALID


def _layer(graph, tensors, dimensions, axis):
    """(weight, bias) in TensorFlow's layout; a missing bias is zeros. `axis`: that of the output channels."""
    weight, bias = graph.weights(tensors[1]), graph.weights(tensors[2]) if len(tensors) > 2 else None
    if weight is None or weight.ndim != dimensions:
        raise InputError("a layer's weights are not in the file, or of another shape than MobileNetV2's")
    if bias is None:
        bias = np.zeros(weight.shape[axis], np.float32)
    if bias.shape != (weight.shape[axis],):
        raise InputError(f"a layer has weights for {weight.shape[axis]} channels and a bias of shape {bias.shape}")
    return weight, bias


def _explicit(padding, pads):
    """((top, bottom), (left, right)) of a PAD before a convolution that itself pads by `pads`."""
    if padding is None or padding.shape != (4, 2) or pads is None or padding[[0, 3]].any():
        raise InputError("has a padding that MobileNetV2 does not have")
    return tuple(tuple(int(n) for n in padding[axis]) for axis in (1, 2))


def _is_clipped(activation, limits):
    """Whether a result lies in 0..6: by its activation, or because its 8 bits hold no other values."""
    if activation == ActivationFunctionType.RELU6:
        return True
    return limits is not None and limits[0] >= 0 and limits[1] <= HIGHEST and activation in (
        ActivationFunctionType.NONE, ActivationFunctionType.RELU)


def _network(graph: Graph, steps: list[_Step]) -> TFLite:
    """Checks everything that decides the result against the layers that MobileNetV2 has."""
    match = NETWORK.fullmatch("".join(step.letter for step in steps))
    if not match:
        raise InputError("its operators are not those of MobileNetV2")
    if match[1].endswith("A"):
        raise InputError("its first block has a shortcut, which the published network does not have")
    strides, channels = _stages(steps, [match[1], *BLOCK.findall(match[2])])
    input_shape = graph.shape(graph.input)
    if len(input_shape) != 4 or input_shape[3] != 3:
        raise InputError(f"its input has shape {input_shape}; expected (1, height, width, 3)")
    try:
        plans = {padding: _units(architecture(strides=strides, padding=padding, image_shape=(3, *input_shape[1:3]),
                                              channels=channels)) for padding in PADDINGS}
    except ValueError as error:
        raise InputError(str(error)) from None

    convolutions = [step for step in steps if step.letter in "CD"]
    classifier, = (step.layer for step in steps if step.letter == "F")
    for step, unit in zip(convolutions, plans["same"]):
        shape = (unit.channels, unit.in_channels // unit.groups, unit.kernel, unit.kernel)
        if step.layer[0].shape != shape or step.stride != unit.stride:
            raise InputError(f"its {unit.name} has weights of shape {step.layer[0].shape} and stride {step.stride}; "
                             f"MobileNetV2's has {shape} and {unit.stride}")
        if not (step.clipped if unit.relu6 else step.linear):
            raise InputError(f"its {unit.name} ends in another activation than MobileNetV2's")
    if classifier[0].shape[1] != channels[-1]:
        raise InputError(f"its classifier takes {classifier[0].shape[1]} features of {channels[-1]}")
    pads = [unit.padding if step.pads is None else step.pads for step, unit in zip(convolutions, plans["same"])]
    padding = next((name for name in ("same", "symmetric") if [unit.padding for unit in plans[name]] == pads), None)
    if padding is None:
        raise InputError("its convolutions are padded neither as TensorFlow's SAME nor by one pixel on every side")
    return TFLite([*(step.layer for step in convolutions), classifier], strides, padding, input_shape, *_pixels(graph))


def _stages(steps: list[_Step], blocks: list[str]) -> tuple[str, list[int]]:
    """(name of the stride table, nine widths) of the network whose `blocks` are DC, CDC or, with a shortcut, CDCA."""
    repeats, strides, channels, at = [], [], [len(steps[0].layer[1])], 1
    for block in blocks:
        depthwise, linear = (steps[at + block.index("D") + i] for i in (0, 1))
        if not block.endswith("A"):
            repeats.append(0)
            strides.append(depthwise.stride)
            channels.append(len(linear.layer[1]))
        elif steps[at + 3].other != steps[at - 1].value:
            raise InputError("a shortcut does not begin at its block's input")
        repeats[-1] += 1
        at += len(block)
    channels.append(len(steps[at].layer[1]))
    table = next((name for name, of_stages in STRIDES.items() if of_stages == tuple(strides)), None)
    if tuple(repeats) != REPEATS or table is None:
        raise InputError(f"its stages have {tuple(repeats)} blocks, by their shortcuts, and strides {tuple(strides)}; "
                         f"MobileNetV2's have {REPEATS} and {STRIDES['published']}")
    return table, channels


def _units(plan: Architecture) -> list[Unit]:
    """The network's convolutions without the first block's expansion, which TensorFlow's does not have."""
    return [unit for unit in plan.units if unit.name != IDENTITY]


def _pixels(graph: Graph) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    """(mean, std) as the quantisation of an 8-bit input says, else (None, None)."""
    offset, quantisation = PIXEL_OFFSET.get(graph.type(graph.input)), graph.quantisation(graph.input)
    if offset is None or quantisation is None:
        return None, None
    scales, zeros, _ = quantisation
    return (float(zeros[0] + offset),) * 3, (1 / float(scales[0]),) * 3

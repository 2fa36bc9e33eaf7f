"""Read a MobileNetV2 classifier from a TensorFlow Lite file, without TensorFlow.

The operators are followed in the order in which they run, from the network's input to its output; names of tensors,
which are not reliable, are ignored. The result is the network in floating point: weights of 8 bits are dequantised as
the format defines it.
"""
from pathlib import Path

import numpy as np
import tflite
from tflite import ActivationFunctionType, BuiltinOperator, TensorType

from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, read_bytes
from common.conversion.assemble import Params, pixels_of
from common.conversion.readers import ENTRY, parse_description, reading
from common.conversion.structure import NO_PADDING, Step, fitting, recognised
from common.conversion.tflite_graph import ARITHMETIC, OPTIONS, Graph
from symbols.architecture import PADDINGS

PIXEL_OFFSET = {TensorType.UINT8: 0, TensorType.INT8: 128}  # an 8-bit input takes an image's 0..255 less this
ACTIVATIONS = {ActivationFunctionType.NONE: None, ActivationFunctionType.RELU: "relu",
               ActivationFunctionType.RELU6: "relu6"}

# operators that leave the values as they are: anywhere, of the input, of a map that is one pixel
NEUTRAL = (BuiltinOperator.QUANTIZE, BuiltinOperator.DEQUANTIZE)
CASTING = (BuiltinOperator.CAST,)
FLATTENING = (BuiltinOperator.RESHAPE, BuiltinOperator.SQUEEZE)
SCALING = (*ARITHMETIC, BuiltinOperator.DEPTHWISE_CONV_2D)  # before the first convolution
# operators that compute no values: weights in another representation, the shape for a RESHAPE
ASIDE = (BuiltinOperator.DEQUANTIZE, BuiltinOperator.STRIDED_SLICE, BuiltinOperator.PACK)


def read_tflite(path: str | Path) -> tuple[Params, dict]:
    """As `common.conversion.structure.recognised` gives them, of a .tflite file: float32, float16, or 8-bit weights
    with activations of 8 bits or float32. The description has "preprocessing" if the metadata of our own export, the
    quantisation of an 8-bit input or arithmetic before the first convolution gives it; "background" is False of our
    own: none of its classes is that of TensorFlow.

    Raises InputError for a file that is damaged, or whose graph is not that of MobileNetV2.
    """
    with reading(path, "a TensorFlow Lite file"):  # offsets out of it raise errors of many kinds
        content = read_bytes(path, MOST_WEIGHTS)
        if content[4:8] != b"TFL3":
            raise InputError(f"{path}: not a TensorFlow Lite file")
        try:
            graph = Graph(content)
            (steps, scale, shift), input_shape = _steps(graph), graph.shape(graph.input)
            if len(input_shape) != 4 or input_shape[3] != 3:
                raise InputError(f"its input has shape {input_shape}; expected (1, height, width, 3)")
            said = parse_description(graph.metadata(ENTRY), path)  # of our own export
            layouts = PADDINGS if said.get("padding") == "symmetric" else PADDINGS[::-1]
            params, description = recognised(steps, (3, *input_shape[1:3]), layouts)
            return params, description | ({"preprocessing": said["preprocessing"], "background": False} if said else
                                          _pixels(graph, scale, shift))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _steps(graph: Graph) -> tuple[list[Step], np.ndarray, np.ndarray]:
    """(the steps of the operators, in order, each from the result of the one before; scale and shift): the first step
    is computed from scale x input + shift, of each colour."""
    steps, values, paddings = [], {graph.input: 0}, {}  # values: tensor -> number of the value that it holds
    scale, shift = np.ones(3), np.zeros(3)
    for operator in graph.operators:
        code, tensors = graph.code(operator), [operator.Inputs(i) for i in range(operator.InputsLength())]
        name, made = tflite.opcode2name(code), operator.Outputs(0)
        sources = [values[tensor] for tensor in tensors if tensor in values]
        pooled = any(step.letter == "P" for step in steps)
        if (not sources and code in ASIDE) or (pooled and code == BuiltinOperator.SHAPE):
            continue
        if not steps and not paddings and len(sources) == 1 and code in SCALING:
            scale, shift = _computed(graph, code, operator, [tensor in values for tensor in tensors], scale, shift)
            values = {made: 0}  # what is before it cannot be used again
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
            steps.append(step._replace(other=min(sources)))
        elif code not in (*NEUTRAL, *(FLATTENING if pooled else () if steps else CASTING)):
            raise InputError(f"has an operator {name} where MobileNetV2 has none")
        values[made] = len(steps)
    if values.get(graph.output) != len(steps):
        raise InputError("its output is not the result of its last operator")
    return steps, scale, shift


def _computed(graph: Graph, code: int, operator: tflite.Operator, variable: list[bool], scale: np.ndarray,
              shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) after arithmetic with a constant; `variable`: which operand is the one that they are of."""
    name, options = tflite.opcode2name(code), graph.options(operator)
    constant = graph.weights(operator.Inputs(variable.index(False)))
    if constant is None or constant.size not in (1, 3) or constant.size == 3 and constant.shape[-1] != 3 \
            or options.FusedActivationFunction() != ActivationFunctionType.NONE \
            or code in (BuiltinOperator.SUB, BuiltinOperator.DIV) and not variable[0] \
            or code == BuiltinOperator.DEPTHWISE_CONV_2D and (
                constant.shape != (1, 1, 1, 3) or (options.StrideH(), options.StrideW()) != (1, 1)):
        raise InputError(f"operator {name}, before the first convolution, is no scaling of colours by constants")
    number = constant.astype(np.float64).ravel()
    with np.errstate(all="ignore"):  # what is not finite is refused where it is used
        if code == BuiltinOperator.DEPTHWISE_CONV_2D:
            _, bias = _layer(graph, [operator.Inputs(i) for i in range(operator.InputsLength())], 4, 3)
            return scale * number, shift * number + bias
        if code in (BuiltinOperator.MUL, BuiltinOperator.DIV):
            factor = number if code == BuiltinOperator.MUL else 1 / number
            return scale * factor, shift * factor
        return scale, shift + (number if code == BuiltinOperator.ADD else -number)


def _step(graph: Graph, code: int, operator: tflite.Operator, tensors: list[int], pooled: bool) -> Step:
    options = graph.options(operator)
    name = f"operator {graph.operators.index(operator)} ({tflite.opcode2name(code)})"
    activation = ActivationFunctionType.NONE
    if hasattr(options, "FusedActivationFunction"):
        activation = options.FusedActivationFunction()
    if code in (BuiltinOperator.CONV_2D, BuiltinOperator.DEPTHWISE_CONV_2D) and not pooled:
        return _convolution(graph, code, options, tensors, name)._replace(
            activations=_activations(activation, graph.range(operator.Outputs(0))))
    if activation != ActivationFunctionType.NONE:
        raise InputError(f"{name} has an activation, which MobileNetV2 does not have there")
    if code == BuiltinOperator.ADD:
        return Step("A", name)
    if code == BuiltinOperator.CONV_2D:
        weight, bias = _layer(graph, tensors, dimensions=4, axis=0)
        if weight.shape[1:3] != (1, 1):
            raise InputError(f"{name}, the convolution after the pooling, is no classifier")
        return Step("F", name, weight=weight[:, 0, 0], bias=bias)
    if code == BuiltinOperator.FULLY_CONNECTED:
        if options.WeightsFormat() != 0:
            raise InputError("its classifier's weights are shuffled")
        weight, bias = _layer(graph, tensors, dimensions=2, axis=0)
        return Step("F", name, weight=weight, bias=bias)
    if code == BuiltinOperator.SOFTMAX:
        if options.Beta() != 1:
            raise InputError(f"its softmax has beta {options.Beta():g}; expected 1")
        return Step("S", name)
    if code == BuiltinOperator.DEPTHWISE_CONV_2D or not _is_over_map(graph, code, options, tensors):
        raise InputError(f"{name} is not one of MobileNetV2's, or not over an entire map")
    return Step("P", name)


def _convolution(graph: Graph, code: int, options: tflite.Conv2DOptions | tflite.DepthwiseConv2DOptions,
                 tensors: list[int], name: str) -> Step:
    strides, dilations = (options.StrideH(), options.StrideW()), (options.DilationHFactor(), options.DilationWFactor())
    if strides[0] != strides[1] or dilations != (1, 1):
        raise InputError(f"{name} has strides {strides} and dilations {dilations}; no convolution of MobileNetV2 has")
    depthwise = code == BuiltinOperator.DEPTHWISE_CONV_2D
    weight, bias = _layer(graph, tensors, dimensions=4, axis=3 if depthwise else 0)
    return Step("D" if depthwise else "C", name, stride=strides[0], bias=bias,
                weight=weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)),
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


def _activations(activation, limits):
    """What may follow a layer, whose result's 8 bits hold numbers from `limits[0]` to `limits[1]`; none of an
    activation that no MobileNetV2 has."""
    return fitting(ACTIVATIONS[activation], *limits or (-np.inf, np.inf)) if activation in ACTIVATIONS else ()


def _pixels(graph: Graph, scale: np.ndarray, shift: np.ndarray) -> dict:
    """{"preprocessing": ...} as the quantisation of an 8-bit input, and `scale` and `shift` of `_steps`, say; else
    {}."""
    offset, quantisation = PIXEL_OFFSET.get(graph.type(graph.input)), graph.quantisation(graph.input)
    if offset is None:
        return {} if (scale == 1).all() and not shift.any() else pixels_of(scale, shift)
    scales, zeros, _ = quantisation or ([1], [0], 0)
    return pixels_of(scale, shift, float(zeros[0] + offset), 1 / float(scales[0]))

"""A checkpoint as a TensorFlow Lite file, without TensorFlow: in float32, with float16 weights, or in 8-bit integers.

In 8 bits codes and scales are those of `common.checkpoint.int8`; TensorFlow Lite counts activations from -128, so their
zero is 128 less. The classifier is a convolution of the one pixel that pooling leaves: every version of TensorFlow Lite
takes a scale for each of its channels in 8 bits, of FULLY_CONNECTED only late ones.
"""
from collections.abc import Mapping, Sequence

import numpy as np
from tflite import ActivationFunctionType, BuiltinOperator, Padding

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint
from common.checkpoint.fold import fold_batch_norm
from common.checkpoint.int8 import Statistics, coding, quantized_layer
from common.checkpoint.preprocessing import Preprocessing
from common.checkpoint.symbol import INPUT
from common.conversion import tflite_metadata
from common.conversion.assemble import without_expansion
from common.conversion.readers import ENTRY, description_of
from common.conversion.tflite_build import Build
from symbols.architecture import architecture

CODE_OFFSET = 128  # of the codes of uint8 and those of int8
PIXELS = np.float32(1), 0  # scale and zero of an image's 0..255
PROBABILITIES = np.float32(1 / 256), 0  # as TensorFlow Lite's 8-bit softmax demands them
ACTIVATIONS = {None: ActivationFunctionType.NONE, "relu": ActivationFunctionType.RELU,
               "relu6": ActivationFunctionType.RELU6}

Coding = tuple[np.float32, int]  # scale, and zero of 0 to 255


def layers_of(checkpoint: Checkpoint) -> dict[str, int]:
    """{name of its weight: channels of its input} of each layer that `to_tflite` writes."""
    plan, layers = architecture(**checkpoint.network), _layers(checkpoint)
    return {_weight(unit.name): unit.in_channels for unit in plan.units if unit.name in layers} | {
        "fc_weight": plan.last.channels}


def to_tflite(checkpoint: Checkpoint, image_shape: tuple[int, int, int], precision: str = "float32",
              statistics: Mapping[str, Statistics] | None = None, input_type: str = "float32", pixels: bool = False,
              class_names: Sequence[str] | None = None) -> bytes:
    """A .tflite file. Equal arguments give equal bytes.

    Input `data` (1, H, W, 3), which an interpreter can resize to any number of images; output `softmax`, probabilities
    (1, classes).

    Parameters
    ----------
    image_shape : (3, H, W); for a network with SAME padding, one that `check_image_size` of common.checkpoint.arrays
        passes.
    precision : float32, float16 (of the weights) or int8.
    statistics : for int8, {name of a layer's weight: Statistics} of `layers_of`, with ranges of outputs.
    input_type : float32 or, for int8, one of: uint8, RGB from 0 to 255, for which the probabilities are float32; int8,
        that less 128, for which they are int8.
    pixels : whether float32 input is RGB from 0 to 255 too.
    class_names : become an associated file of the output, without WordNet's numbers.

    Raises InputError for parameters that make no finite weights.
    """
    return _Network(checkpoint, image_shape, precision, statistics or {}, input_type, pixels).file(class_names)


def _weight(name):
    return f"{name}-conv2d_weight" if name != "fc" else "fc_weight"


def _layers(checkpoint):
    """{name: (weight (O, I, h, w), bias (O,))} in the network's order, with BatchNorm in the convolutions, and without
    the first block's expansion if that does nothing."""
    params = checkpoint.arg_params | checkpoint.aux_params
    kept, folded = without_expansion(params), fold_batch_norm(checkpoint.graph(), params)[1]
    layers = {unit.name: (folded[_weight(unit.name)], folded[f"{unit.name}-conv2d_folded_bias"])
              for unit in architecture(**checkpoint.network).units if _weight(unit.name) in kept}
    layers["fc"] = params["fc_weight"][:, :, np.newaxis, np.newaxis], params["fc_bias"]
    for name, arrays in layers.items():
        if not all(np.isfinite(array).all() for array in arrays):
            raise InputError(f"{_weight(name)} is not finite when its BatchNorm is folded into it")
    return layers


class _Network:
    """One file, written layer by layer."""

    def __init__(self, checkpoint: Checkpoint, image_shape: tuple[int, int, int], precision: str,
                 statistics: Mapping[str, Statistics], input_type: str, pixels: bool) -> None:
        network = checkpoint.network | ({"image_shape": image_shape} if checkpoint.network["padding"] == "same" else {})
        self._size, size = image_shape[1:], max(image_shape[1:])
        self._checkpoint, self._layers = checkpoint._replace(network=network), _layers(checkpoint)
        self._preprocessing = checkpoint.preprocessing._replace(
            resize=checkpoint.preprocessing.resize_for(size), crop=size)
        self._precision, self._input_type, self._pixels = precision, input_type, pixels or input_type != "float32"
        self._plan, self._build, self._statistics = architecture(**network), Build(), statistics
        names = list(self._layers)
        self._next = dict(zip(names, names[1:]))
        # the codes of what a layer takes and of what it gives
        self._takes: dict[str, Coding | None] = dict.fromkeys(names)
        self._gives: dict[str, Coding | None] = dict.fromkeys(names)
        if precision == "int8":
            entries = {name: statistics[_weight(name)] for name in names}
            self._takes = {name: coding(entry.low, entry.high) for name, entry in entries.items()}
            # what is added or pooled next, or comes out
            apart = {block.units[-1].name for block in self._plan.blocks if block.shortcut} | {names[-2], names[-1]}
            self._gives = {name: coding(*entry.output) if name in apart else self._takes[self._next[name]]
                           for name, entry in entries.items()}

    def file(self, class_names):
        """Its content."""
        data = self._unit(self._image(), self._plan.first)
        for block in self._plan.blocks:
            entered = data
            for unit in block.units:
                data = self._unit(data, unit) if unit.name in self._layers else data
            if block.shortcut:
                data = self._add(BuiltinOperator.ADD, [entered, data], f"{block.name}-shortcut", data.shape,
                                 self._takes[self._next[unit.name]])
        output = self._probabilities(self._unit(data, self._plan.last))
        *_, mean, std = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)) if self._pixels else self._preprocessing
        normalization = (mean, std) if self._input_type == "float32" else None
        content = self._build.content(output, {
            tflite_metadata.ENTRY: tflite_metadata.described(normalization, bool(class_names)),
            ENTRY: description_of(self._checkpoint._replace(preprocessing=self._preprocessing)).encode()})
        return tflite_metadata.with_labels(content, class_names) if class_names else content

    def _tensor(self, name, shape, codes):
        if codes is None:
            return self._build.tensor(name, shape, np.float32)
        return self._build.tensor(name, shape, np.int8, codes[0], codes[1] - CODE_OFFSET)

    def _add(self, code, inputs, name, shape, codes, **options):
        return self._build.add(code, inputs, self._tensor(name, shape, codes), **options)

    def _image(self):
        """What the first layer takes, computed from the input. Pixels are normalised by a layer of their own unless one
        scale and zero can do it: the first convolution could take the means of three colours into its bias, but not at
        the borders, where it pads what is normalised."""
        shape, integers, first = (1, *self._size, 3), self._input_type != "float32", self._plan.first.name
        in_scale = _pixel_codes(self._preprocessing) if integers else None
        if in_scale:
            self._centre(first, in_scale[1])
            self._takes[first] = in_scale
        codes = PIXELS if self._takes[first] and self._pixels and not in_scale else self._takes[first]
        if integers:
            offset = CODE_OFFSET if self._input_type == "int8" else 0
            data = self._build.tensor(INPUT, shape, self._input_type, codes[0], codes[1] - offset)
        else:
            data = self._build.tensor(INPUT, shape, np.float32)
        if codes and self._input_type != "int8":
            data = self._add(BuiltinOperator.QUANTIZE, [data], f"{INPUT}_codes", shape, codes)
        if self._pixels and not in_scale:
            mean, std = np.array([self._preprocessing.mean, self._preprocessing.std])
            data = self._layer(data, f"{INPUT}_normalized", (1 / std).reshape(3, 1, 1, 1), -mean / std,
                               self._takes[first], np.zeros(3), depthwise=True)
        return data

    def _centre(self, first, zero):
        """Have the network take (pixel - zero) / std: what that lacks goes into the first layer's bias."""
        weight, bias = self._layers[first]
        mean, std = np.array([self._preprocessing.mean, self._preprocessing.std])
        self._layers[first] = weight, bias + weight.sum(axis=(2, 3), dtype=np.float64) @ ((zero - mean) / std)
        self._preprocessing = self._preprocessing._replace(mean=(float(zero),) * 3)

    def _unit(self, data, unit):
        padding = Padding.SAME
        if unit.stride > 1 and not unit.pad_layer:  # at stride 1 a pixel on every side is SAME
            widths = [(0, 0), *unit.padding, (0, 0)]
            padding, shape = Padding.VALID, [size + sum(width) for size, width in zip(data.shape, widths)]
            data = self._add(BuiltinOperator.PAD, [
                data, self._build.constant(f"{unit.name}-pads", widths, np.int32)], f"{unit.name}-pad", shape,
                self._takes[unit.name])
        entry = self._statistics.get(_weight(unit.name))
        return self._layer(data, unit.name, *self._layers[unit.name], self._gives[unit.name], entry and entry.mean,
                           unit.groups > 1, unit.stride, padding, unit.activation, self._precision == "float16")

    def _layer(self, data, name, weight, bias, codes, mean, depthwise=False, stride=1, padding=Padding.SAME,
               activation=None, half=False):
        """A convolution. `codes`, `mean`: in 8 bits, of its output and of its input's channels."""
        order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
        names = _weight(name), f"{name}_bias"
        if codes:
            integers, scales, biases = quantized_layer(weight, bias, data.scale, mean, depthwise)
            parameters = [self._build.constant(names[0], integers.transpose(order), np.int8, scales, axis),
                          self._build.constant(names[1], biases, np.int32, data.scale * scales)]
        else:
            parameters = [self._weights(names[0], weight.transpose(order), half),
                          self._build.constant(names[1], bias, np.float32)]
        if padding == Padding.SAME:
            height, width = (-(-size // stride) for size in data.shape[1:3])
        else:
            height, width = ((size - kernel) // stride + 1 for size, kernel in zip(data.shape[1:3], weight.shape[2:]))
        code = BuiltinOperator.DEPTHWISE_CONV_2D if depthwise else BuiltinOperator.CONV_2D
        options = {"DepthMultiplier": 1} if depthwise else {}
        return self._add(code, [data, *parameters], name, (1, height, width, len(weight)), codes, Padding=padding,
                         StrideW=stride, StrideH=stride, FusedActivationFunction=ACTIVATIONS[activation], **options)

    def _weights(self, name, weight, half):
        if not half:
            return self._build.constant(name, weight, np.float32)
        with np.errstate(over="ignore"):
            halves = weight.astype(np.float16)
        if not np.isfinite(halves).all():
            raise InputError(f"{name} has numbers beyond float16, up to {np.abs(weight).max():g}")
        return self._add(BuiltinOperator.DEQUANTIZE, [self._build.constant(f"{name}_float16", halves, np.float16)],
                         name, weight.shape, None)

    def _probabilities(self, data):
        channels, (weight, bias) = data.shape[3], self._layers["fc"]
        entry, codes = self._statistics.get("fc_weight"), self._gives["fc"]
        data = self._add(BuiltinOperator.MEAN, [data, self._build.constant("axes", [1, 2], np.int32)], "pool",
                         (1, 1, 1, channels), self._takes["fc"], KeepDims=True)
        data = self._layer(data, "fc", weight, bias, codes, entry and entry.mean, half=self._precision == "float16")
        shape = np.int32([-1, len(weight)])
        data = self._add(BuiltinOperator.RESHAPE, [data, self._build.constant("shape", shape, np.int32)], "logits",
                         (1, len(weight)), codes, NewShape=shape)
        if codes and self._input_type != "int8":
            data, codes = self._add(BuiltinOperator.DEQUANTIZE, [data], "logits_float32", data.shape, None), None
        return self._add(BuiltinOperator.SOFTMAX, [data], "softmax", data.shape, codes and PROBABILITIES, Beta=1.0)


def _pixel_codes(preprocessing):
    """The codes that 0 to 255 are of (pixel - mean) / std, to half a grey level; None if there are none."""
    zero, (std, *others) = int(np.clip(np.rint(preprocessing.mean[0]), 0, 255)), preprocessing.std
    if others != [std] * 2 or max(abs(mean - zero) for mean in preprocessing.mean) > 0.5:
        return None
    return np.float32(1 / std), zero

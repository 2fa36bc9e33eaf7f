"""A float32 ONNX model in 8-bit integers, by QuantizeLinear and DequantizeLinear around what is computed in them (QDQ).

Runtimes make one operator on integers of a DequantizeLinear of each input, an operator of INTEGER, and a QuantizeLinear
of its output. So these stand next to each other: a clip that the codes' range implies is left out, and padding becomes
the convolution's own. Codes and scales are those of `common.checkpoint.int8`, as in `common/compiler/quantize.py`. Two
roundings are added, since runtimes do not add or average what was not rounded: of outputs that are added to a shortcut,
and of what is averaged. The last layer's sums stay floats.
"""
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from common.checkpoint.int8 import TOP, Statistics, coding, quantized_layer

LAYERS = ("Conv", "Gemm")
INTEGER = (*LAYERS, "Add", "GlobalAveragePool")
CLIPS = ("Clip", "Relu")
MOVING = ("Flatten", "Reshape", "Pad")  # their output has the numbers of their input, and 0


def channels_of(model: onnx.ModelProto) -> dict[str, int]:
    """{name of its weight: channels of its input} of the layers that are computed in integers: the fully connected
    ones, and the convolutions that are not grouped, or depthwise."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    layers = [(node.input[1], _attribute(node, "group", 1)) for node in model.graph.node if node.op_type in LAYERS]
    return {name: shapes[name][1] * groups for name, groups in layers
            if groups == 1 or groups == shapes[name][0] and shapes[name][1] == 1}


def quantized(model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> onnx.ModelProto:
    """`model`, of `common.conversion.onnx_model.to_onnx` with `fold`, with those layers in integers whose weights are
    in `statistics`, which have ranges of outputs. Parameters keep their names; the tensors of a parameter, or of what a
    node gives, as integers and rounded are NAME_codes and NAME_rounded."""
    return _Quantizer(model, statistics).model()


class _Quantizer:
    """A model, written anew node by node."""

    def __init__(self, model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> None:
        self._model, self._statistics = model, statistics
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._makers, self._users = {node.output[0]: node for node in model.graph.node}, defaultdict(list)
        for node in model.graph.node:
            for tensor in set(node.input):
                self._users[tensor].append(node)
        self._codings = self._choose()
        self._nodes, self._initializers, self._rounded = [], {}, {}
        self._names = {*self._arrays, *self._makers, model.graph.input[0].name}

    def model(self) -> onnx.ModelProto:
        graph = self._model.graph
        if graph.input[0].name in self._codings:
            self._round(graph.input[0].name)
        for node in graph.node:
            self._write(node)
        used = {tensor for node in self._nodes for tensor in node.input}
        kept = {tensor.name: tensor for tensor in graph.initializer if tensor.name in used}
        made = helper.make_graph(self._nodes, graph.name, graph.input, graph.output,
                                 [*(kept | self._initializers).values()])
        model = helper.make_model(made, producer_name=self._model.producer_name, ir_version=self._model.ir_version,
                                  opset_imports=self._model.opset_import)
        model.metadata_props.extend(self._model.metadata_props)
        model.metadata_props.add(key="precision", value="int8")
        return model

    def _choose(self):
        """{tensor: (scale, zero)} of those that are rounded."""
        layers = [(node, self._statistics[node.input[1]]) for node in self._model.graph.node if self._is_layer(node)]
        codings = {node.input[0]: coding(entry.low, entry.high) for node, entry in layers}
        for tensor, codes in list(codings.items()):
            while tensor in self._makers and self._makers[tensor].op_type in MOVING:
                tensor = self._makers[tensor].input[0]
                codings.setdefault(tensor, codes)
        for node, entry in layers:
            tensor = node.output[0]
            while [user.op_type in CLIPS for user in self._users[tensor]] == [True]:
                tensor = self._users[tensor][0].output[0]
            if any(user.op_type in INTEGER for user in self._users[tensor]):
                codings.setdefault(tensor, coding(*entry.output))
        return codings

    def _is_layer(self, node):
        return node.op_type in LAYERS and node.input[1] in self._statistics

    def _write(self, node):
        name = node.output[0]
        if self._is_padding(node) or self._is_implied(node):
            self._rounded[name] = self._rounded.get(node.input[0], node.input[0])
        elif self._is_layer(node):
            self._layer(node)
        else:
            self._add(node.op_type, [self._rounded.get(tensor, tensor) for tensor in node.input], name, node.name,
                      *node.attribute)
        if name in self._codings and not self._is_padding(node):
            self._round(name)

    def _is_padding(self, node):
        """Whether it pads by 0 what a layer alone takes, which can do it."""
        return (node.op_type == "Pad" and self._arrays[node.input[2]] == 0
                and [self._is_layer(user) for user in self._users[node.output[0]]] == [True])

    def _is_implied(self, node):
        """Whether it clips to a range that codes have."""
        if node.op_type not in CLIPS or node.output[0] not in self._codings or len(self._users[node.input[0]]) > 1:
            return False
        low, high = (0, np.inf) if node.op_type == "Relu" else (self._arrays[name] for name in node.input[1:])
        scale, zero = self._codings[node.output[0]]
        nearly = scale / 1000
        return low <= -zero * scale + nearly and (TOP - zero) * scale - nearly <= high

    def _layer(self, node):
        data, weight_name, *bias_name = node.input
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if data in self._makers and self._is_padding(self._makers[data]):
            data, widths, _ = self._makers[data].input
            widths = self._arrays[widths].reshape(2, -1)[:, 2:].ravel()
            attributes["pads"] = helper.make_attribute("pads", widths + _attribute(node, "pads", [0] * len(widths)))
        scale, _ = self._codings[data]
        weight = self._arrays[weight_name]
        bias = self._arrays[bias_name[0]] if bias_name else np.zeros(len(weight))
        integers, scales, codes = quantized_layer(weight, bias, scale, self._statistics[weight_name].mean,
                                                  _attribute(node, "group", 1) > 1)
        self._add(node.op_type, [
            self._rounded[data], self._parameter(weight_name, integers.astype(np.int8), scales),
            self._parameter(bias_name[0] if bias_name else f"{node.name}_bias", codes, scale * scales),
        ], node.output[0], node.name, *attributes.values())

    def _parameter(self, name, codes, scales):
        zeros = np.zeros(len(codes), codes.dtype)
        return self._add("DequantizeLinear", [
            self._initializer(name, codes), self._initializer(f"{name}_scale", scales),
            *([self._initializer(f"{name}_zero", zeros)] if codes.dtype == np.int8 else [])],
            self._unused(f"{name}_rounded"), None, helper.make_attribute("axis", 0))

    def _round(self, name):
        """Codes of what is `name` up to here, and the numbers that they stand for."""
        scale, zero = self._codings[name]
        meaning = [self._initializer(f"{name}_{part}", value)
                   for part, value in (("scale", np.float32(scale)), ("zero", np.uint8(zero)))]
        codes = self._add("QuantizeLinear", [self._rounded.get(name, name), *meaning], self._unused(f"{name}_codes"))
        self._rounded[name] = self._add("DequantizeLinear", [codes, *meaning], self._unused(f"{name}_rounded"))

    def _add(self, op_type, inputs, output, name=None, *attributes):
        node = helper.make_node(op_type, inputs, [output], name or output)
        node.attribute.extend(attributes)
        self._nodes.append(node)
        return output

    def _initializer(self, name, array):
        """Its name: `name` if that is a parameter's own."""
        if name not in self._arrays or name in self._initializers:
            name = self._unused(name)
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def _unused(self, name):
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _attribute(node, name, default):
    return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)

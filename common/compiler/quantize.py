"""A network in 8-bit integers: convolutions and fully connected layers multiply integers and sum them in 32 bits.

Codes and scales are those of `common.checkpoint.int8`. What follows a layer (bias, residual, clip) is computed in
float32 from its sums, before they are rounded to codes again; pooling and softmax stay float32.
"""
from typing import Any, NamedTuple

import numpy as np
import tvm
from tvm import relay
from tvm.topi.nn.utils import get_pad_tuple
from tvm.topi.utils import get_const_tuple

from common.checkpoint.int8 import TOP, along, coding, quantized_weight, rounding_loss
from common.compiler.relay_network import Network

LAYERS = ("nn.conv2d", "nn.dense")


class Arithmetic(NamedTuple):
    """Types of codes and weights, and what the numbers of a layer's inputs and outputs should be multiples of."""
    codes: str = "int16"  # products need operands of this width; most processors cannot multiply bytes
    weights: str = "int16"
    inputs: int = 1
    outputs: int = 1


def layers_of(network: Network) -> dict:
    """{name of its weight: Relay call} of the layers that can be computed in integers, in order: those whose weight is
    a parameter, convolutions only if they are not grouped, or depthwise."""
    found = {}

    def visit(node):
        if op_name(node) not in LAYERS or getattr(node.args[1], "name_hint", None) not in network.params:
            return
        data, weight = (argument.checked_type.shape for argument in node.args)
        if op_name(node) == "nn.dense" or node.attrs.groups == 1 or node.attrs.groups == data[1] == weight[0]:
            found[node.args[1].name_hint] = node

    relay.analysis.post_order_visit(network.module["main"].body, visit)
    return found


def channels_of(network: Network) -> dict[str, int]:
    """{name of its weight: channels of its input} of those layers."""
    return {name: int(node.args[0].checked_type.shape[1]) for name, node in layers_of(network).items()}


def quantized(network: Network, statistics: dict, arithmetic: Arithmetic) -> Network:
    """`network` with those layers in integers whose weights are in `statistics` ({name: Statistics})."""
    quantizer = _Quantizer(network, statistics, arithmetic)
    output = quantizer.convert(network.module["main"].body)
    module = tvm.IRModule.from_expr(relay.Function(relay.analysis.free_vars(output), output))
    module = relay.transform.InferType()(module)
    names = {variable.name_hint for variable in module["main"].params}
    params = {name: array for name, array in quantizer.params.items() if name in names}
    return network._replace(module=module, params=params, folded=None)


def op_name(node: relay.Expr) -> str | None:
    """Of a call of an operator; None of anything else."""
    return node.op.name if isinstance(node, relay.Call) and isinstance(node.op, tvm.ir.Op) else None


def _constant(value):
    return relay.const(np.asarray(value, np.float32))


class _Value(NamedTuple):
    """clip(sum of expression x scale + shift, low, high): a float32 tensor that has not been computed yet.

    `terms`: (expression of integers or floats, scale); scales and shift are numbers, or arrays that broadcast.
    """
    terms: tuple
    shift: np.ndarray | np.float32 = np.float32(0)
    low: float = -np.inf
    high: float = np.inf

    @property
    def is_clipped(self) -> bool:
        return self.low > -np.inf or self.high < np.inf

    def scaled(self, factor: Any, offset: Any) -> "_Value":
        """The value x factor + offset, two numbers."""
        return _Value(tuple((e, scale * factor) for e, scale in self.terms), self.shift * factor + offset,
                      self.low * factor + offset, self.high * factor + offset)

    def clip(self, low: float, high: float) -> "_Value":
        return self._replace(low=float(np.clip(self.low, low, high)), high=float(np.clip(self.high, low, high)))

    def expression(self) -> relay.Expr:
        total = None
        for expression, scale in self.terms:
            term = relay.cast(expression, "float32")
            if np.any(np.asarray(scale) != 1):
                term = relay.multiply(term, _constant(scale))
            total = term if total is None else relay.add(total, term)
        if np.any(self.shift):
            total = relay.add(total, _constant(self.shift))
        return relay.clip(total, self.low, self.high) if self.is_clipped else total


class _Quantizer:
    """Goes through a network from its input on; `params` has the new network's parameters, and unused ones."""

    def __init__(self, network: Network, statistics: dict, arithmetic: Arithmetic) -> None:
        self.arithmetic, self.params = arithmetic, dict(network.params)
        layers = {name: node for name, node in layers_of(network).items() if name in statistics}
        self._names = {node: name for name, node in layers.items()}
        self._statistics = statistics
        self._codings = {node.args[0]: coding(statistics[name].low, statistics[name].high)
                         for name, node in layers.items()}
        self._values, self._codes = {}, {}

    def convert(self, output: relay.Expr) -> relay.Expr:
        relay.analysis.post_order_visit(output, self._visit)
        return self._plain(output)

    def _visit(self, node):
        if isinstance(node, tvm.ir.Op):
            return
        if node not in self._codings:
            self._values[node] = self._value(node)
            return
        scale, zero = self._codings[node]
        if op_name(node) == "nn.pad" and node.attrs.pad_mode == "constant" \
                and isinstance(node.args[1], relay.Constant) and node.args[1].data.numpy() == 0:
            self._codes[node] = relay.nn.pad(self._coded(self._values[node.args[0]], scale, zero),
                                             node.attrs.pad_width, pad_value=zero)
        else:
            self._codes[node] = self._coded(self._value(node), scale, zero)
        self._values[node] = _Value(((self._codes[node], scale),), np.float32(-zero * scale))

    def _coded(self, value, scale, zero):
        # a cast truncates: with a half added it rounds
        return relay.cast(value.scaled(1 / scale, zero + 0.5).clip(0, TOP).expression(), self.arithmetic.codes)

    def _value(self, node):
        op = op_name(node)
        if node in self._names:
            return self._layer(node)
        if op == "clip":
            return self._values[node.args[0]].clip(node.attrs.a_min, node.attrs.a_max)
        if op == "nn.relu":
            return self._values[node.args[0]].clip(0, np.inf)
        if op == "nn.bias_add" and not self._values[node.args[0]].is_clipped and self._is_parameter(node.args[1]):
            ndim = len(node.checked_type.shape)
            bias = along(self.params[node.args[1].name_hint], ndim, int(node.attrs.axis) % ndim)
            value = self._values[node.args[0]]
            return value._replace(shift=value.shift + bias)
        if op == "add" and not any(self._is_parameter(argument) for argument in node.args):
            first, second = (value if not value.is_clipped else _Value(((value.expression(), 1),))
                             for value in map(self._values.get, node.args))
            return _Value(first.terms + second.terms, first.shift + second.shift)
        if op:
            node = relay.Call(node.op, [self._plain(argument) for argument in node.args], node.attrs, node.type_args)
        return _Value(((node, 1),))

    def _is_parameter(self, node):
        return isinstance(node, relay.Var) and node.name_hint in self.params

    def _plain(self, node):
        return node if self._is_parameter(node) else self._values[node].expression()

    def _layer(self, node):
        name, dense = self._names[node], op_name(node) == "nn.dense"
        scale, zero = self._codings[node.args[0]]
        weight = self.params[name]
        integers, scales = quantized_weight(weight)
        sums = self._dense(node, integers, zero) if dense else self._convolution(node, integers, zero)
        depthwise = not dense and node.attrs.groups != 1
        shift = rounding_loss(weight, integers, scales, self._statistics[name].mean, depthwise)
        shift = shift - zero * scale * scales * integers.sum(axis=tuple(range(1, weight.ndim)))
        ndim = len(node.checked_type.shape)
        return _Value(((sums, along(scales * scale, ndim, axis=1)),), along(shift, ndim, axis=1).astype(np.float32))

    def _convolution(self, node, integers, zero):
        """Sums of codes x integers. The padding is codes that stand for 0."""
        attrs, data = node.attrs, self._codes[node.args[0]]
        top, left, bottom, right = padding = get_pad_tuple(get_const_tuple(attrs.padding),
                                                           get_const_tuple(attrs.kernel_size))
        missing = -integers.shape[1] % self.arithmetic.inputs if attrs.groups == 1 else 0
        if missing or zero and any(padding):
            data = relay.nn.pad(data, ((0, 0), (0, missing), (top, bottom), (left, right)), pad_value=zero)
            integers = np.pad(integers, ((0, 0), (0, missing), (0, 0), (0, 0)))
            padding = (0, 0, 0, 0)
        return relay.nn.conv2d(data, self._weight(node, integers), strides=attrs.strides, padding=padding,
                               dilation=attrs.dilation, groups=attrs.groups, channels=len(integers),
                               kernel_size=attrs.kernel_size, out_dtype="int32")

    def _dense(self, node, integers, zero):
        """As a 1x1 convolution over a row of pixels, which are the images of the batch: TVM has good code for that."""
        outputs, inputs = integers.shape
        added, missing = -outputs % self.arithmetic.outputs, -inputs % self.arithmetic.inputs
        integers = np.pad(integers, ((0, added), (0, missing)))[:, :, np.newaxis, np.newaxis]
        data = self._codes[node.args[0]]
        if missing:
            data = relay.nn.pad(data, ((0, 0), (0, missing)), pad_value=zero)
        data = relay.expand_dims(relay.expand_dims(relay.transpose(data), 0), 2)
        sums = relay.nn.conv2d(data, self._weight(node, integers), channels=len(integers), kernel_size=(1, 1),
                               out_dtype="int32")
        return relay.strided_slice(relay.transpose(relay.squeeze(sums, [0, 2])), [0], [outputs], [1], axes=[1])

    def _weight(self, node, integers):
        name = self._names[node]
        self.params[name] = integers.astype(self.arithmetic.weights)
        return relay.var(name, shape=integers.shape, dtype=self.arithmetic.weights)

"""A network in 8-bit integers: convolutions and fully connected layers multiply integers and sum them in 32 bits.

A layer's input is codes of 0 to 255 that stand for (code - zero) x scale, with one scale and zero for the tensor, from
the range that calibration saw; its weights are -127 to 127 times a scale for each output channel (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877; Krishnamoorthi, 2018, https://arxiv.org/abs/1806.08342). The bias takes back what the
rounding of the weights adds on average (Nagel et al., 2019, https://arxiv.org/abs/1906.04721, 4.2). What follows a
layer (bias, residual, clip) is computed in float32 from its sums, before they are rounded to codes again; pooling and
softmax stay float32.
"""
from typing import Any, NamedTuple

import numpy as np
import tvm
from tvm import relay
from tvm.topi.nn.utils import get_pad_tuple
from tvm.topi.utils import get_const_tuple

from common.compiler.relay_network import Network

TOP, WEIGHT_TOP = 255, 127
LAYERS = ("nn.conv2d", "nn.dense")


class Arithmetic(NamedTuple):
    """Types of codes and weights, and what the numbers of a layer's inputs and outputs should be multiples of."""
    codes: str = "int16"  # products need operands of this width; most processors cannot multiply bytes
    weights: str = "int16"
    inputs: int = 1
    outputs: int = 1


class Statistics(NamedTuple):
    """A layer's input over the images of the calibration: least and greatest value, and each channel's mean (C,)."""
    low: float
    high: float
    mean: np.ndarray


def layers_of(network: Network) -> dict:
    """{name of its weight: Relay call} of the layers that can be computed in integers, in order: those whose weight is
    a parameter, convolutions only if they are not grouped, or depthwise."""
    found = {}

    def visit(node):
        if _op(node) not in LAYERS or getattr(node.args[1], "name_hint", None) not in network.params:
            return
        data, weight = (argument.checked_type.shape for argument in node.args)
        if _op(node) == "nn.dense" or node.attrs.groups == 1 or node.attrs.groups == data[1] == weight[0]:
            found[node.args[1].name_hint] = node

    relay.analysis.post_order_visit(network.module["main"].body, visit)
    return found


def quantized(network: Network, statistics: dict, arithmetic: Arithmetic) -> Network:
    """`network` with those layers in integers whose weights are in `statistics` ({name: Statistics})."""
    quantizer = _Quantizer(network, statistics, arithmetic)
    output = quantizer.convert(network.module["main"].body)
    module = tvm.IRModule.from_expr(relay.Function(relay.analysis.free_vars(output), output))
    module = relay.transform.InferType()(module)
    names = {variable.name_hint for variable in module["main"].params}
    params = {name: array for name, array in quantizer.params.items() if name in names}
    return network._replace(module=module, params=params, folded=None)


def quantized_weight(weight: np.ndarray) -> tuple:
    """(integers of -127 to 127, of the shape of `weight` (O, ...); float32 scales (O,)) whose product is nearest."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = np.where(largest > 0, largest / WEIGHT_TOP, 1).astype(np.float32)
    return np.rint(weight / _along(scales, weight.ndim)).astype(np.int32), scales


def coding(low: float, high: float) -> tuple:
    """(float32 scale, zero) of codes for values from `low` to `high`; 0 has a code of its own, which is `zero`."""
    low, high = min(low, 0), max(high, 0)
    scale = np.float32((high - low) / TOP) or np.float32(1)
    return scale, int(np.clip(np.rint(-low / scale), 0, TOP))


def _op(node):
    return node.op.name if isinstance(node, relay.Call) and isinstance(node.op, tvm.ir.Op) else None


def _along(values, ndim, axis=0):
    """`values` in the shape that broadcasts them along an axis of a tensor with `ndim` dimensions."""
    return np.reshape(values, [-1 if i == axis else 1 for i in range(ndim)])


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
        if _op(node) == "nn.pad" and isinstance(node.args[1], relay.Constant) and node.attrs.pad_mode == "constant" \
                and node.args[1].data.numpy() == 0:
            self._codes[node] = relay.nn.pad(self._coded(self._values[node.args[0]], scale, zero),
                                             node.attrs.pad_width, pad_value=zero)
        else:
            self._codes[node] = self._coded(self._value(node), scale, zero)
        self._values[node] = _Value(((self._codes[node], scale),), np.float32(-zero * scale))

    def _coded(self, value, scale, zero):
        # a cast truncates: with a half added it rounds
        return relay.cast(value.scaled(1 / scale, zero + 0.5).clip(0, TOP).expression(), self.arithmetic.codes)

    def _value(self, node):
        op = _op(node)
        if node in self._names:
            return self._layer(node)
        if op == "clip":
            return self._values[node.args[0]].clip(node.attrs.a_min, node.attrs.a_max)
        if op == "nn.relu":
            return self._values[node.args[0]].clip(0, np.inf)
        if op == "nn.bias_add" and not self._values[node.args[0]].is_clipped and self._is_parameter(node.args[1]):
            ndim = len(node.checked_type.shape)
            bias = _along(self.params[node.args[1].name_hint], ndim, int(node.attrs.axis) % ndim)
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
        name, dense = self._names[node], _op(node) == "nn.dense"
        scale, zero = self._codings[node.args[0]]
        weight = self.params[name]
        integers, scales = quantized_weight(weight)
        sums = self._dense(node, integers, zero) if dense else self._convolution(node, integers, zero)
        error = weight - integers * _along(scales, weight.ndim)
        mean = self._statistics[name].mean
        if dense or node.attrs.groups == 1:
            mean = _along(np.pad(mean, (0, weight.shape[1] - len(mean))), weight.ndim, axis=1)
        else:
            mean = _along(np.pad(mean, (0, len(weight) - len(mean))), weight.ndim)
        axes = tuple(range(1, weight.ndim))
        shift = (error * mean).sum(axis=axes) - zero * scale * scales * integers.sum(axis=axes)
        ndim = len(node.checked_type.shape)
        return _Value(((sums, _along(scales * scale, ndim, axis=1)),), _along(shift, ndim, axis=1).astype(np.float32))

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

"""The graph of an ONNX model: its one input, the nodes that lead to its output, and the numbers of its constants.

What is computed from constants alone is computed here, so that a weight may be an initializer, a Constant node, or
dequantised, reshaped and cast from one. Names of operators and attributes are those of onnx.ai/onnx/operators.
"""
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, read_bytes

OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)
MAX_NODES = 5000  # MobileNetV2 has 100, 650 if nothing at all is simplified
MAX_RANK = 8
DOMAINS = ("", "ai.onnx", "com.microsoft")  # the last for QuantizeLinear and DequantizeLinear of 16 bits
ARITHMETIC: dict[str, Callable] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


class Node:
    """One node; `name` as a message has it, `inputs` without those left out at the end."""

    def __init__(self, proto: NodeProto, opset: int) -> None:
        self.op, self.opset = proto.op_type, opset
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        while self.inputs and not self.inputs[-1]:
            self.inputs.pop()
        label = (proto.name or "".join(self.outputs[:1]))[:100]
        self.name = f"node {label!r} ({repr(self.op)[1:-1][:40]})"
        self.known = proto.domain in DOMAINS
        self._attributes = {attribute.name: attribute for attribute in proto.attribute}

    def attribute(self, name: str, default: Any = None) -> Any:
        """A number, text, tensor or list; `default` if the node has none of that name."""
        if name not in self._attributes:
            return default
        value = helper.get_attribute_value(self._attributes[name])
        return value.decode(errors="replace") if isinstance(value, bytes) else value


class Graph:
    """A model without functions of its own, whose weights are in its file or in one beside it.

    `nodes`: those on which the output depends, in the order in which they run. `constants`: {tensor: array}, filled by
    `fold`. `input`, `output`: names of tensors.
    """

    def __init__(self, model: ModelProto, size: int, folder: Path) -> None:
        """`size`: bytes of its file, which holds as many numbers at the most; `folder`: where that is."""
        self._left = 4 * size  # numbers that the constants may have together
        self._folder, self._beside = folder, {}
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        if self.opset not in OPSETS:
            raise InputError(f"is of opset {self.opset}; those from {OPSETS[0]} to {OPSETS[-1]} can be read")
        graph = model.graph
        if model.functions or graph.sparse_initializer:
            raise InputError("has functions or sparse weights of its own; onnx.inliner.inline_local_functions, or "
                             "another export, makes ordinary nodes of them")
        if len(graph.node) > MAX_NODES:
            raise InputError(f"has {len(graph.node)} nodes; not MobileNetV2")
        self.constants = {tensor.name: self._array(tensor) for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.constants]  # before IR 4, all were there
        if len(inputs) != 1 or len(graph.output) != 1:
            raise InputError(f"has {len(inputs)} inputs and {len(graph.output)} outputs; expected 1 and 1")
        self.input, self.output = inputs[0].name, graph.output[0].name
        self.dims = tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim)  # 0: not known
        self.nodes = self._leading(graph.node)

    def _leading(self, protos: Sequence[NodeProto]) -> list[Node]:
        """The nodes that lead to the output."""
        needed, found = {self.output}, []
        for proto in reversed(protos):
            if any(tensor in needed for tensor in proto.output if tensor):
                found.append(Node(proto, self.opset))
                needed.update(filter(None, proto.input))
        return found[::-1]

    def fold(self, node: Node) -> bool:
        """Whether the node computes a constant, which is then among `constants`."""
        inputs = [self.constants.get(tensor) for tensor in node.inputs]
        if node.op == "CastLike" and inputs and inputs[0] is not None:
            inputs = inputs[:1]  # as what is of no matter: all is computed in float32
        if node.op not in FOLDED or not node.known or any(array is None for array, tensor in zip(inputs, node.inputs)
                                                          if tensor):
            return False
        with np.errstate(all="ignore"):
            self.constants[node.outputs[0]] = FOLDED[node.op](self, node, *inputs)
        return True

    def constant(self, node: Node, number: int) -> np.ndarray | None:
        """An input of a node if it is given and constant."""
        return self.constants.get(node.inputs[number]) if len(node.inputs) > number else None

    def is_given(self, node: Node, number: int) -> bool:
        return len(node.inputs) > number and bool(node.inputs[number])

    def spend(self, count: int) -> None:
        """A small file must not fill the memory."""
        self._left -= count
        if self._left < 0:
            raise InputError("its constants are more than its file can hold; not MobileNetV2, or a damaged file")

    def _array(self, tensor: TensorProto) -> np.ndarray:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            tensor = self._external(tensor)
        if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED) or len(tensor.dims) > MAX_RANK:
            raise InputError(f"its constant {tensor.name[:100]!r} is no array of numbers")
        self.spend(math.prod(tensor.dims))
        return numpy_helper.to_array(tensor)

    def _external(self, tensor: TensorProto) -> TensorProto:
        """The tensor with its numbers, which are in a file beside the model's, as PyTorch writes it."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name, offset = entries.get("location", ""), int(entries.get("offset", 0))
        if Path(name).name != name or offset < 0:
            raise InputError(f"keeps weights in {name[:100]!r}; only a file beside it is read: save it in one, by "
                             "onnx.save(onnx.load(FILE), OTHER)")
        if name not in self._beside:
            try:
                self._beside[name] = read_bytes(self._folder / name, MOST_WEIGHTS)
            except OSError as error:
                raise InputError(f"keeps weights in the file {name[:100]!r} beside it: {error.strerror}") from None
            self._left += 4 * len(self._beside[name])
        end = offset + int(entries["length"]) if "length" in entries else None
        return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims,
                           raw_data=self._beside[name][offset:end])


def _constant(graph, node):
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                        ("value_ints", np.int64)):
        if (value := node.attribute(name)) is not None:
            return np.array(value, dtype)
    value = node.attribute("value")
    if not isinstance(value, TensorProto):
        raise InputError(f"{node.name} is no array of numbers")
    return graph._array(value)


def _same(graph, node, array, *_):
    return array


def _cast(graph, node, array, *_):
    kind = node.attribute("to")
    if node.op == "CastLike" or (kind in FLOATS and array.dtype.kind == "f"):
        return array
    graph.spend(array.size)
    return array.astype(np.float32 if kind in FLOATS else helper.tensor_dtype_to_np_dtype(kind))


def _shape(graph, node, array):
    return np.array(array.shape[node.attribute("start", 0):node.attribute("end")], np.int64)


def _reshape(graph, node, array, shape):
    keep = not node.attribute("allowzero", 0)
    return array.reshape([array.shape[i] if n == 0 and keep else int(n) for i, n in enumerate(shape)])


def _transpose(graph, node, array):
    return array.transpose(node.attribute("perm"))


def axes_of(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """Those of a Squeeze, Unsqueeze or reduction: an attribute, in later opsets an input; None if not given."""
    axes = graph.constant(node, 1) if graph.is_given(node, 1) else node.attribute("axes")
    if axes is None and graph.is_given(node, 1):
        raise InputError(f"{node.name}: its axes are not constant")
    return None if axes is None else tuple(int(axis) for axis in np.ravel(axes))


def _squeeze(graph, node, array, *_):
    return np.squeeze(array, axes_of(graph, node))


def _unsqueeze(graph, node, array, *_):
    return np.expand_dims(array, axes_of(graph, node) or ())


def _expand(graph, node, array, shape):
    shape = np.broadcast_shapes(array.shape, tuple(int(n) for n in shape))
    graph.spend(math.prod(shape))
    return np.broadcast_to(array, shape)


def _concat(graph, node, *arrays):
    graph.spend(sum(array.size for array in arrays))
    return np.concatenate(arrays, node.attribute("axis"))


def _arithmetic(graph, node, first, second):
    graph.spend(math.prod(np.broadcast_shapes(first.shape, second.shape)))
    if first.dtype.kind == second.dtype.kind == "i" and node.op == "Div":
        return first // second
    return ARITHMETIC[node.op](first, second)


def quantisation(graph: Graph, node: Node, rank: int) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """(scale, zero point, type of the numbers) of a QuantizeLinear or DequantizeLinear, shaped for arrays of `rank`
    dimensions."""
    scale, zero = graph.constant(node, 1), graph.constant(node, 2)
    if scale is None or (zero is None and graph.is_given(node, 2)) or node.attribute("block_size", 0):
        raise InputError(f"{node.name}: its scale or zero point is not constant, or in blocks")
    zero = np.zeros((), np.uint8) if zero is None else zero
    shape = [1] * rank
    if scale.size > 1:
        shape[node.attribute("axis", 1)] = -1
    return scale.astype(np.float32).reshape(shape), zero.astype(np.float64).reshape(shape), zero.dtype


def _dequantize(graph, node, array, *_):
    graph.spend(array.size)
    scale, zero, _ = quantisation(graph, node, array.ndim)
    return (array.astype(np.float64) - zero).astype(np.float32) * scale


def _quantize(graph, node, array, *_):
    graph.spend(array.size)
    scale, zero, dtype = quantisation(graph, node, array.ndim)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(dtype)


FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
FOLDED: dict[str, Callable] = {
    "Constant": _constant, "Identity": _same, "Cast": _cast, "CastLike": _cast, "Shape": _shape, "Reshape": _reshape,
    "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Expand": _expand, "Concat": _concat,
    "DequantizeLinear": _dequantize, "QuantizeLinear": _quantize, **dict.fromkeys(ARITHMETIC, _arithmetic),
}

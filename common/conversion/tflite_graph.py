"""The tables of a TensorFlow Lite file, and the numbers of its tensors as they count in floating point.

The format is TensorFlow's tensorflow/compiler/mlir/lite/schema/schema.fbs; the `tflite` package reads its tables, and
raises errors of all kinds if an offset leads out of the file.
"""
from typing import Any

import numpy as np
import tflite
from tflite import BuiltinOperator, TensorType

from common.base.errors import InputError

MAX_OPERATORS = 2000  # MobileNetV2 has 66, and one more for each array in float16

DTYPES = {TensorType.FLOAT32: "<f4", TensorType.FLOAT16: "<f2", TensorType.INT8: "i1", TensorType.UINT8: "u1",
          TensorType.INT32: "<i4", TensorType.INT64: "<i8"}
BITS_8 = (TensorType.INT8, TensorType.UINT8)
OPTIONS = {
    BuiltinOperator.CONV_2D: tflite.Conv2DOptions,
    BuiltinOperator.DEPTHWISE_CONV_2D: tflite.DepthwiseConv2DOptions,
    BuiltinOperator.ADD: tflite.AddOptions,
    BuiltinOperator.AVERAGE_POOL_2D: tflite.Pool2DOptions,
    BuiltinOperator.MEAN: tflite.ReducerOptions,
    BuiltinOperator.FULLY_CONNECTED: tflite.FullyConnectedOptions,
    BuiltinOperator.SOFTMAX: tflite.SoftmaxOptions,
}
ARITHMETIC = {BuiltinOperator.ADD: tflite.AddOptions, BuiltinOperator.SUB: tflite.SubOptions,
              BuiltinOperator.MUL: tflite.MulOptions, BuiltinOperator.DIV: tflite.DivOptions}
EDGE_TPU = b"edgetpu-custom-op"  # all that edgetpu_compiler could compile, in one operator


class Graph:
    """One graph with one input and one output; tensors go by their numbers."""

    def __init__(self, content: bytes) -> None:
        self.model = tflite.Model.GetRootAs(content)
        self._left = 2 * len(content)
        if self.model.SubgraphsLength() != 1:
            raise InputError(f"holds {self.model.SubgraphsLength()} graphs; expected one")
        graph = self.graph = self.model.Subgraphs(0)
        if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
            raise InputError(f"has {graph.InputsLength()} inputs and {graph.OutputsLength()} outputs; expected 1 and 1")
        if graph.OperatorsLength() > MAX_OPERATORS:
            raise InputError(f"has {graph.OperatorsLength()} operators; not MobileNetV2")
        self.input, self.output = graph.Inputs(0), graph.Outputs(0)
        codes = [self.model.OperatorCodes(i) for i in range(self.model.OperatorCodesLength())]
        if EDGE_TPU in [code.CustomCode() for code in codes]:
            raise InputError("is compiled for the Edge TPU; give the file that edgetpu_compiler made it of")
        self.operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        self._dequantised = {op.Outputs(0): op.Inputs(0) for op in self.operators
                             if self.code(op) == BuiltinOperator.DEQUANTIZE}

    def code(self, operator: tflite.Operator) -> int:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        return max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the older field holds codes that fit a byte

    def options(self, operator: tflite.Operator) -> Any:
        options, table = (OPTIONS | ARITHMETIC)[self.code(operator)](), operator.BuiltinOptions()
        if table is None:
            raise InputError(f"{tflite.opcode2name(self.code(operator))} has no options")
        options.Init(table.Bytes, table.Pos)
        return options

    def metadata(self, name: str) -> str | None:
        """The entry of that name, which is text; None if there is none."""
        for entry in map(self.model.Metadata, range(self.model.MetadataLength())):
            if entry.Name() == name.encode():
                return self.model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode()
        return None

    def shape(self, index: int) -> tuple[int, ...]:
        tensor = self.graph.Tensors(index)
        return tuple(tensor.Shape(i) for i in range(tensor.ShapeLength()))

    def type(self, index: int) -> int:
        return self.graph.Tensors(index).Type()

    def quantisation(self, index: int) -> tuple[np.ndarray, np.ndarray, int] | None:
        """(scales, zero points, axis) as arrays of one length, or None."""
        quantisation = self.graph.Tensors(index).Quantization()
        if quantisation is None or not quantisation.ScaleLength():
            return None
        scales, zeros = quantisation.ScaleAsNumpy(), quantisation.ZeroPointAsNumpy()
        if not quantisation.ZeroPointLength():
            zeros = np.zeros(len(scales), np.int64)
        if len(scales) != len(zeros) or not np.isfinite(scales).all() or not (scales > 0).all():
            raise InputError("a tensor's quantisation is damaged")
        return scales, zeros, quantisation.QuantizedDimension()

    def constant(self, index: int) -> np.ndarray | None:
        """The numbers of a tensor that the file holds, as they are stored; None for any other."""
        tensor = self.graph.Tensors(self._dequantised.get(index, index))
        buffer = self.model.Buffers(tensor.Buffer())
        if not buffer.DataLength():
            return None
        if tensor.Type() not in DTYPES or tensor.Sparsity() is not None:
            raise InputError("has weights that are sparse or of a type other than float32, float16 and 8 bits")
        self._left -= buffer.DataLength()  # biases of zeros may share one, but a small file must not fill the memory
        if self._left < 0:
            raise InputError("many layers share their weights; not MobileNetV2, or a damaged file")
        values = buffer.DataAsNumpy().view(DTYPES[tensor.Type()])
        return values.reshape([tensor.Shape(i) for i in range(tensor.ShapeLength())])

    def weights(self, index: int) -> np.ndarray | None:
        """`constant` as float32, dequantised: scale x (number - zero point), for the tensor or each channel."""
        index = self._dequantised.get(index, index)
        values = None if index < 0 else self.constant(index)
        if values is None:
            return None
        if values.dtype.kind == "f":
            return values.astype(np.float32)
        if (quantisation := self.quantisation(index)) is None:
            raise InputError("has integer weights without a scale")
        scales, zeros, axis = quantisation
        if len(scales) > 1:
            shape = [1] * values.ndim
            shape[axis] = -1
            scales, zeros = scales.reshape(shape), zeros.reshape(shape)
        with np.errstate(over="ignore"):
            return (values.astype(np.int64) - zeros).astype(np.float32) * scales.astype(np.float32)

    def range(self, index: int) -> tuple[float, float] | None:
        """(lowest, highest) value that a tensor of 8 bits can hold; None for another."""
        quantisation = self.quantisation(index)
        if self.type(index) not in BITS_8 or quantisation is None:
            return None
        limits = np.iinfo(DTYPES[self.type(index)])
        scale, zero = float(quantisation[0][0]), int(quantisation[1][0])
        return scale * (limits.min - zero), scale * (limits.max - zero)

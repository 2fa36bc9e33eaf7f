"""A TensorFlow Lite file while it is built, operator by operator.

The format is TensorFlow's tensorflow/compiler/mlir/lite/schema/schema.fbs, whose tables the `tflite` package writes.
METADATA has those of tensorflow_lite_support's metadata/metadata_schema.fbs, with their fields in its order.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
import tflite
from numpy.typing import ArrayLike
from tflite import BuiltinOperator, TensorType

from common.conversion.tflite_graph import DTYPES, OPTIONS

SCHEMA = 3
PRODUCER = "MobileNetV2 for MXNet"
ALIGNMENT = 16  # of tensors' numbers in the file, in bytes
TYPES = {np.dtype(dtype): number for number, dtype in DTYPES.items()}
OPTION_TABLES = {code: table.__name__ for code, table in OPTIONS.items()} | {
    BuiltinOperator.PAD: "PadOptions", BuiltinOperator.RESHAPE: "ReshapeOptions",
    BuiltinOperator.QUANTIZE: "QuantizeOptions", BuiltinOperator.DEQUANTIZE: "DequantizeOptions"}
# of operators whose first input is not float32, as TensorFlow counts them (tools/versioning/op_version.cc); else 1
VERSIONS = {
    TensorType.INT8: {BuiltinOperator.CONV_2D: 3, BuiltinOperator.DEPTHWISE_CONV_2D: 3, BuiltinOperator.ADD: 2,
                      BuiltinOperator.MEAN: 2, BuiltinOperator.PAD: 2, BuiltinOperator.SOFTMAX: 2,
                      BuiltinOperator.DEQUANTIZE: 2},
    TensorType.FLOAT16: {BuiltinOperator.DEQUANTIZE: 3},
}
METADATA = {
    "ModelMetadata": ("name", "description", "version", "subgraphs", "author", "license", "files",
                      "min_parser_version"),
    "SubGraphMetadata": ("name", "description", "inputs", "outputs"),
    "TensorMetadata": ("name", "description", "dimension_names", "content", "process_units", "stats", "files"),
    "Content": ("type", "properties", "range"),
    "FeatureProperties": (),
    "ImageProperties": ("color_space", "default_size"),
    "ProcessUnit": ("type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "AssociatedFile": ("name", "description", "type"),
}


class Table:
    """A table of either format: its name there, and its fields: whole numbers, text, bytes, arrays, tables, lists of
    tables; None is left out."""

    def __init__(self, kind: str, **fields: Any) -> None:
        self.kind = kind
        self.fields = {name: value for name, value in fields.items() if value is not None}


class Tensor(NamedTuple):
    number: int
    shape: tuple[int, ...]
    type: int  # of TensorType
    scale: Any = None  # of integers: a number, or an array of one for each channel


class Build:
    """A graph that grows, with one input, the first tensor, and one output."""

    def __init__(self) -> None:
        self._tensors: list[Table] = []
        self._operators: list[Table] = []
        self._codes: dict[tuple[int, int], Table] = {}
        self._buffers = [Table("Buffer")]  # 0 is that of what is computed

    def tensor(self, name: str, shape: Sequence[int], dtype: Any, scale: Any = None, zero: int = 0,
               data: np.ndarray | None = None, axis: int = 0) -> Tensor:
        """A tensor that is given or computed or, with `data`, constant. Integers stand for (number - zero) x scale;
        constants may have a scale for each of their numbers along `axis`."""
        quantization = None if scale is None else Table(
            "QuantizationParameters", Scale=np.atleast_1d(np.float32(scale)),
            ZeroPoint=np.full(np.size(scale), zero, np.int64), QuantizedDimension=axis)
        self._tensors.append(Table("Tensor", Name=name, Shape=np.array(shape, np.int32), Type=TYPES[np.dtype(dtype)],
                                   Buffer=0 if data is None else self._buffer(data.astype(dtype).tobytes()),
                                   Quantization=quantization))
        return Tensor(len(self._tensors) - 1, tuple(shape), TYPES[np.dtype(dtype)], scale)

    def constant(self, name: str, data: ArrayLike, dtype: Any, scale: Any = None, axis: int = 0) -> Tensor:
        array = np.asarray(data)
        return self.tensor(name, array.shape, dtype, scale, 0, array, axis)

    def _buffer(self, content: bytes) -> int:
        self._buffers.append(Table("Buffer", Data=content))
        return len(self._buffers) - 1

    def add(self, code: int, inputs: Sequence[Tensor], output: Tensor, **options: Any) -> Tensor:
        """Append an operator, of BuiltinOperator, with the options of its table; returns `output`."""
        version = VERSIONS.get(inputs[0].type, {}).get(code, 1)
        self._codes.setdefault((code, version), Table(
            "OperatorCode", DeprecatedBuiltinCode=code, BuiltinCode=code, Version=version))
        self._operators.append(Table(
            "Operator", OpcodeIndex=list(self._codes).index((code, version)),
            Inputs=_numbers(inputs), Outputs=_numbers([output]),
            BuiltinOptionsType=getattr(tflite.BuiltinOptions, OPTION_TABLES[code]),
            BuiltinOptions=Table(OPTION_TABLES[code], **options)))
        return output

    def content(self, output: Tensor, metadata: dict[str, bytes]) -> bytes:
        """The file, with entries of `metadata` under their names."""
        entries = [Table("Metadata", Name=name, Buffer=self._buffer(content)) for name, content in metadata.items()]
        graph = Table("SubGraph", Name="main", Tensors=self._tensors, Operators=self._operators,
                      Inputs=np.zeros(1, np.int32), Outputs=_numbers([output]))
        return written(Table("Model", Version=SCHEMA, Description=PRODUCER, OperatorCodes=list(self._codes.values()),
                             Subgraphs=[graph], Buffers=self._buffers, Metadata=entries), b"TFL3")


def _numbers(tensors):
    return np.array([tensor.number for tensor in tensors], np.int32)


def written(root: Table, identifier: bytes) -> bytes:
    """The file of a table and all that it holds."""
    builder = flatbuffers.Builder(2 ** 16)
    builder.Finish(_write(builder, root), file_identifier=identifier)
    return bytes(builder.Output())


def _write(builder: flatbuffers.Builder, value: Any) -> Any:
    """Where it is then in the file; numbers as they are, since they lie in their table."""
    if isinstance(value, Table):
        fields = {name: _write(builder, field) for name, field in value.fields.items()}
        if value.kind not in METADATA:
            getattr(tflite, f"{value.kind}Start")(builder)
            for name, field in fields.items():
                getattr(tflite, f"{value.kind}Add{name}")(builder, field)
            return getattr(tflite, f"{value.kind}End")(builder)
        builder.StartObject(len(METADATA[value.kind]))
        for name, field in fields.items():
            # their numbers are all of one byte
            prepend = builder.PrependUint8Slot if isinstance(value.fields[name], int) else \
                builder.PrependUOffsetTRelativeSlot
            prepend(METADATA[value.kind].index(name), field, 0)
        return builder.EndObject()
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, bytes):
        builder.StartVector(1, len(value), ALIGNMENT)
        builder.head -= len(value)
        builder.Bytes[builder.head:builder.head + len(value)] = value
        return builder.EndVector()
    if isinstance(value, np.ndarray):
        return builder.CreateNumpyVector(value)
    if isinstance(value, list):
        offsets = [_write(builder, item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    return value

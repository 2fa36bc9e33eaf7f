"""An ONNX model while it is built, node by node, with the shape of each of its tensors."""
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from common.base.errors import InputError, last_line
from common.checkpoint.attributes import Attributes
from common.checkpoint.preprocessing import Preprocessing, preprocessing_json
from common.checkpoint.symbol import INPUT, parameter_names

OPSET = 17  # of ONNX 1.12, of 2022
# at 13 Softmax got one axis, as MXNet's has; 23 is the last that the ONNX Runtime for Python 3.10 takes
OPSETS = range(13, 24)
PRODUCER = "MobileNetV2 for MXNet"
BATCH, IMAGE_SHAPE = "N", "(N, channels, height, width)"
MAX_ELEMENTS = 2 ** 31  # of one image in one layer; MXNet cannot hold more either


class Build:
    """A model that grows, with the type of each of its tensors."""

    def __init__(self, graph: dict, params: dict[str, np.ndarray], data_shape: Sequence[int | str],
                 opset: int = OPSET) -> None:
        self.params, self._initializers, self._nodes = params, {}, []
        self._opset: dict[str, Any] = {"opset_imports": [helper.make_opsetid("", opset)],
                                       "ir_version": helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset]}
        self._taken = {node["name"] for node in graph["nodes"]}  # by nodes to come, too
        self._types = {INPUT: helper.make_tensor_type_proto(TensorProto.FLOAT, data_shape)}
        for name in parameter_names(graph):
            self._initialize(name, params[name])

    def _initialize(self, name, array):
        if not name or name in self._types:
            raise InputError(f"two parameters have the name {name!r}" if name else "a parameter without a name")
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._types[name] = helper.make_tensor_type_proto(self._initializers[name].data_type, array.shape)

    def _unused(self, name):
        """`name`, with the first number behind it that makes it one of no node and no tensor."""
        return next(other for other in itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
                    if other not in self._types and other not in self._taken)

    def constant(self, name: str, values: ArrayLike, dtype: type[np.number] = np.float32) -> str:
        """The tensor of these values, named so or, where that is the name of another, with a number behind it."""
        name = self._unused(name)
        self._initialize(name, np.array(values, dtype))
        return name

    def normalized(self, preprocessing: Preprocessing) -> str:
        """The tensor of normalised pixels, computed from `data`."""
        mean, std = (np.reshape(values, (3, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
        attrs = Attributes({"op": "null", "name": INPUT})
        data = self.add("Sub", f"{INPUT}_centred", [INPUT, self.constant(f"{INPUT}_mean", mean)], attrs)
        return self.add("Div", f"{INPUT}_normalized", [data, self.constant(f"{INPUT}_std", std)], attrs)

    def shape(self, attrs: Attributes, tensor: str, rank: int | None = None) -> tuple[int | str, ...]:
        """(N, ...) of one of a node's inputs, which must be computed from the data."""
        dims = self._types[tensor].tensor_type.shape.dim if tensor in self._types else ()
        shape = tuple(dim.dim_param or dim.dim_value for dim in dims)
        if len(shape) < 2 or shape[0] != BATCH or rank not in (None, len(shape)):
            raise attrs.error(f"its input {tensor!r} has shape {shape}, not {IMAGE_SHAPE if rank else '(N, ...)'}")
        return shape

    def check_parameters(self, attrs: Attributes, inputs: Sequence[str], *shapes: tuple[int, ...]) -> None:
        """That the inputs after the first are parameters of those shapes."""
        for name, shape in zip(inputs[1:], shapes):
            if name not in self.params:
                raise attrs.error(f"its input {name!r} is not a parameter")
            if self.params[name].shape != shape:
                raise attrs.error(f"parameter {name!r} has shape {self.params[name].shape}, not {shape}")

    def add(self, onnx_op: str, name: str, inputs: Sequence[str], attrs: Attributes, **attributes: Any) -> str:
        """Append a node whose one output, of (N, ...) as all have, has its name. Returns that: of a second node of a
        name, or one with the name of a parameter, it has a number behind it."""
        if not name or name in self._types:
            name = self._unused(name or onnx_op)
        for tensor in inputs:
            if tensor not in self._types:
                raise attrs.error(f"its input {tensor!r} is neither computed nor a parameter")
        node = helper.make_node(onnx_op, inputs, [name], name, **attributes)
        types = {tensor: self._types[tensor] for tensor in inputs}
        known = {tensor: self._initializers[tensor] for tensor, kind in types.items()
                 if kind.tensor_type.elem_type == TensorProto.INT64}  # on which the output's shape depends
        try:
            schema = onnx.defs.get_schema(onnx_op, self._opset["opset_imports"][0].version)
            outputs = onnx.shape_inference.infer_node_outputs(schema, node, types, known, **self._opset)
        except onnx.shape_inference.InferenceError as error:
            raise attrs.error(last_line(error)) from None
        self._types[name] = outputs[name]
        batch, *sizes = (dim.dim_param or dim.dim_value for dim in outputs[name].tensor_type.shape.dim)
        if batch != BATCH or not all(isinstance(n, int) and n > 0 for n in sizes) or math.prod(sizes) > MAX_ELEMENTS:
            raise attrs.error(f"its output has shape {(batch, *sizes)}; the image is too small or too large for it")
        self._nodes.append(node)
        return name

    def model(self, output: str, preprocessing: Preprocessing) -> onnx.ModelProto:
        if len(self._types[output].tensor_type.shape.dim) != 2:
            raise InputError(f"the symbol ends in {output!r}, which is not of shape (N, classes)")
        used = {tensor for node in self._nodes for tensor in node.input}
        inputs, outputs = ([helper.make_value_info(name, self._types[name])] for name in (INPUT, output))
        graph = helper.make_graph(self._nodes, "classifier", inputs, outputs,
                                  [tensor for name, tensor in self._initializers.items() if name in used])
        model = helper.make_model(graph, producer_name=PRODUCER, **self._opset)
        helper.set_model_props(model, {
            "preprocessing": preprocessing_json(preprocessing).strip(),
            "output": "probabilities" if self._nodes[-1].op_type == "Softmax" else "logits"})
        return model

"""An .onnx file without its weights, which is small enough to keep, and the same file with weights from a seed.

Works on whatever the frameworks' exporters wrote, with the `onnx` package.
"""
import numpy as np
import onnx
from onnx import numpy_helper


def blank(content: bytes) -> bytes:
    """`content` with zeros for weights, biases and BatchNorms, and without what exporters add for people."""
    model = onnx.ModelProto.FromString(content)
    for _, tensor in _weights(model):
        tensor.raw_data = bytes(len(tensor.raw_data))
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.value_info[:], model.graph.metadata_props[:]
    return model.SerializeToString()


def fill(content: bytes, seed: int) -> bytes:
    """`content` with random weights, such that activations keep their size."""
    model, rng = onnx.ModelProto.FromString(content), np.random.RandomState(seed)
    for name, tensor in _weights(model):
        shape = tuple(tensor.dims)
        if len(shape) > 1 and np.prod(shape) > max(shape):
            inputs = np.prod(shape[1:]) if len(shape) == 4 else max(shape)
            array = rng.normal(0, np.sqrt(2 / inputs), shape)
        elif name.endswith(("running_var", ".weight", "mul:0")):  # of BatchNorms
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, 0.3, shape)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return model.SerializeToString()


def _weights(model):
    """(name, tensor) of each array of floating-point numbers."""
    return [(tensor.name, tensor) for tensor in model.graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data and np.prod(tensor.dims) > 1]

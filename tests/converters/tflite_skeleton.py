"""A .tflite file without its weights, which is small enough to keep, and the same file with weights from a seed.

Works in place, through the `tflite` package, on whatever TensorFlow's converter wrote.
"""
import numpy as np
import tflite

COLOURS = 12  # bytes of a number for each of them
SPREAD = 73  # standard deviation of whole numbers from -127 to 127


def blank(content: bytes) -> bytes:
    """`content` with zeros for weights, biases and their scales."""
    content = bytearray(content)
    for values, scales, _ in _constants(content):
        values[:] = 0
        scales[:] = 0
    return bytes(content)


def fill(content: bytes, seed: int) -> bytes:
    """`content` with random weights, biases and scales, such that activations keep their size."""
    content, rng = bytearray(content), np.random.RandomState(seed)
    for values, scales, shape in _constants(content):
        inputs = 9 if shape[:3] == (1, 3, 3) else int(np.prod(shape[1:]))
        deviation = np.sqrt(2 / inputs) if len(shape) > 1 else 0.3
        if values.dtype == np.float32:
            values[:] = rng.normal(0, deviation, len(values))
        else:
            scales[:] = rng.uniform(0.5, 1.5, len(scales)) * deviation / SPREAD
            values[:] = rng.randint(-127, 128, len(values))
    return bytes(content)


def _constants(content):
    """(values, scales, shape) of each weight and bias: views of `content`, a bytearray; scales may be empty."""
    model = tflite.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
        buffer, quantisation = model.Buffers(tensor.Buffer()), tensor.Quantization()
        scaled = quantisation is not None and quantisation.ScaleLength() > 0
        kind = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.INT8: np.int8,
                tflite.TensorType.INT32: np.int32}.get(tensor.Type())
        if buffer.DataLength() <= COLOURS or kind is None or (kind is not np.float32 and not scaled):
            continue  # the axes of a mean, say, or what images are normalised by
        yield (buffer.DataAsNumpy().view(kind), quantisation.ScaleAsNumpy() if scaled else np.empty(0),
               tuple(tensor.Shape(i) for i in range(tensor.ShapeLength())))

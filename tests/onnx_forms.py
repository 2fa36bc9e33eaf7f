"""MobileNetV2 as an ONNX graph, in the forms that exporters give it; small, and with random weights from a seed."""
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from common.checkpoint.arrays import parameter_shapes
from symbols.architecture import architecture

CHANNELS, CLASSES, SIZE = (8, 6, 8, 10, 12, 14, 16, 18, 20), 7, 64


@dataclass
class Form:
    """How an exporter writes what can be written in several ways."""
    opset: int = 17
    batchnorm: str = "folded"          # or "BatchNormalization", "Mul and Add"
    activation: str = "Clip"           # or "Min and Max", "Max and Min", "Relu and Min", "Relu", "8 bits"
    pooling: str = "GlobalAveragePool"  # or "ReduceMean", "ReduceMean twice", "AveragePool"
    flattening: str = "Flatten"        # or "Reshape", "Reshape by Shape", "Squeeze", "none": by the pooling
    classifier: str = "Gemm"           # or "MatMul and Add", "Gemm without transB", "Conv"
    softmax: bool = True
    constants: str = "initializer"     # or "Constant", "Identity", "float16", "int8", "int8 by channel"
    layout: str = "NCHW"               # or "NHWC" of the input, "NHWC everywhere"
    padding: str = "symmetric"
    pads: str = "pads"                 # of SAME: or "Pad", "auto_pad"
    normalisation: str = ""            # or "Sub and Div", "Mul and Add", "in 0..1"
    expanded: bool = False             # the first block
    image: tuple = (SIZE, SIZE)        # or names of dimensions
    network: dict = field(default_factory=dict)


MEAN, STD = np.float32([123.68, 116.78, 103.94]), np.float32([58.395, 57.12, 57.375])


def params_of(form: Form, seed: int = 0) -> dict:
    """{published name: array}, such that activations keep their size; the first expansion is left out unless there."""
    rng, params = np.random.RandomState(seed), {}
    for shapes in parameter_shapes(network_of(form), CLASSES):
        for name, shape in shapes.items():
            if name.endswith("_weight"):
                array = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
            else:
                array = rng.uniform(0.5, 1.5, shape) if name.endswith(("gamma", "var")) else rng.normal(0, 0.3, shape)
            params[name] = array.astype(np.float32)
    return {name: array for name, array in params.items()
            if form.expanded or not name.startswith("seq-0-block0-exp")}


def network_of(form: Form) -> dict:
    return {"channels": CHANNELS, "repeats": (1, 2, 3, 4, 3, 3, 1), "padding": form.padding,
            "image_shape": (3, SIZE, SIZE), **form.network}


class _Build:
    def __init__(self, form: Form) -> None:
        self.form, self.nodes, self.initializers, self.count = form, [], [], 0

    def node(self, op, *inputs, **attributes):
        self.count += 1
        domain = attributes.pop("domain", None)
        self.nodes.append(helper.make_node(op, inputs, [f"t{self.count}"], f"n{self.count}", domain=domain,
                                           **attributes))
        return f"t{self.count}"

    def initializer(self, array):
        self.count += 1
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), f"c{self.count}"))
        return f"c{self.count}"

    def constant(self, array):
        """Of the layers' numbers, in the form's way."""
        array, form = np.asarray(array, np.float32), self.form.constants
        if form == "Constant":
            return self.node("Constant", value=numpy_helper.from_array(array))
        if form == "Identity":
            return self.node("Identity", self.node("Constant", value=numpy_helper.from_array(array)))
        if form == "float16":
            return self.node("Cast", self.initializer(array.astype(np.float16)), to=TensorProto.FLOAT)
        if form.startswith("int8") and array.ndim == 4:
            channels = form.endswith("channel") and len(array) > 1
            scale = np.abs(array).max(axis=(1, 2, 3)) / 127 if channels else np.abs(array).max() / 127
            numbers = np.rint(array / np.reshape(scale, (-1, 1, 1, 1))).astype(np.int8)
            zeros = np.zeros(np.shape(scale), np.int8)
            return self.node("DequantizeLinear", self.initializer(numbers), self.initializer(np.float32(scale)),
                             self.initializer(zeros), **({"axis": 0} if channels else {}))
        return self.initializer(array)

    def integers(self, *numbers):
        return self.initializer(np.array(numbers, np.int64))

    def quantised(self, x, low, high):
        """To 16 bits, which hold low..high, and back."""
        scale = np.float32((high - low) / 65535)
        how = self.initializer(scale), self.initializer(np.uint16(round(-low / scale)))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *how), *how)

    def activated(self, x):
        kind = self.form.activation
        scalar = self.initializer
        if kind == "Clip" and self.form.opset < 11:
            return self.node("Clip", x, min=0.0, max=6.0)
        if kind == "8 bits":
            return self.quantised(x, 0, 6)
        for op in {"Clip": ("Clip",), "Min and Max": ("Min", "Max"), "Max and Min": ("Max", "Min"),
                   "Relu and Min": ("Relu", "Min"), "Relu": ("Relu",)}[kind]:
            limits = {"Clip": (0, 6), "Min": (6,), "Max": (0,), "Relu": ()}[op]
            x = self.node(op, x, *(scalar(np.float32(limit)) for limit in limits))
        return x

    def unit(self, x, unit, params):
        weight = params[f"{unit.name}-conv2d_weight"]
        gamma, beta, mean, var = (params[f"{unit.name}-batchnorm_{part}"].astype(np.float64)
                                  for part in ("gamma", "beta", "moving_mean", "moving_var"))
        scale = gamma / np.sqrt(var + 1e-5)
        attributes = {"group": unit.groups, "strides": [unit.stride] * 2}
        (top, bottom), (left, right) = unit.padding
        if self.form.pads == "auto_pad" and unit.kernel > 1:
            attributes["auto_pad"] = "SAME_UPPER"
        elif self.form.pads == "Pad" and unit.kernel > 1 and unit.stride > 1:
            pads = [0, 0, top, left, 0, 0, bottom, right]
            x = self.node("Pad", x, pads=pads) if self.form.opset < 11 else self.node("Pad", x, self.integers(*pads))
        else:
            attributes["pads"] = [top, left, bottom, right]
        if self.form.layout == "NHWC everywhere":
            x = self.node("Transpose", x, perm=[0, 3, 1, 2])
        if self.form.batchnorm == "folded":
            folded = weight * scale.reshape(-1, 1, 1, 1)
            x = self.node("Conv", x, self.constant(folded), self.constant(beta - mean * scale), **attributes)
        elif self.form.batchnorm == "BatchNormalization":
            x = self.node("BatchNormalization", self.node("Conv", x, self.constant(weight), **attributes),
                          *map(self.constant, (gamma, beta, mean, var)), epsilon=1e-5)
        else:
            x = self.node("Conv", x, self.constant(weight), **attributes)
            x = self.node("Mul", self.constant(scale.reshape(-1, 1, 1)), x)
            x = self.node("Add", x, self.constant((beta - mean * scale).reshape(1, -1, 1, 1)))
        if self.form.layout == "NHWC everywhere":
            x = self.node("Transpose", x, perm=[0, 2, 3, 1])
        return self.activated(x) if unit.activation else x

    def pooled(self, x):
        nhwc, kind = self.form.layout == "NHWC everywhere", self.form.pooling
        axes = (1, 2) if nhwc else (2, 3)
        keep = int(self.form.flattening != "none")

        def mean(x, axes):
            if self.form.opset < 18:
                return self.node("ReduceMean", x, axes=axes, keepdims=keep)
            return self.node("ReduceMean", x, self.integers(*axes), keepdims=keep)
        if kind == "ReduceMean":
            return mean(x, axes)
        if kind == "ReduceMean twice":
            return mean(mean(x, axes[1:]), axes[:1])
        x = self.node("Transpose", x, perm=[0, 3, 1, 2]) if nhwc else x
        if kind == "AveragePool":
            return self.node("AveragePool", x, kernel_shape=[SIZE // 32] * 2)
        return self.node("GlobalAveragePool", x)

    def flat(self, x):
        kind = self.form.flattening
        if kind == "Reshape":
            return self.node("Reshape", x, self.integers(-1, CHANNELS[-1]))
        if kind == "Reshape by Shape":
            images = self.node("Gather", self.node("Shape", x), self.integers(0), axis=0)
            return self.node("Reshape", x, self.node("Concat", images, self.integers(-1), axis=0))
        if kind == "Squeeze":
            axes = (1, 2) if self.form.layout == "NHWC everywhere" else (2, 3)
            early = self.form.opset < 13
            return self.node("Squeeze", x, axes=axes) if early else self.node("Squeeze", x, self.integers(*axes))
        return self.node("Flatten", x) if kind == "Flatten" else x

    def classified(self, x, params):
        weight, bias, kind = params["fc_weight"], self.constant(params["fc_bias"]), self.form.classifier
        if kind == "Conv":
            return self.flat(self.node("Conv", x, self.constant(weight[:, :, None, None]), bias))
        x = self.node("Dropout", self.flat(x))
        if kind == "Gemm":
            return self.node("Gemm", x, self.constant(weight), bias, transB=1)
        if kind == "Gemm without transB":
            return self.node("Gemm", x, self.constant(weight.T * 2), bias, alpha=0.5)
        return self.node("Add", self.node("MatMul", x, self.constant(weight.T)), bias)

    def normalised(self, x):
        mean, std = (numbers if self.form.layout != "NCHW" else numbers.reshape(1, 3, 1, 1) for numbers in (MEAN, STD))
        if self.form.normalisation == "in 0..1":
            mean, std = mean / 255, std / 255
        if self.form.normalisation == "Mul and Add":
            return self.node("Add", self.node("Mul", self.node("Cast", x, to=TensorProto.FLOAT), self.initializer(
                1 / std)), self.initializer(-mean / std))
        if self.form.normalisation:
            return self.node("Div", self.node("Sub", x, self.initializer(mean)), self.initializer(std))
        return x


def model_of(form: Form, params: dict):
    """The onnx.ModelProto; its input is called "image"."""
    build, plan = _Build(form), architecture(**network_of(form))
    x = build.normalised("image")
    if form.layout == "NHWC":
        x = build.node("Transpose", x, perm=[0, 3, 1, 2])
    x = build.unit(x, plan.first, params)
    for block in plan.blocks:
        y = x
        for unit in block.units if f"{block.name}-exp-conv2d_weight" in params else block.units[1:]:
            y = build.unit(y, unit, params)
        x = build.node("Add", x, y) if block.shortcut else y
    x = build.classified(build.pooled(build.unit(x, plan.last, params)), params)
    if form.softmax:
        x = build.node("Softmax", x)
    shape = ["N", 3, *form.image] if form.layout == "NCHW" else ["N", *form.image, 3]
    graph = helper.make_graph(build.nodes, "classifier", [helper.make_tensor_value_info(
        "image", TensorProto.FLOAT, shape)], [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", CLASSES])],
        build.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", form.opset)], ir_version=8 if form.opset < 21
                             else 10)

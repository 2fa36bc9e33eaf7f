"""What the configuration of a Keras model, its JSON, says of a MobileNetV2 classifier. Nothing in it is run.

Models within the model, Sequential or not, are replaced by their layers. That has to give one chain, in which only the
sums of MobileNetV2 have a second input: what is done to the images, the network, and its head.
"""
import json
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from common.base.errors import InputError
from common.conversion.assemble import IDENTITY, pixels_of
from symbols.architecture import MIN_SIZE, REPEATS, STRIDES, architecture

MAX_CONFIGURATION = 1 << 22  # bytes; that of Keras's MobileNetV2 has 100,000
MODELS = ("Functional", "Model", "Sequential")
# these do nothing but in training
IDLE = ("InputLayer", "Identity", "Cast", "cast", "ActivityRegularization", "Dropout", "SpatialDropout2D",
        "AlphaDropout", "GaussianDropout", "GaussianNoise", "RandomFlip", "RandomRotation", "RandomZoom",
        "RandomTranslation", "RandomShear", "RandomPerspective", "RandomHeight", "RandomWidth", "RandomContrast",
        "RandomBrightness", "RandomSaturation", "RandomHue", "RandomColorJitter", "RandomColorDegeneration",
        "RandomGrayscale", "RandomSharpness", "RandomPosterization", "RandomInvert", "RandomGaussianBlur",
        "RandomElasticTransform", "RandomErasing", "CutMix", "MixUp", "AugMix", "RandAugment")
# operators with a constant: as layers of Keras 3, functions of TFOpLambda, and TensorFlow's operators, of Keras 2
OPERATORS: dict[str, Callable] = {
    **dict.fromkeys(("TrueDivide", "Divide", "math.truediv", "math.divide", "RealDiv"), lambda c: (1 / c, 0)),
    **dict.fromkeys(("Multiply", "math.multiply", "Mul"), lambda c: (c, 0)),
    **dict.fromkeys(("Subtract", "math.subtract", "Sub"), lambda c: (1, -c)),
    **dict.fromkeys(("Add", "math.add", "__operators__.add", "AddV2"), lambda c: (1, c)),
}
LEAST_STD = 1e-7  # that a Normalization divides by
EPSILON = 1e-3    # of Keras's BatchNormalization
# what a layer has if its configuration does not say
DEFAULTS = {"strides": [1, 1], "padding": "valid", "dilation_rate": [1, 1], "groups": 1, "use_bias": True,
            "activation": "linear", "data_format": "channels_last", "axis": -1, "epsilon": EPSILON, "max_value": None,
            "negative_slope": 0, "threshold": 0}
CONVOLUTION = {"dilation_rate": [1, 1], "groups": 1, "use_bias": False, "activation": "linear",
               "data_format": "channels_last"}

Arrays = Callable[[str, str], np.ndarray]  # of the layer and the weight


class Model(NamedTuple):
    """What `read_model` finds."""
    layers: list[str]  # names of those with weights, in the network's order
    description: dict  # as from common.conversion.sources, with "notes" for the user


class Layer(NamedTuple):
    kind: str
    name: str
    config: dict
    place: int         # in the chain
    inputs: list[int]  # places of the layers that this one is called on
    constants: list    # other arguments

    def refused(self, why: str) -> InputError:
        return InputError(f"its layer {_short(self.name)} ({_short(self.kind)}) {why}")

    def attribute(self, name: str) -> Any:
        """Its value, each kind of attribute in one of the forms that Keras gives it."""
        value = self.config.get(name, DEFAULTS[name])
        if name == "activation":
            value = value.get("config") if isinstance(value, dict) else value
            return "linear" if value is None else value.get("name") if isinstance(value, dict) else value
        if name == "axis":
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
            return -1 if value == 3 else value
        return [value] * 2 if name == "strides" and isinstance(value, int) else value


def _short(text):
    return repr(text if len(str(text)) < 80 else f"{str(text)[:80]}...")


def read_model(text: str | bytes, arrays: Arrays) -> Model:
    """Of the JSON `text`. `arrays` gives those of a layer that is no part of the network. Raises InputError, which does
    not name the file, for anything but MobileNetV2 with one linear layer as classifier."""
    try:
        if len(text) > MAX_CONFIGURATION:
            raise InputError(f"its configuration has {len(text):,} bytes, which no MobileNetV2 has")
        layers = _chain(json.loads(text))
        description = _images(layers, arrays)
        names = _network(layers, description)
        return Model([*names, _head(layers)], description)
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"its configuration cannot be understood ({type(error).__name__})") from None


def _chain(model):
    """The layers of the outermost `model` and of those within it, in their order."""
    if not isinstance(model, dict) or model.get("class_name") not in MODELS:
        raise InputError("it holds a model that is written in Python, of which it says no layers: save a functional or "
                         "Sequential one")
    layers: list[Layer] = []
    last = _append(model, -1, layers)
    for layer in layers:
        if layer.kind != "Add" and layer.inputs != [layer.place - 1]:
            raise layer.refused("is not called on the one before it alone: one chain of layers is needed, with one "
                                "input")
    if last != len(layers) - 1:
        raise layers[-1].refused("is not what the model answers, or not all of it")
    return deque(layers)


def _append(model, source, layers):
    """Append those of `model`, called on the layer at the place `source`, and return the place of what it answers."""
    config, places, place = model["config"], {}, source
    sequential = model["class_name"] == "Sequential"
    for entry in config if isinstance(config, list) else config["layers"]:
        kind, own = entry["class_name"], entry["config"]
        name = entry.get("name") or (own.get("name", kind) if isinstance(own, dict) else kind)
        layer = Layer(kind, name, own, len(layers), [place], [])
        if kind == "InputLayer":
            layer.inputs[:] = [source]
        elif not sequential:
            inputs, constants, in_training = _call(entry["inbound_nodes"], layer)
            if unknown := [other for other in inputs if other not in places]:
                raise layer.refused(f"is called on {_short(unknown[0])}, which is no layer before it")
            if in_training:
                raise layer.refused("is called as in training, where it does not answer alike")
            layer.inputs[:] = [places[other] for other in inputs]
            layer.constants.extend(constants)
        if kind in MODELS:
            if len(layer.inputs) != 1:
                raise layer.refused(f"has {len(layer.inputs)} inputs")
            place = _append(entry, layer.inputs[0], layers)
        else:
            if not isinstance(own, dict):
                raise layer.refused("has no configuration")
            if kind == "TFOpLambda":
                layer = layer._replace(kind=own["function"])
            elif kind == "TensorFlowOpLayer":
                layer = layer._replace(kind=own["node_def"]["op"], constants=[*own["constants"].values()])
            place = len(layers)
            layers.append(layer)
        places[name] = place
    if sequential:
        return place
    outputs = config["output_layers"]
    while isinstance(outputs, list) and len(outputs) == 1:
        outputs, = outputs
    if not isinstance(outputs[0], str):
        raise InputError(f"its model {_short(config.get('name'))} has {len(outputs)} outputs")
    return places[outputs[0]]


def _call(nodes, layer):
    """(names of the layers it is called on, constants, whether as in training) of a layer that is called once."""
    if len(nodes) != 1:
        raise layer.refused(f"is called {len(nodes)} times")
    node, = nodes
    if isinstance(node, dict):  # Keras 3
        first, *others = node["args"]
        tensors = [tensor for tensor in (first if isinstance(first, list) else [first]) if _is_tensor(tensor)]
        names = [tensor["config"]["keras_history"][0] for tensor in (*tensors, *filter(_is_tensor, others))]
        if not tensors:
            raise layer.refused("has a constant in the place of its input")
        # its `training` is not that of a model that predicts: Keras 3 puts that in its place
        return names, [other for other in others if not _is_tensor(other)], False
    calls = [node] if isinstance(node[0], str) else node
    options = calls[0][3] if len(calls[0]) > 3 else {}
    return [call[0] for call in calls], [options["y"]] if "y" in options else [], options.get("training") is True


def _is_tensor(argument):
    return isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__"


def _size(config):
    """(height, width) of the RGB images that a layer's configuration gives; None if it gives none."""
    for key in ("batch_shape", "batch_input_shape"):  # of Keras 3, and before
        shape = config.get(key)
        if isinstance(shape, list) and len(shape) == 4 and shape[3] == 3 and all(
                type(side) is int and 0 < side < 2 ** 31 for side in shape[1:3]):
            return tuple(shape[1:3])
    return None


def _images(layers, arrays):
    """Take from the `layers` what is done to images, and return what that says of them."""
    size, scale, offset, lines = None, np.ones(3), np.zeros(3), []
    while layers and layers[0].kind not in ("Conv2D", "ZeroPadding2D"):
        layer = layers.popleft()
        size = size or _size(layer.config)
        if layer.kind == "Resizing":
            size = _size({"batch_shape": [None, layer.config["height"], layer.config["width"], 3]})
            lines.append(f"its layer {_short(layer.name)}, which stretches images to its size, is left out: shorter "
                         "side and crop take its place")
        elif not _is_idle(layer):
            with np.errstate(all="ignore"):
                factor, summand = _affine(layer, arrays)
                scale, offset = scale * factor, offset * factor + summand
                finite = np.isfinite([scale, offset, 1 / scale, offset / scale]).all()
            if not finite or scale.min() <= 0:
                raise layer.refused("makes the same of all colours, or turns light into dark")
    size = size or (layers and _size(layers[0].config))
    description: dict = {"notes": lines}
    if size:
        description["image_shape"] = (3, *size)
    if (scale != 1).any() or offset.any():
        description["preprocessing"] = pixels_of(scale, offset, mean=0)["preprocessing"]
    return description


def _is_idle(layer):
    return layer.kind in IDLE or layer.kind == "Activation" and layer.attribute("activation") == "linear"


def _affine(layer, arrays):
    """(factor, summand), each a number or three, of a layer that makes x * factor + summand of an image."""
    if layer.kind == "Rescaling":
        return _numbers(layer, layer.config["scale"]), _numbers(layer, layer.config.get("offset", 0))
    if layer.kind == "Normalization" and not layer.config.get("invert"):
        if layer.attribute("axis") not in (-1, None):
            raise layer.refused("normalises along another axis than that of the colours")
        mean, variance = (_numbers(layer, arrays(layer.name, name) if layer.config.get(name) is None
                                   else layer.config[name]) for name in ("mean", "variance"))
        std = np.maximum(np.sqrt(variance), LEAST_STD)
        return 1 / std, -mean / std
    if layer.kind in OPERATORS and len(layer.inputs) == len(layer.constants) == 1:
        return OPERATORS[layer.kind](_numbers(layer, layer.constants[0]))
    why = "is code in the file, which is never run" if layer.kind == "Lambda" else \
        "does to images what no mean and standard deviation do, before MobileNetV2's first convolution"
    raise layer.refused(why)


def _numbers(layer, value):
    value = value["config"]["value"] if isinstance(value, dict) else value  # an array of Keras 3
    try:
        found = np.asarray(value, np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        found = np.zeros(0)
    if found.size not in (1, 3) or not np.isfinite(found).all():
        raise layer.refused("has no number, or three, for its colours")
    return found


def _network(layers, description):
    """Take MobileNetV2 from the `layers`, and return the names of those with weights; its strides and what else it
    takes go into the description."""
    depthwise = [layer for layer in layers if layer.kind == "DepthwiseConv2D"]
    firsts = [sum(REPEATS[:stage]) for stage in range(len(REPEATS))]
    found = tuple(depthwise[first].attribute("strides")[0] if first < len(depthwise) else 0 for first in firsts)
    description["strides"] = next((name for name, strides in STRIDES.items() if strides == found), "published")
    shape = description.get("image_shape")
    if shape and min(shape[1:]) < MIN_SIZE:
        raise InputError(f"its images are of {shape[1]}x{shape[2]} pixels; {MIN_SIZE} or more are needed")
    network = architecture(strides=description["strides"], padding="same", image_shape=shape or (3, 224, 224))
    names, padded = [], False
    blocks = [((network.first,), False), *((block.units, block.shortcut) for block in network.blocks),
              ((network.last,), False)]
    for units, shortcut in blocks:
        entrance = layers[0].place - 1 if layers else 0
        for unit in units:
            if unit.name == IDENTITY:
                continue
            pads = "same"
            if unit.kernel > 1 and layers and layers[0].kind == "ZeroPadding2D":
                pads, padded = "valid", True
                _take(layers, "ZeroPadding2D", padding=[list(pair) for pair in unit.padding])
            given = {} if unit.kernel == 1 else {"padding": pads}
            names.append(_take(layers, "DepthwiseConv2D" if unit.groups > 1 else "Conv2D",
                               strides=[unit.stride] * 2, **given, **CONVOLUTION).name)
            names.append(_take(layers, "BatchNormalization", axis=-1, epsilon=EPSILON).name)
            if unit.activation:
                _take_relu6(layers)
        if shortcut:
            layer = _take(layers, "Add")
            if sorted(layer.inputs) != [entrance, layer.place - 1]:
                raise layer.refused("adds something else than what the block begins with, and its last layer")
    if padded and not shape:
        description["notes"].append("it pads as for images whose sides are multiples of 32: only such sizes answer as "
                                    "in Keras")
    return names


def _take(layers, kind, **attributes):
    """The next of the `layers`, which has to be of this kind and these attributes."""
    if not layers:
        raise InputError(f"its model ends where MobileNetV2 has a layer of the kind {kind}")
    layer = layers.popleft()
    if layer.kind != kind:
        raise layer.refused(f"stands where MobileNetV2 has a layer of the kind {kind}")
    for name, value in attributes.items():
        if (found := layer.attribute(name)) != value:
            raise layer.refused(f"has {name} {_short(found)}; MobileNetV2 has {value} there")
    return layer


def _take_relu6(layers):
    if layers and layers[0].kind == "Activation":
        _take(layers, "Activation", activation="relu6")  # before Keras 2.2.1
    else:
        _take(layers, "ReLU", max_value=6, negative_slope=0, threshold=0)


def _head(layers):
    """The name of the one linear layer in the head, all that is left of the `layers`."""
    while layers and _is_idle(layers[0]):
        layers.popleft()
    _take(layers, "GlobalAveragePooling2D", data_format="channels_last")
    dense, softmax = None, False
    for layer in layers:
        activation = layer.attribute("activation")
        if layer.kind == "Dense" and not dense:
            dense, units = layer, layer.config["units"]
            if activation not in ("linear", "softmax", "sigmoid") or activation == "sigmoid" and units != 1:
                raise layer.refused(f"ends in {_short(activation)}; a classifier needs softmax or nothing there, or "
                                    "sigmoid for one output")
            if activation == "softmax" and units == 1:
                raise layer.refused("has one output and softmax, which answers 1 to everything")
            softmax = activation != "linear"
        elif layer.kind == "Dense":
            raise layer.refused(f"is a second one after {_short(dense.name)}; MobileNetV2 has one linear layer as "
                                "classifier")
        elif dense and not softmax and (layer.kind == "Softmax" or layer.kind == "Activation"
                                        and activation == "softmax") and dense.config["units"] != 1:
            softmax = True
        elif not _is_idle(layer) and (dense or layer.kind != "Flatten"):
            raise layer.refused("has no place between MobileNetV2 and one linear layer, or after that")
    if not dense:
        raise InputError("it has no classifier: save the model with its linear layer (in Keras applications, "
                         "include_top=True)")
    return dense.name

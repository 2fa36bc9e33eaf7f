"""MobileNetV2 with MXNet's Symbol API."""
from collections.abc import Sequence

from ._mxnet import mx
from .architecture import Unit, architecture, check_ignored, check_num_classes


def get_symbol(num_classes: int = 1000, multiplier: float = 1.0, strides: str = "published",
               padding: str = "symmetric", image_shape: Sequence[int] | str | None = None,
               channels: Sequence[int] | None = None, repeats: Sequence[int] | None = None, activation: str = "relu6",
               **others: object) -> mx.sym.Symbol:
    """MobileNetV2 with a softmax head, as a Symbol.

    Input `data`: float32 (N, 3, H, W), H and W of 28 or more, RGB from 0 to 255 less the mean (123.68, 116.78, 103.94);
    `softmax_label`: (N,). Output `softmax_output`: probabilities, (N, num_classes).

    Parameters are those of `architecture`, which also lists what a ValueError is raised for; names and shapes of the
    weights are those of the published checkpoints. `others`: see `check_ignored`.
    """
    check_ignored(others)
    check_num_classes(num_classes)
    data = _last_map(architecture(multiplier, strides, padding, image_shape, channels, repeats, activation))
    data = mx.sym.Pooling(data, global_pool=True, kernel=(7, 7), pool_type="avg", name="global_pool")
    data = mx.sym.Flatten(data, name="flatten")
    data = mx.sym.FullyConnected(data, num_hidden=num_classes, name="fc")
    return mx.sym.SoftmaxOutput(data, name="softmax")


class MNetV2Gen:
    """The network as the original repository makes it: MNetV2Gen((224, 224), multiplier=1.0)(class_num=1000).

    `data_wh`: (width, height) of the images. A call returns the Symbol of `get_symbol`; with `layer_out`, the name of a
    layer such as "seq-2-block2-shortcut", that layer's output, and of a list of names the list of their outputs.
    """

    def __init__(self, data_wh: Sequence[int], multiplier: float = 1.0) -> None:
        width, height = data_wh
        self._image_shape, self._multiplier = (3, height, width), multiplier

    def __call__(self, class_num: int = 1000, layer_out: str | Sequence[str] | None = None) -> mx.sym.Symbol | list:
        symbol = get_symbol(class_num, self._multiplier, image_shape=self._image_shape)
        if layer_out is None:
            return symbol
        outputs = symbol.get_internals()
        if isinstance(layer_out, str):
            return outputs[f"{layer_out.strip()}_output"]
        return [outputs[f"{name.strip()}_output"] for name in layer_out]


def feature_names(strides: str = "published", repeats: Sequence[int] | None = None) -> dict[int, str]:
    """{4: ..., 8: ..., 16: ..., 32: ...}: the output name of the deepest map at each stride.

    The names hold for every multiplier and padding, for the Gluon definition, and for any published checkpoint:
    `symbol.get_internals()[feature_names()[16]]`. `repeats`: those of the network, if they are not the paper's.
    """
    return dict(architecture(strides=strides, repeats=repeats).features)


def get_features(multiplier: float = 1.0, strides: str = "published",
                 padding: str = "symmetric", image_shape: Sequence[int] | None = None,
                 channels: Sequence[int] | None = None, repeats: Sequence[int] | None = None,
                 activation: str = "relu6") -> mx.sym.Symbol:
    """The feature maps at strides 4, 8, 16 and 32, as one grouped Symbol, for detectors and segmenters.

    At multiplier 1.0 and 224x224: (N, 24, 56, 56), (N, 32, 28, 28), (N, 96, 14, 14), (N, 320, 7, 7). Loads the
    parameters of a classification checkpoint (`last-1x1-conv` and `fc` are not used).
    """
    plan = architecture(multiplier, strides, padding, image_shape, channels, repeats, activation)
    internals = _last_map(plan).get_internals()
    return mx.sym.Group([internals[name] for name in plan.features.values()])


def _last_map(plan):
    data = _unit(mx.sym.Variable("data"), plan.first)
    for block in plan.blocks:
        inputs = data
        for unit in block.units:
            data = _unit(data, unit)
        if block.shortcut:
            data = mx.sym.elemwise_add(inputs, data, name=f"{block.name}-shortcut")
    return _unit(data, plan.last)


def _unit(data: mx.sym.Symbol, unit: Unit) -> mx.sym.Symbol:
    (top, bottom), (left, right) = unit.padding
    if unit.pad_layer:  # Convolution pads both sides alike
        data = mx.sym.pad(data, mode="constant", constant_value=0, name=f"{unit.name}-pad",
                          pad_width=(0, 0, 0, 0, top, bottom, left, right))
    data = mx.sym.Convolution(data, num_filter=unit.channels, kernel=(unit.kernel,) * 2, stride=(unit.stride,) * 2,
                              pad=(0, 0) if unit.pad_layer else (top, left), num_group=unit.groups, no_bias=True,
                              name=f"{unit.name}-conv2d")
    data = mx.sym.BatchNorm(data, fix_gamma=False, eps=1e-5, name=f"{unit.name}-batchnorm")
    if unit.activation == "relu":
        return mx.sym.Activation(data, act_type="relu", name=f"{unit.name}-relu")
    return mx.sym.clip(data, 0, 6, name=f"{unit.name}-relu6") if unit.activation else data

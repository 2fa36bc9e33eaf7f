"""MobileNetV2 as a Gluon HybridBlock, with the parameter names of the Symbol definition."""
from collections.abc import Sequence
from types import ModuleType
from typing import TypeAlias

from ._mxnet import mx
from .architecture import Block, Unit, architecture, check_ignored, check_image_shape, check_num_classes

Array: TypeAlias = mx.nd.NDArray | mx.sym.Symbol  # the first when a block is run, the second when it is traced


class ConvBatchNorm(mx.gluon.HybridBlock):
    """Convolution without bias, BatchNorm and, if the unit has one, its activation.

    Gluon's own Conv2D and BatchNorm would name the parameters otherwise (`running_mean` for `moving_mean`). Weight
    decay is Module's: on weights and gammas only.
    """

    def __init__(self, unit: Unit) -> None:
        super().__init__(prefix=f"{unit.name}-")
        self._unit = unit
        channels = (unit.channels,)
        with self.name_scope():
            get = self.params.get
            self.weight = get("conv2d_weight", shape=(unit.channels, unit.in_channels // unit.groups,
                                                      unit.kernel, unit.kernel))
            self.gamma = get("batchnorm_gamma", shape=channels, init="ones")
            self.beta = get("batchnorm_beta", shape=channels, init="zeros", wd_mult=0)
            self.moving_mean = get("batchnorm_moving_mean", shape=channels, init="zeros", grad_req="null",
                                   differentiable=False)
            self.moving_var = get("batchnorm_moving_var", shape=channels, init="ones", grad_req="null",
                                  differentiable=False)

    def hybrid_forward(self, F: ModuleType, x: Array, weight: Array, gamma: Array, beta: Array, moving_mean: Array,
                       moving_var: Array) -> Array:
        unit = self._unit
        (top, bottom), (left, right) = unit.padding
        if unit.pad_layer:
            x = F.pad(x, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, top, bottom, left, right),
                      name="pad")
        x = F.Convolution(x, weight, num_filter=unit.channels, kernel=(unit.kernel,) * 2, stride=(unit.stride,) * 2,
                          pad=(0, 0) if unit.pad_layer else (top, left), num_group=unit.groups, no_bias=True,
                          name="conv2d")
        x = F.BatchNorm(x, gamma, beta, moving_mean, moving_var, fix_gamma=False, eps=1e-5, name="batchnorm")
        if unit.activation == "relu":
            return F.Activation(x, act_type="relu", name="relu")
        return F.clip(x, 0, 6, name="relu6") if unit.activation else x


class InvertedResidual(mx.gluon.HybridBlock):
    """Expansion, depthwise convolution, linear projection, and the sum if the table has one."""

    def __init__(self, block: Block) -> None:
        super().__init__(prefix=f"{block.name}-")
        self._shortcut = block.shortcut
        self.units = mx.gluon.nn.HybridSequential(prefix="")
        self.units.add(*(ConvBatchNorm(unit) for unit in block.units))

    def hybrid_forward(self, F: ModuleType, x: Array) -> Array:
        out = self.units(x)
        return F.elemwise_add(x, out, name="shortcut") if self._shortcut else out


class GlobalPool(mx.gluon.HybridBlock):
    """(N, C, H, W) to (N, C, 1, 1), the means of the maps."""

    def hybrid_forward(self, F: ModuleType, x: Array) -> Array:
        return F.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name="global_pool")


class Classifier(mx.gluon.HybridBlock):
    """(N, C, 1, 1) to logits (N, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(prefix="")
        self._num_classes = num_classes
        with self.name_scope():
            self.weight = self.params.get("fc_weight", shape=(num_classes, in_channels))
            self.bias = self.params.get("fc_bias", shape=(num_classes,), init="zeros", wd_mult=0)

    def hybrid_forward(self, F: ModuleType, x: Array, weight: Array, bias: Array) -> Array:
        x = F.Flatten(x, name="flatten")
        return F.FullyConnected(x, weight, bias, num_hidden=self._num_classes, name="fc")


class MobileNetV2(mx.gluon.HybridBlock):
    """MobileNetV2: (N, 3, H, W) to logits (N, num_classes).

    Arguments, their ranges and the ValueErrors are those of `symbols.mobilenetv2.get_symbol`; `classes` is
    `num_classes` by the name that Gluon's model zoo has for it. As there, `features` gives (N, C, 1, 1), and `output`
    the logits of these: for other classes put `mx.gluon.nn.Dense(n)` in its place. `load_parameters` and
    `save_parameters` read and write `PREFIX-%04d.params` checkpoints, those of the Symbol definition and the published
    ones included; `export` writes symbol and parameters for use without this class.
    """

    def __init__(self, num_classes: int = 1000, multiplier: float = 1.0, strides: str = "published",
                 padding: str = "symmetric", image_shape: Sequence[int] | str | None = None,
                 channels: Sequence[int] | None = None, repeats: Sequence[int] | None = None,
                 classes: int | None = None, activation: str = "relu6") -> None:
        num_classes = num_classes if classes is None else classes
        check_num_classes(num_classes)
        plan = architecture(multiplier, strides, padding, image_shape, channels, repeats, activation)
        super().__init__(prefix="")
        self._image_shape = check_image_shape(image_shape) if padding == "same" else None
        self.features = mx.gluon.nn.HybridSequential(prefix="")
        self.features.add(ConvBatchNorm(plan.first), *map(InvertedResidual, plan.blocks), ConvBatchNorm(plan.last),
                          GlobalPool(prefix=""))
        self.output = Classifier(num_classes, plan.last.channels)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "output":
            self.__dict__.pop(name, None)  # Gluon lets no block of another type take its place
        super().__setattr__(name, value)

    def forward(self, x: Array, *args: Array) -> Array:
        if isinstance(x, mx.nd.NDArray):
            check_image_shape(x.shape[1:])
            if self._image_shape is not None and any((size - laid_out) % 32 for size, laid_out in
                                                     zip(x.shape[2:], self._image_shape[1:])):
                raise ValueError(f'padding="same" was laid out for {self._image_shape} and what differs from it by '
                                 f"multiples of 32, not {x.shape[1:]}")
        return super().forward(x, *args)

    def hybrid_forward(self, F: ModuleType, x: Array) -> Array:
        return self.output(self.features(x))

    def save_parameters(self, filename: str, deduplicate: bool = False) -> None:
        """Write the parameters under their checkpoint names (`arg:fc_weight`, ...), as Module and `export` do."""
        kinds = {name: "aux" if name.endswith(("moving_mean", "moving_var")) else "arg"
                 for name in self.collect_params()}
        mx.nd.save(filename, {f"{kinds[name]}:{name}": parameter.data(parameter.list_ctx()[0])
                              for name, parameter in self.collect_params().items()})


def get_symbol(num_classes: int = 1000, multiplier: float = 1.0, strides: str = "published",
               padding: str = "symmetric", image_shape: Sequence[int] | str | None = None,
               channels: Sequence[int] | None = None, repeats: Sequence[int] | None = None, activation: str = "relu6",
               ctx: object = None, **others: object) -> mx.sym.Symbol:
    """The Gluon network traced into a Symbol with a softmax head, as `symbols.mobilenetv2.get_symbol` gives it. `ctx`,
    which the original's takes, does not matter: no array is made."""
    check_ignored(others)
    net = MobileNetV2(num_classes, multiplier, strides, padding, image_shape, channels, repeats, activation=activation)
    return mx.sym.SoftmaxOutput(net(mx.sym.Variable("data")), name="softmax")

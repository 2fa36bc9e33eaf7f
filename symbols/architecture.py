"""What MobileNetV2 is made of: the paper's table, widened and padded as asked, layer by layer.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018 (arXiv:1801.04381), Table 2.
The Symbol and the Gluon definition both read the result of `architecture()`; nothing else holds the shape of the
network. Names and shapes are those of the published checkpoints of liangfu/mxnet-mobilenet-v2.
"""
import logging
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import NamedTuple

# t: expansion, c: channels, n: repeats, s: stride of the first block
TABLE = (
    # t,  c,   n, s
    (1,  16,  1, 1),
    (6,  24,  2, 2),
    (6,  32,  3, 2),
    (6,  64,  4, 2),
    (6,  96,  3, 1),
    (6,  160, 3, 2),
    (6,  320, 1, 1),
)
FIRST_CHANNELS, LAST_CHANNELS = 32, 1280
CLASSIFIER = ("fc_weight", "fc_bias")  # the parameters that depend on the number of classes
REPEATS = tuple(n for _, _, n, _ in TABLE)
MAX_CHANNELS, MAX_REPEATS = 10_000, 100

# "published": the strides of the table above, behind every published checkpoint.
# "first": those of the first public version, which kept 28x28 maps through the 64-channel stage.
STRIDES = {
    "published": tuple(s for _, _, _, s in TABLE),
    "first": (1, 2, 2, 1, 2, 2, 1),
}
PADDINGS = ("symmetric", "same")
ACTIVATIONS = ("relu6", "relu")

MIN_MULTIPLIER, MAX_MULTIPLIER = 0.1, 2.0
MIN_SIZE = 28  # the last map is then 1x1, as it is up to 32
TOTAL_STRIDE = 32

# what the networks of MXNet's image-classification examples are made by
OTHER_NETWORKS = ("num_layers", "num_group", "conv_workspace", "version", "batch_norm", "alpha", "stride")

Padding = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))


class Unit(NamedTuple):
    """A convolution without bias, BatchNorm and the activation, clip(0, 6) or max(0, x), if there is one."""
    name: str
    in_channels: int
    channels: int
    kernel: int
    stride: int
    groups: int
    padding: Padding
    pad_layer: bool  # the padding is a layer of its own: that of SAME at stride 2, which depends on the image's size
    activation: str | None  # of ACTIVATIONS


class Block(NamedTuple):
    """An inverted residual: expansion, depthwise convolution, linear projection, and the sum if `shortcut`."""
    name: str
    units: tuple[Unit, Unit, Unit]
    shortcut: bool

    @property
    def output(self) -> str:
        """Name of the symbol output that leaves this block."""
        return f"{self.name}-shortcut_output" if self.shortcut else f"{self.units[-1].name}-batchnorm_output"


class Architecture(NamedTuple):
    """The network, layer by layer, from the first convolution to the last before the pooling."""
    first: Unit
    blocks: tuple[Block, ...]
    last: Unit
    features: dict[int, str]  # stride of the feature map -> name of the symbol output that is its deepest map

    @property
    def units(self) -> tuple[Unit, ...]:
        return (self.first, *(unit for block in self.blocks for unit in block.units), self.last)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) as TensorFlow's SAME: ceil(size / stride) outputs, the odd row or column at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def widths(multiplier: float = 1.0) -> tuple:
    """The channels of the first convolution, of the seven stages and of the last convolution."""
    channels = (FIRST_CHANNELS, *(c for _, c, _, _ in TABLE), LAST_CHANNELS)
    *widened, last = (int(round(c * multiplier)) for c in channels)
    return *widened, max(LAST_CHANNELS, last)


def architecture(multiplier: float = 1.0, strides: str = "published", padding: str = "symmetric",
                 image_shape: Sequence[int] | str | None = None, channels: Sequence[int] | None = None,
                 repeats: Sequence[int] | None = None, activation: str = "relu6") -> Architecture:
    """The layers of MobileNetV2.

    Parameters
    ----------
    multiplier : float
        Width multiplier, 0.1 to 2. Widths are `int(round(c * multiplier))`; the last convolution keeps its 1280
        channels below 1 (paper, section 4.1).
    strides : "published" | "first"
        Stride table, see `STRIDES`.
    padding : "symmetric" | "same"
        One pixel on every side of each 3x3 convolution, or TensorFlow's SAME, which depends on the image's size.
    image_shape : (3, height, width) or "3,height,width", optional
        Height and width of 28 or more. Required for padding="same".
    channels : nine ints, optional
        In place of `widths(multiplier)`: those of networks that round otherwise.
    repeats : seven ints, optional
        Blocks of each stage, in place of the table's.
    activation : "relu6" | "relu"
        After all BatchNorms but those of the linear projections: the paper's clip(0, 6), or max(0, x), as other
        repositories' checkpoints have it.

    Raises
    ------
    ValueError
        For any value outside these ranges; the message names the range.
    """
    if not isinstance(multiplier, Real) or not MIN_MULTIPLIER <= multiplier <= MAX_MULTIPLIER:
        raise ValueError(f"multiplier must be from {MIN_MULTIPLIER} to {MAX_MULTIPLIER}, not {multiplier!r}")
    if strides not in tuple(STRIDES):
        raise ValueError(f"strides must be one of {', '.join(STRIDES)}, not {strides!r}")
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, not {padding!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    channels = widths(multiplier) if channels is None else _whole_numbers("channels", channels, 9, MAX_CHANNELS)
    repeats = REPEATS if repeats is None else _whole_numbers("repeats", repeats, len(TABLE), MAX_REPEATS)
    if image_shape is not None:
        image_shape = check_image_shape(image_shape)
    elif padding == "same":
        raise ValueError('padding="same" needs image_shape=(3, height, width): TensorFlow\'s SAME depends on it')

    size = None if image_shape is None else tuple(image_shape[1:])

    def unit(name, in_channels, channels, kernel=1, stride=1, groups=1, activation: str | None = activation):
        nonlocal size
        if padding == "same":
            pads = tuple(_same_padding(n, kernel, stride) for n in size)
            size = tuple(-(-n // stride) for n in size)
        else:
            pads = ((kernel // 2, kernel // 2),) * 2
        return Unit(name, in_channels, channels, kernel, stride, groups, pads, padding == "same" and stride > 1,
                    activation)

    (first_channels, *stage_channels, last_channels) = channels
    first = unit("first-3x3-conv", 3, first_channels, kernel=3, stride=2)
    incoming, stride_so_far, features, blocks = first_channels, 2, {}, []
    for i, ((t, _, _, _), out, n, s) in enumerate(zip(TABLE, stage_channels, repeats, STRIDES[strides])):
        for j in range(n):
            name, stride = f"seq-{i}-block{j}", s if j == 0 else 1
            expanded = incoming * t
            blocks.append(Block(name, (
                unit(f"{name}-exp", incoming, expanded),
                unit(f"{name}-depthwise", expanded, expanded, kernel=3, stride=stride, groups=expanded),
                unit(f"{name}-linear", expanded, out, activation=None),
            ), shortcut=j > 0))
            incoming = out
            stride_so_far *= stride
            features[stride_so_far] = blocks[-1].output
    last = unit("last-1x1-conv", incoming, last_channels)
    del features[2]
    return Architecture(first, tuple(blocks), last, features)


def _whole_numbers(what: str, numbers: Sequence, count: int, most: int) -> tuple:
    numbers = tuple(numbers) if isinstance(numbers, Iterable) else (numbers,)
    if len(numbers) != count or not all(isinstance(n, Integral) and 1 <= int(n) <= most for n in numbers):
        raise ValueError(f"{what} must be {count} whole numbers from 1 to {most}, not {numbers}")
    return numbers


def check_image_shape(image_shape: Sequence[int] | str) -> tuple:
    """(3, height, width), both of 28 or more, of such a sequence or of text such as "3,224,224" (the form of MXNet's
    examples). Raises ValueError for anything else."""
    if isinstance(image_shape, str):
        words = [word.strip() for word in image_shape.split(",")]
        shape: tuple = tuple(int(word) for word in words if word.isascii() and word.isdecimal())
    else:
        shape = tuple(image_shape) if isinstance(image_shape, Iterable) else (image_shape,)
    if len(shape) != 3 or not all(isinstance(n, Integral) for n in shape) or shape[0] != 3 or min(shape[1:]) < MIN_SIZE:
        raise ValueError(f"image_shape must be (3, height, width), both {MIN_SIZE} or more, not {image_shape}")
    return shape


def check_num_classes(num_classes: int) -> None:
    """Raise ValueError unless `num_classes` is a whole number of 1 or more."""
    if not isinstance(num_classes, Integral) or num_classes < 1:
        raise ValueError(f"num_classes must be a whole number of 1 or more, not {num_classes!r}")


def check_ignored(options: dict) -> None:
    """Name, in the log, those of `options`, keywords that `get_symbol` does not know, which make other networks of
    MXNet's examples what they are. Raises TypeError for what is none of theirs, unless the options are all the flags of
    a script, as in `get_symbol(**vars(args))`."""
    named = [f"{name}={options[name]}" for name in OTHER_NETWORKS if options.get(name) is not None]
    if named:
        logging.getLogger(__name__).warning("MobileNetV2 has no %s: left out", ", ".join(named))
    unknown = sorted(set(options) - set(OTHER_NETWORKS))
    if unknown and "network" not in options:
        raise TypeError(f"get_symbol() has no {', '.join(unknown)}")

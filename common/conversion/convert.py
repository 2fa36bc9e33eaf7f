"""Weights of other frameworks' MobileNetV2 as a checkpoint: the same function, under the published names."""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.base.arguments import as_flags
from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, check_numbers
from common.checkpoint.preprocessing import Preprocessing, preprocessing_from
from common.conversion.assemble import (
    EPS,
    Params,
    assembled,
    check_units,
    with_batchnorms,
    with_eps,
    with_expansion,
    without_background,
)
from common.conversion.sources import (
    gluon_params,
    keras_params,
    mxnet_params,
    npz_params,
    onnx_params,
    tflite_params,
    timm_params,
    torchvision_params,
)
from symbols.architecture import MAX_MULTIPLIER, MIN_MULTIPLIER, TABLE

IMAGENET = Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))  # 255 x (0.485, 0.456, ...)
TENSORFLOW = Preprocessing(mean=(127.5,) * 3, std=(127.5,) * 3)  # -1 to 1
# of Preprocessing's fields, for what a file does not say
FLAGS = {"crop": "image-shape", "resize": "resize", "mean": "rgb-mean", "std": "rgb-std"}
BACKGROUND = 1001  # TensorFlow's number of ImageNet classes, with number 0 for everything else

Triple = tuple[float, float, float]


def eight(channels: float) -> int:
    """The multiple of 8 that a width is rounded to: not more than a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class Kind(NamedTuple):
    """The peculiarities of a framework's weights."""
    params: Callable[..., tuple[Params, dict]]  # of common.conversion.sources
    rounding: Callable[[float], int] = eight             # of the widths of a multiplier
    eps: float = EPS                                     # of BatchNorm
    padding: str = "symmetric"
    preprocessing: Preprocessing = IMAGENET
    shortcut_rule: bool = True  # a shortcut wherever stride and width allow it


KINDS = {
    "torchvision": Kind(torchvision_params),
    "timm": Kind(timm_params),
    "keras": Kind(keras_params, lambda width: eight(int(width)), 1e-3, "same", TENSORFLOW),
    "gluon": Kind(gluon_params, int, shortcut_rule=False),
    "tflite": Kind(tflite_params, eight, padding="same", preprocessing=TENSORFLOW, shortcut_rule=False),
    "mxnet": Kind(mxnet_params, round, preprocessing=Preprocessing(), shortcut_rule=False),
    "onnx": Kind(onnx_params, shortcut_rule=False),
    "npz": Kind(npz_params, round, preprocessing=Preprocessing(), shortcut_rule=False),
}


def convert(path: str | Path, kind: str, multiplier: float | None = None, strides: str | None = None,
            padding: str | None = None, activation: str | None = None,
            image_shape: tuple[int, int, int] | None = None, resize: int | None = None, mean: Triple | None = None,
            std: Triple | None = None, keep_background: bool = False, ema: bool = False,
            tell: Callable[[str], None] = lambda line: None) -> Checkpoint:
    """The checkpoint that answers as the network whose weights are in the file `path`, of a `kind` of KINDS.

    `multiplier`: the expected width multiplier of the file. `strides`, `padding`, `activation`: those of an .npz file
    that does not record them. `image_shape` (3, H, W): the crop of images, for which SAME padding is laid out; needed
    for SAME padding if the file does not say it. `resize`: length of the images' shorter side before the crop. `mean`,
    `std`: of their RGB on 0..255. These four go into the checkpoint's preprocessing, in place of what the file says.
    `keep_background`: keep class 0 of the 1,001 that a .tflite file may have. `ema`: the moving average of the weights
    that a checkpoint of PyTorch holds too. `tell` gets a line about each thing that
    is not as in the file, and about all that is assumed since the file does not say it.

    Raises InputError for a file that is damaged, of another network, or cannot be represented exactly.
    """
    how = KINDS[kind]
    if multiplier is not None and not MIN_MULTIPLIER <= multiplier <= MAX_MULTIPLIER:
        raise InputError(f"--multiplier {multiplier:g}: give one from {MIN_MULTIPLIER} to {MAX_MULTIPLIER}")
    if ema and kind not in ("torchvision", "timm"):
        raise InputError("--ema is for checkpoints of torchvision and timm")
    options = {"ema": True} if ema else {"image_shape": image_shape} if kind == "onnx" else {}
    params, description = how.params(path, **options)
    flags = {"strides": strides, "padding": padding, "activation": activation}
    for flag, value in flags.items():
        if value is not None and (kind != "npz" or description.get(flag, value) != value):
            raise InputError(f"--{flag} {value}: it is known for {path}; leave out the flag")
    if keep_background and kind != "tflite":
        raise InputError("--keep-background is for .tflite files")
    check_numbers(params, path)
    params = with_batchnorms(params)
    check_units(params, path)
    usual = {"strides": "published", "padding": how.padding, "activation": "relu6"}
    network = {name: flags[name] or description.get(name, usual[name]) for name in usual}
    params = with_expansion(with_eps(params, how.eps), network["activation"])
    background = (kind == "tflite" and len(params["fc_bias"]) == BACKGROUND and not keep_background
                  and description.get("background", True))
    if background:
        params = without_background(params)
    assumed: dict = {} if kind != "npz" else {name: value for name, value in usual.items()
                                              if not flags[name] and name not in description}
    shape = image_shape or description.get("image_shape")
    if network["padding"] == "same" and not shape:
        raise InputError(f"{path}: does not say the size of its network's images: give --image-shape, as in "
                         "--image-shape 3,224,224")
    said = {**_crop(description.get("image_shape")), **description.get("preprocessing", {})}
    given = {**_crop(image_shape), "resize": resize, "mean": mean, "std": std}
    images = TENSORFLOW if kind == "onnx" and network["padding"] == "same" else how.preprocessing
    preprocessing, unsaid = _preprocessing(images, said, given)
    assumed |= unsaid
    shape = shape or (3, preprocessing.crop, preprocessing.crop)
    checkpoint = assembled(params, network, shape, preprocessing, how.shortcut_rule, path)
    if multiplier is not None:
        _check_multiplier(multiplier, how.rounding, checkpoint.network["channels"], path)
    for note in description.get("notes", ()):
        tell(f"{path}: {note}")
    if assumed:
        tell(f"{path}: does not say all; assumed, as is usual for {kind}: {as_flags(assumed)}; these flags change it")
    if background:
        tell(f"class 0 of the {BACKGROUND:,}, the background, is left out")
    if len(set(shape[1:])) > 1:
        tell(f"the crop recorded is {preprocessing.crop} pixels high and wide: give --image-shape "
             f"{','.join(map(str, shape))} wherever the checkpoint is used")
    return checkpoint


def _crop(image_shape):
    return {"crop": max(image_shape[1:])} if image_shape else {}


def _preprocessing(usual: Preprocessing, said: dict, given: dict) -> tuple[Preprocessing, dict]:
    """(what is `given` by flags, else what the file `said`, else the `usual`; {destination of a flag: value} of what
    neither says). Without a length to resize to, it is in the same proportion to the crop."""
    known = {**said, **{name: value for name, value in given.items() if value is not None}}
    content = {**usual._asdict(), **known}
    if given["resize"] is None:
        proportion = usual._replace(**said) if "resize" in said else usual
        content["resize"] = proportion.resize_for(content["crop"])
    content |= {name: list(content[name]) for name in ("mean", "std")}
    found = preprocessing_from(content, ", ".join(f"--{flag}" for flag in FLAGS.values()))
    values = found._asdict() | {"crop": (3, found.crop, found.crop)}
    return found, {flag: values[name] for name, flag in FLAGS.items() if name not in known}


def _check_multiplier(multiplier, rounding, channels, path):
    found, expected = channels[1:8], tuple(rounding(c * multiplier) for _, c, _, _ in TABLE)
    if found != expected:
        raise InputError(f"{path}: the widths of its stages are {found}; those of multiplier {multiplier:g} would be "
                         f"{expected}")

"""Weights of other frameworks' MobileNetV2 as a checkpoint: the same function, under the published names."""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
    npz_params,
    tflite_params,
    timm_params,
    torchvision_params,
)
from symbols.architecture import MAX_MULTIPLIER, MIN_MULTIPLIER, TABLE

IMAGENET = Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))  # 255 x (0.485, 0.456, ...)
TENSORFLOW = Preprocessing(mean=(127.5,) * 3, std=(127.5,) * 3)  # -1 to 1
BACKGROUND = 1001  # TensorFlow's number of ImageNet classes, with number 0 for everything else


def eight(channels: float) -> int:
    """The multiple of 8 that a width is rounded to: not more than a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class Kind(NamedTuple):
    """The peculiarities of a framework's weights."""
    params: Callable[[str | Path], tuple[Params, dict]]  # of common.conversion.sources
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
    "npz": Kind(npz_params, round, preprocessing=Preprocessing(), shortcut_rule=False),
}


def convert(path: str | Path, kind: str, multiplier: float | None = None, strides: str | None = None,
            padding: str | None = None, image_shape: tuple[int, int, int] | None = None, resize: int | None = None,
            keep_background: bool = False, tell: Callable[[str], None] = lambda line: None) -> Checkpoint:
    """The checkpoint that answers as the network whose weights are in the file `path`, of a `kind` of KINDS.

    `multiplier`: the expected width multiplier of the file. `strides`, `padding`: those of an .npz file that does not
    record them. `image_shape` (3, H, W): the crop of images, for which SAME padding is laid out; needed for SAME
    padding if the file does not say it. `resize`: length of the images' shorter side before the crop. Both go into the
    checkpoint's preprocessing. `keep_background`: keep class 0 of the 1,001 that a .tflite file may have. `tell` gets a
    line about each thing that is not as in the file.

    Raises InputError for a file that is damaged, of another network, or cannot be represented exactly.
    """
    how = KINDS[kind]
    if multiplier is not None and not MIN_MULTIPLIER <= multiplier <= MAX_MULTIPLIER:
        raise InputError(f"--multiplier {multiplier:g}: give one from {MIN_MULTIPLIER} to {MAX_MULTIPLIER}")
    params, description = how.params(path)
    for flag, value in (("strides", strides), ("padding", padding)):
        if value is not None and (kind != "npz" or description.get(flag, value) != value):
            raise InputError(f"--{flag} {value}: it is known for {path}; leave out the flag")
    if keep_background and kind != "tflite":
        raise InputError("--keep-background is for .tflite files")
    check_numbers(params, path)
    params = with_batchnorms(params)
    check_units(params, path)
    activation = description.get("activation", "relu6")
    params = with_expansion(with_eps(params, how.eps), activation)
    background = kind == "tflite" and len(params["fc_bias"]) == BACKGROUND and not keep_background
    if background:
        params = without_background(params)
    padding = padding or description.get("padding", how.padding)
    shape = image_shape or description.get("image_shape")
    if padding == "same" and not shape:
        raise InputError(f"{path}: does not say the size of its network's images: give --image-shape, as in "
                         "--image-shape 3,224,224")
    recorded = description.get("preprocessing")
    preprocessing = _preprocessing(recorded or how.preprocessing, image_shape if recorded else shape, resize)
    shape = shape or (3, preprocessing.crop, preprocessing.crop)
    checkpoint = assembled(params, strides or description.get("strides", "published"), padding, shape, activation,
                           preprocessing, how.shortcut_rule, path)
    if multiplier is not None:
        _check_multiplier(multiplier, how.rounding, checkpoint.network["channels"], path)
    if background:
        tell(f"class 0 of the {BACKGROUND:,}, the background, is left out")
    if len(set(shape[1:])) > 1:
        tell(f"the crop recorded is {preprocessing.crop} pixels high and wide: give --image-shape "
             f"{','.join(map(str, shape))} wherever the checkpoint is used")
    return checkpoint


def _preprocessing(base, image_shape, resize):
    crop = max(image_shape[1:]) if image_shape else base.crop
    content = {**base._asdict(), "crop": crop, "resize": resize or base.resize_for(crop),
               "mean": list(base.mean), "std": list(base.std)}
    return preprocessing_from(content, "--image-shape, --resize")


def _check_multiplier(multiplier, rounding, channels, path):
    found, expected = channels[1:8], tuple(rounding(c * multiplier) for _, c, _, _ in TABLE)
    if found != expected:
        raise InputError(f"{path}: the widths of its stages are {found}; those of multiplier {multiplier:g} would be "
                         f"{expected}")

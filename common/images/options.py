"""The flags that say how images are prepared, and what a checkpoint's own file says if they are not given."""
import argparse
import os
from collections.abc import Callable
from pathlib import Path

from common.base.arguments import as_flag, as_flags, numbers, ratio, whole_numbers
from common.base.errors import InputError
from common.checkpoint.foreign import converts
from common.checkpoint.params import checkpoint_files
from common.checkpoint.preprocessing import (
    Preprocessing,
    load_preprocessing,
    preprocessing_file,
    preprocessing_from,
)
from symbols.architecture import check_image_shape


def image_shape(text: str) -> tuple:
    """ "3,224,224" as (3, 224, 224)."""
    try:
        return check_image_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give 3,height,width as in 3,224,224 ({error})") from None


PREPROCESSING = (
    ("image-shape", image_shape, "input of the network"),
    ("crop-ratio", ratio, "side of the centre crop over the shorter side of the image it is cut from"),
    ("rgb-mean", numbers(3), "subtracted from the image, whose values are 0 to 255"),
    ("rgb-std", numbers(3, positive=True), "the image is divided by it"),
)
# as training takes them: other networks have other images
TYPES = {flag.replace("-", "_"): whole_numbers(3) if kind is image_shape else kind for flag, kind, _ in PREPROCESSING}


def options_of(preprocessing: Preprocessing) -> dict:
    """{destination: value} of these flags."""
    return {"image_shape": (3, preprocessing.crop, preprocessing.crop),
            "crop_ratio": preprocessing.crop / preprocessing.resize,
            "rgb_mean": preprocessing.mean, "rgb_std": preprocessing.std}


USUAL = options_of(Preprocessing())


def add_preprocessing_args(group: argparse._ActionsContainer, owner: str) -> None:
    """`owner`: the option that names the checkpoint whose file says what is not given."""
    for flag, kind, text in PREPROCESSING:
        group.add_argument(f"--{flag}", type=kind, help=f"{text} (default: as in PREFIX-preprocess.json of {owner}, "
                           f"else {as_flag(USUAL[flag.replace('-', '_')])})")


def add_preprocessing_texts(group: argparse._ActionsContainer) -> None:
    """The same flags for training, whose lists stay text with commas between, as in MXNet's examples."""
    for flag, _, text in PREPROCESSING:
        kind, usual = TYPES[flag.replace("-", "_")], USUAL[flag.replace("-", "_")]
        lists = isinstance(usual, tuple)
        group.add_argument(f"--{flag}", type=_checked_by(kind) if lists else kind,
                           default=as_flag(usual) if lists else usual,
                           help=f"{text} (default: as in PREFIX-preprocess.json of --pretrained-model, else "
                                "%(default)s)")


def _checked_by(kind: Callable) -> Callable:
    """A type that leaves the text that `kind` can read as it is."""
    def checked(text: str) -> str:
        kind(text)
        return text
    return checked


def as_values(settings: dict) -> dict:
    """{destination: value} in which those of these flags that are text are numbers. Raises InputError."""
    try:
        return {name: TYPES[name](value) if name in TYPES and isinstance(value, str) else value
                for name, value in settings.items()}
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error)) from None


def as_texts(settings: dict) -> dict:
    """The reverse: the lists of these flags are text."""
    return {name: as_flag(value) if name in TYPES and isinstance(value, (tuple, list)) else value
            for name, value in settings.items()}


def saved_options(prefix: str | Path) -> dict:
    """As `options_of`, of PREFIX-preprocess.json; the usual ones if there is no such file."""
    return options_of(load_preprocessing(prefix))


def completed(args: argparse.Namespace, prefix: str | Path) -> argparse.Namespace:
    """`args` in which these flags, if they are not given, are as the checkpoint PREFIX says; `assumed` is a line for
    the user about a checkpoint of another repository that does not say it, else empty."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    unknown = {name: value for name, value in USUAL.items() if name not in given}
    command = converts(checkpoint_files(prefix, args.epoch)[1])  # if it is of other names than this repository's
    assumed = ""
    if command and unknown and not os.path.exists(preprocessing_file(prefix)):
        assumed = (f"warning: no {preprocessing_file(prefix)} says how images are prepared; assuming "
                   f"{as_flags(unknown)}{command}, and writes that file")
    return argparse.Namespace(**{**vars(args), **saved_options(prefix), **given, "assumed": assumed})


def preprocessing_of(args: argparse.Namespace) -> Preprocessing:
    """What these flags ask for; for an image that is not square `crop` is its longer side. Raises InputError for what a
    file may not say either."""
    crop = max(args.image_shape[1:])
    # the inner rounding removes what the division of the file's integers has added
    resize = round(round(crop / args.crop_ratio, 6))
    return preprocessing_from({"resize": resize, "crop": crop, "mean": list(args.rgb_mean), "std": list(args.rgb_std)},
                              "--image-shape, --crop-ratio, --rgb-mean, --rgb-std")

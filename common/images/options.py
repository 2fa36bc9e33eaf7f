"""The flags that say how images are prepared, and what a checkpoint's own file says where they are not given."""
import argparse
from pathlib import Path

from common.base.arguments import image_shape, numbers, ratio
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, preprocessing_from

PREPROCESSING = (
    ("image-shape", image_shape, "input of the network"),
    ("crop-ratio", ratio, "side of the centre crop over the shorter side of the image it is cut from"),
    ("rgb-mean", numbers(3), "subtracted from the image, whose values are 0 to 255"),
    ("rgb-std", numbers(3, positive=True), "the image is divided by it"),
)


def options_of(preprocessing: Preprocessing) -> dict:
    """{destination: value} of these flags."""
    return {"image_shape": (3, preprocessing.crop, preprocessing.crop),
            "crop_ratio": preprocessing.crop / preprocessing.resize,
            "rgb_mean": preprocessing.mean, "rgb_std": preprocessing.std}


USUAL = options_of(Preprocessing())


def add_preprocessing_args(group: argparse._ActionsContainer, owner: str) -> None:
    """`owner`: the option that names the checkpoint whose file says what is not given."""
    for (flag, kind, text), usual in zip(PREPROCESSING, USUAL.values()):
        usual = ",".join(map(str, usual)) if isinstance(usual, tuple) else usual
        group.add_argument(f"--{flag}", type=kind, help=f"{text} (default: what PREFIX-preprocess.json of {owner} "
                           f"says, else {usual})")


def saved_options(prefix: str | Path) -> dict:
    """As `options_of`, of PREFIX-preprocess.json; the usual ones where there is no such file."""
    return options_of(load_preprocessing(prefix))


def completed(args: argparse.Namespace, prefix: str | Path) -> argparse.Namespace:
    """`args` in which these flags, where they are not given, are as the checkpoint PREFIX says."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    return argparse.Namespace(**{**vars(args), **saved_options(prefix), **given})


def preprocessing_of(args: argparse.Namespace) -> Preprocessing:
    """What these flags ask for; for an image that is not square `crop` is its longer side. Raises InputError for what a
    file may not say either."""
    crop = max(args.image_shape[1:])
    # the inner rounding removes what the division of the file's whole numbers has added
    resize = round(round(crop / args.crop_ratio, 6))
    return preprocessing_from({"resize": resize, "crop": crop, "mean": list(args.rgb_mean), "std": list(args.rgb_std)},
                              "--image-shape, --crop-ratio, --rgb-mean, --rgb-std")

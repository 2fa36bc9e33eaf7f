"""PREFIX-preprocess.json: what is done to an image before the network of a checkpoint sees it.

    {"resize": 256, "crop": 224, "mean": [123.68, 116.78, 103.94], "std": [1, 1, 1]}

Shorter side to `resize`, centre crop of `crop`, RGB on 0..255, x = (pixel - mean) / std. Without the file this is
the default.
"""
import json
import math
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

from common.base.errors import InputError
from common.base.files import read_json, written_atomically
from symbols.architecture import MIN_SIZE

MAX_SIZE = 4096  # pixels of an image's shorter side: less than a gigabyte to normalise
MIN_STD = 1e-6  # smaller ones may be 0 in float32


class Preprocessing(NamedTuple):
    """What is done to a photograph: its shorter side becomes `resize` pixels, a square of `crop` is cut out of its
    middle, and x = (pixel - mean) / std, RGB on 0..255."""
    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def resize_for(self, crop: int) -> int:
        """Length of the shorter side before a centre crop of `crop` pixels, in the same proportion.

        Raises InputError for more than MAX_SIZE.
        """
        length = round(crop * self.resize / self.crop)
        if length > MAX_SIZE:
            raise InputError(f"resize {self.resize} before a crop of {self.crop} pixels makes {length} before one of "
                             f"{crop}; {MAX_SIZE} at most")
        return length


def preprocessing_file(prefix: str | Path) -> str:
    """PREFIX-preprocess.json."""
    return f"{prefix}-preprocess.json"


def load_preprocessing(prefix: str | Path) -> Preprocessing:
    """That of a checkpoint. Raises InputError for a file with any other content."""
    path = preprocessing_file(prefix)
    try:
        content = read_json(path)
    except FileNotFoundError:
        return Preprocessing()
    return preprocessing_from(content, path)


def preprocessing_from(content: object, source: str | Path) -> Preprocessing:
    """That of a dict, as JSON gives it; an InputError names `source`."""
    if not isinstance(content, dict) or set(content) != set(Preprocessing._fields):
        raise InputError(f"{source}: give {', '.join(Preprocessing._fields)}, and no more")
    for key in ("resize", "crop"):
        if not _is(Integral, content[key]) or not MIN_SIZE <= content[key] <= MAX_SIZE:
            raise InputError(f"{source}: {key}: give a number of pixels from {MIN_SIZE} to {MAX_SIZE}")
    if content["resize"] < content["crop"]:
        raise InputError(f"{source}: resize {content['resize']} is less than crop {content['crop']}")
    for key in ("mean", "std"):
        numbers = content[key]
        if not isinstance(numbers, list) or len(numbers) != 3 or not all(map(_is_finite, numbers)) \
                or key == "std" and min(numbers) < MIN_STD:
            least = f" of {MIN_STD:g} or more" if key == "std" else ""
            raise InputError(f"{source}: {key}: give three numbers{least}, as in {list(getattr(Preprocessing(), key))}")
        content[key] = tuple(map(float, numbers))
    return Preprocessing(**content)


def _is(kind, value):
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_finite(value):
    return _is(Real, value) and abs(value) < 1e30 and math.isfinite(value)


def preprocessing_json(preprocessing: Preprocessing) -> str:
    return json.dumps(preprocessing._asdict()) + "\n"


def save_preprocessing(prefix: str | Path, preprocessing: Preprocessing) -> None:
    """Write PREFIX-preprocess.json, atomically."""
    with written_atomically(preprocessing_file(prefix)) as partial:
        Path(partial).write_text(preprocessing_json(preprocessing), encoding="utf-8")

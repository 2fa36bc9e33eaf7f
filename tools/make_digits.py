#!/usr/bin/env python
"""The demo's data: scikit-learn's 1,797 handwritten digits in ImageNet's folder form and in RecordIO. Example:

    python tools/make_digits.py demo

It writes demo/images/{train,val}/<class>/*.jpg, and packs them in demo/.
"""
import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser
from common.base.errors import reported
from common.base.files import named_in_errors, written_atomically
from common.packing.prepare import prepare

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CROP = 48
PACKED = round(CROP * 480 / 224)  # ImageNet: packed with a shorter side of 480 pixels for crops of 224
ENLARGED = 16  # the digits are 8x8 pixels
HELD_OUT = 5   # every fifth image of a class


def class_name(digit: int) -> str:
    return f"digit{digit} {NAMES[digit]}"


def write_images(folder: Path) -> None:
    """8-bit grey JPEGs, 128 pixels square: folder/{train,val}/digit7/0123.jpg, with scikit-learn's number."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    seen = [0] * 10
    for i, (image, digit) in enumerate(zip(digits.images, digits.target)):
        part = "val" if seen[digit] % HELD_OUT == 0 else "train"
        seen[digit] += 1
        path = folder / part / class_name(digit).split()[0] / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = cv2.resize((image * (255 / 16)).astype(np.float32), None, fx=ENLARGED, fy=ENLARGED,
                          interpolation=cv2.INTER_CUBIC)
        encoded = cv2.imencode(".jpg", np.clip(grey, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        with named_in_errors(path):
            path.write_bytes(encoded.tobytes())


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", default="demo", help="folder to write to")
    return parser


def main(args: argparse.Namespace) -> None:
    out = Path(args.out)
    write_images(out / "images")
    prepare(out / "images", out, short_side=PACKED, any_count=True)
    with written_atomically(out / "synset.txt") as partial:
        Path(partial).write_text("".join(f"{class_name(digit)}\n" for digit in range(10)))


if __name__ == "__main__":
    with reported("make_digits.py"):
        main(get_args_parser().parse_args())

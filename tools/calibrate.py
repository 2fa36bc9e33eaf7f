#!/usr/bin/env python
"""Measure what a checkpoint's layers see of real images, for --precision int8. MXNet is not needed. Examples:

    python tools/calibrate.py models/mobilenetv2 --epoch 235 --images ~/imagenet/train.rec
    python tools/calibrate.py models/mobilenetv2 --epoch 235 --images photographs/

The network runs in float32 on some of the images, prepared as PREFIX-preprocess.json says. The result is
PREFIX-0235-int8.json. Give images of the kind that the network will classify, but not those it is scored on.
"""
import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import check_no_file_name, files_read
from common.images.options import add_preprocessing_args, completed, preprocessing_of
from common.images.recordio import files_of

if TYPE_CHECKING:
    import numpy as np


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("prefix", metavar="PREFIX", help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    images = parser.add_argument_group("images")
    images.add_argument("--images", required=True, metavar="DIR|REC", help="folder with images, or RecordIO file")
    images.add_argument("--count", type=positive, default=256, help="how many of them, chosen at random")
    images.add_argument("--seed", type=not_negative, default=0, help="seed of that choice")
    add_preprocessing_args(parser.add_argument_group("how they are prepared"), "PREFIX")
    return parser


def main(args: argparse.Namespace) -> None:
    check_no_file_name(args.prefix, "PREFIX")
    check_not_overwritten(args)
    args = completed(args, args.prefix)
    from common.checkpoint.int8 import calibration_file, save_calibration
    from common.checkpoint.params import checkpoint_files
    from common.compiler.build import compiled_by_tvm
    from common.compiler.calibration import measure
    from common.compiler.relay_network import load_network

    network = load_network(args.prefix, args.epoch, (1, *args.image_shape))
    chosen = chosen_images(args)
    print("compiling for llvm, about ten seconds", file=sys.stderr)
    with compiled_by_tvm(checkpoint_files(args.prefix, args.epoch)[0], "llvm"):
        statistics, count = measure(network, prepared(chosen, args))
    if not count:
        raise InputError(f"{args.images}: none of the images could be read")
    save_calibration(args.prefix, args.epoch, statistics, count)
    print(f"{calibration_file(args.prefix, args.epoch)}: {len(statistics)} layers, from {count} images")


def check_not_overwritten(args: argparse.Namespace) -> None:
    """Raise InputError if the file to write is read here."""
    from common.checkpoint.int8 import calibration_file
    from common.inference.classify import images_in

    out = calibration_file(args.prefix, args.epoch)
    check_not_read(out, *(file for file in files_read(args.prefix, args.epoch) if file != out),
                   *(images_in([args.images]) if Path(args.images).is_dir() else files_of(args.images)))


def chosen_images(args: argparse.Namespace) -> list:
    """(name, function that returns the image as common.images.preprocess.read_image does) of some of --images."""
    def choose(found):
        if not found:
            raise InputError(f"{args.images}: no images there")
        return random.Random(args.seed).sample(found, min(args.count, len(found)))

    if Path(args.images).is_dir():
        from common.images.preprocess import read_image
        from common.inference.classify import images_in

        return [(name, lambda name=name: read_image(name)) for name in choose(list(images_in([args.images])))]
    return records(args.images, choose)


def records(rec: str, choose: "Callable[[list], list]") -> list:
    """As `chosen_images`, from a RecordIO file."""
    from common.images.decoding import decode
    from common.images.recordio import check_records, read_records, record_offsets
    from common.packing.inspection import split

    def image(offset):
        return decode(split(rec, *next(read_records(rec, offset)))[2], upright=False)

    idx, _ = check_records(rec)
    return [(f"{rec} at byte {offset}", lambda offset=offset: image(offset))
            for offset in choose(record_offsets(rec, idx).tolist())]


def prepared(images: "list[tuple[str, Callable[[], np.ndarray]]]",
             args: argparse.Namespace) -> "Iterator[np.ndarray]":
    """The images that can be read, as the network takes them. A warning is printed for each of the others."""
    from tqdm import tqdm

    from common.images.preprocess import preprocess

    for name, read in tqdm(images, unit=" images", disable=None, dynamic_ncols=True):
        try:
            data = preprocess(read(), args.image_shape, preprocessing_of(args))
        except InputError as error:
            reason = str(error).removeprefix(f"{name}: ")
            print(f"warning: {name}: {reason}; left out", file=sys.stderr)
        else:
            yield data


if __name__ == "__main__":
    arguments = get_args_parser().parse_args()
    with reported("calibrate.py"):
        main(arguments)

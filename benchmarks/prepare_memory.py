#!/usr/bin/env python
"""Peak memory of tools/prepare_imagenet.py for few and for many images, in folders and in an archive. Example:

    python benchmarks/prepare_memory.py --out benchmarks/prepare_memory.csv

The images are those of benchmarks/crops.py, again and again under other names.
"""
import argparse
import os
import statistics
import sys
import tempfile
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.crops import write_photographs
from benchmarks.prepare import costs, write_archive
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, positive
from common.base.errors import reported


def linked(folder: Path, out: Path, size: float) -> int:
    """At least `size` bytes of the images in `folder`, by links; returns their number."""
    photographs, number = cycle(sorted(folder.glob("train/*/*"))), 0
    while size > 0:
        path = next(photographs)
        link = out / path.relative_to(folder).with_stem(f"{path.stem}-{number}")
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)
        size -= path.stat().st_size
        number += 1
    return number


def main(args: argparse.Namespace) -> None:
    rows, first = [], {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        photographs = Path(scratch) / "photographs"
        write_photographs(photographs / "train", args.photographs)
        for megabytes in args.megabytes:
            folder, archive = Path(scratch) / f"folder{megabytes}", Path(scratch) / f"archive{megabytes}"
            images = linked(photographs, folder, megabytes * 1e6)
            write_archive(folder, archive)
            for way, source in (("folders", folder), ("archive", archive)):
                peaks = []
                for _ in range(args.rounds):
                    with tempfile.TemporaryDirectory(dir=scratch) as out:
                        peaks.append(costs(source, Path(out) / "out")[1])
                median = statistics.median(peaks)
                rows.append({"source": way, "megabytes": megabytes, "images": images, "runs": len(peaks),
                             "peak_mib": f"{median:.1f}", "min": f"{min(peaks):.1f}", "max": f"{max(peaks):.1f}",
                             "ratio_to_first": f"{median / first.setdefault(way, median):.3f}", **machine()})
                print(rows[-1], flush=True)
    write_csv(args.out, rows)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=positive, default=500, help="number of different ones")
    parser.add_argument("--megabytes", type=positive, nargs="+", default=[200, 2000], help="of images")
    parser.add_argument("--rounds", type=positive, default=3, help="runs of each")
    parser.add_argument("--scratch", help="folder for temporary files")
    parser.add_argument("--out", type=output, default="benchmarks/prepare_memory.csv", help="CSV file to write")
    with reported("prepare_memory.py"):
        main(parser.parse_args())

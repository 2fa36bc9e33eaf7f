#!/usr/bin/env python
"""Images/s of what feeds training: this repository's, ImageRecordIter, PyTorch's DataLoader, NVIDIA DALI. Example:

    python benchmarks/input.py

The images are those of benchmarks/crops.py, packed with a shorter side of 480 pixels; each is scaled by 0.533 to
1, cropped to 224, mirrored, changed in colour, and its mean subtracted. DataLoader and DALI have changes of colour of
their own, not those of the others; the DataLoader reads the same JPEGs from files. --auto-augment and its like are
added in rows of their own. "Decoding alone" is the bound: whole images, nothing done to them. "Its Python alone" has
libraries that do nothing: of that one thread runs at a time, so that it is a bound for any number of cores. Each
contender is a process of its own, held on one core, then on two, and so on, with as many threads. In each round every
one has a turn, in random order, that begins when the one before it rests: a pass that is not counted, then passes for
some seconds. Medians are those of all passes, ratios those of the rounds' medians; of_bound is that to the faster
decoder.

DALI (424 MB) comes by `.venv-converters/bin/pip install nvidia-dali-cuda120==2.4.0`, the rest as for
benchmarks/training.py.
"""
import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contender import Contender, add_contender_args, pythons, turns
from benchmarks.crops import CLASSES, write_photographs
from benchmarks.input_runners import RUNNERS
from benchmarks.results import machine, output, whole_batches, write_csv
from common.base.arguments import ArgumentParser, positive
from common.base.errors import reported

BOUNDS, BASE = ("decode", "decode-cv2"), "mxnet"


def pack(folder: str | Path, count: int) -> dict:
    """The files of a request: RecordIO as tools/prepare_imagenet.py --enlarge packs it, and the same JPEGs."""
    from common.images.recordio import image_record
    from common.packing.jpeg import to_jpeg

    folder = Path(folder)
    write_photographs(folder / "photographs", count)
    (folder / "jpegs").mkdir()
    with open(folder / "train.rec", "wb") as records, open(folder / "train.idx", "w") as index:
        for number, path in enumerate(sorted((folder / "photographs").glob("*/*"))):
            jpeg = to_jpeg(path.read_bytes(), 480, 95, enlarge=True)
            index.write(f"{number}\t{records.tell()}\n")
            records.write(image_record(number % CLASSES, number, jpeg))
            (folder / "jpegs" / path.name).write_bytes(jpeg)
    return {"rec": str(folder / "train.rec"), "idx": str(folder / "train.idx"), "folder": str(folder / "jpegs"),
            "images": count, "classes": CLASSES}


def measured(args: argparse.Namespace, cores: int, request: dict, scratch: str) -> dict:
    """{name: (lists of the seconds of passes, of each round; what it says of itself)}"""
    times = {name: [] for name in args.pythons}
    request = {**request, "cores": cores, "batch_size": args.batch_size}
    with ExitStack() as stack:
        contenders = []
        for name, python in args.pythons.items():
            contenders.append(Contender("benchmarks.input_runners", name, python, request, scratch))
            stack.callback(contenders[-1].close)
        for contender in turns(contenders, args.rounds, cores, f"{cores} cores"):
            times[contender.name].append(contender.turn(0, args.seconds)[0])
        return {contender.name: (times[contender.name], contender.ask({"do": "answer"})) for contender in contenders}


def rows_of(args: argparse.Namespace, cores: int,
            found: dict[str, tuple[list[list[float]], dict]]) -> Iterator[dict]:
    medians = {name: np.array([statistics.median(turn) for turn in times]) for name, (times, _) in found.items()}
    bounds = [medians[name] for name in BOUNDS if name in medians]
    for name, (times, about) in found.items():
        low, median, high = np.quantile(sum(times, []), (0.25, 0.5, 0.75))

        def ratio(other, ours=medians[name]):
            return f"{np.median(other / ours):.2f}"
        yield {"used_cores": cores, "contender": RUNNERS[name].label, "images_per_s": f"{args.images / median:.0f}",
               "images_per_s_q1": f"{args.images / high:.0f}", "images_per_s_q3": f"{args.images / low:.0f}",
               "of_bound": ratio(np.min(bounds, axis=0)) if bounds else "",
               "times_image_record_iter": ratio(medians[BASE]) if BASE in medians else "",
               "peak_mib": f"{about['found']:.0f}", "images": args.images, "batch": args.batch_size,
               "passes": sum(map(len, times)), "rounds": args.rounds, "setting": about["setting"],
               "versions": about["versions"], **machine()}


def main(args: argparse.Namespace) -> None:
    args.pythons = pythons(args, RUNNERS)
    args.images = whole_batches(args.images, args.batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        request = pack(scratch, args.images)
        rows = [row for cores in args.cores for row in rows_of(args, cores, measured(args, cores, request, scratch))]
    for row in rows:
        print(*(row[name] for name in ("used_cores", "contender", "images_per_s", "of_bound",
                                       "times_image_record_iter", "peak_mib")), sep="\t")
    write_csv(args.out, rows)


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    add_contender_args(parser, RUNNERS)
    parser.add_argument("--cores", type=positive, nargs="+", default=sorted({1, machine()["cores"]}),
                        help="how many of this machine's cores are used")
    parser.add_argument("--images", type=positive, default=640, help="images of a pass")
    parser.add_argument("--batch-size", type=positive, default=32, help="images in a batch")
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each")
    parser.add_argument("--seconds", type=positive, default=2, help="in which the passes of a turn begin")
    parser.add_argument("--out", type=output, default="benchmarks/input.csv", help="CSV file to write")
    return parser


if __name__ == "__main__":
    with reported("input.py"):
        main(get_args_parser().parse_args())

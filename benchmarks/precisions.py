#!/usr/bin/env python
"""What a network loses and gains in float16 and int8, beside float32: answers, time and size. Examples:

    python benchmarks/precisions.py --model-prefix demo/digits --epoch 32 --images demo/val.rec --labels
    python benchmarks/precisions.py --model-prefix models/mobilenetv2 --epoch 0 --images photographs/ --append

The networks answer in turns, an image each, on one device after the other; tools/calibrate.py has to come first.
"""
import argparse
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import files_read
from common.images.options import add_preprocessing_args, completed, preprocessing_of
from common.images.recordio import files_of

if TYPE_CHECKING:
    from common.inference.network import CompiledNetwork


def main(args: argparse.Namespace) -> None:
    from common.inference.classify import images_in
    from common.inference.weights import params_bytes

    check_not_read(args.out, *files_read(args.model_prefix, args.epoch),
                   *(images_in([args.images]) if Path(args.images).is_dir() else files_of(args.images)))
    args = completed(args, args.model_prefix)
    images, labels = read_images(args)
    rows = []
    for target in args.targets:
        networks = open_networks(args, target)
        answers, seconds = run(networks, images, args.rounds)
        base = answers["float32"]
        for precision, network in networks.items():
            difference = np.abs(answers[precision] - base)
            first = answers[precision].argmax(axis=1)
            rows.append({
                "checkpoint": Path(args.model_prefix).name, "input": "x".join(map(str, args.image_shape)),
                "target": target, "precision": precision, "images": len(images),
                "top_1": f"{(first == labels).mean():.4f}" if args.labels else "",
                "same_first_answer": f"{(first == base.argmax(axis=1)).mean():.4f}",
                "mean_difference": f"{difference.mean():.1e}", "max_difference": f"{difference.max():.1e}",
                "median_ms": f"{statistics.median(seconds[precision]) * 1e3:.2f}",
                "min_ms": f"{min(seconds[precision]) * 1e3:.2f}",
                "times_float32": f"{statistics.median(seconds[precision]) / statistics.median(seconds['float32']):.2f}",
                "params_kb": f"{len(params_bytes(network.folder, network.params)) / 1e3:.0f}",
                "records": network.records or "", **machine(), "tvm": version("xtc-tvm-python-bindings")})
            print(rows[-1], flush=True)
    write_csv(args.out, rows, args.append)


def read_images(args: argparse.Namespace) -> tuple:
    """(list of network inputs, labels (n,)) of all --images."""
    from common.images.decoding import decode
    from common.images.preprocess import preprocess, read_image
    from common.images.recordio import read_records
    from common.inference.classify import images_in
    from common.packing.inspection import split

    if Path(args.images).is_dir():
        if args.labels:
            raise InputError("--labels: a folder has none, only a RecordIO file")
        found: list[tuple[float, np.ndarray]] = [(0, read_image(name)) for name in images_in([args.images])]
    else:
        records = (split(args.images, *record) for record in read_records(args.images))
        found = [(label, decode(encoded, upright=False)) for _, label, encoded in records]
    if not found:
        raise InputError(f"{args.images}: no images there")
    labels, images = zip(*found)
    return [preprocess(image, args.image_shape, preprocessing_of(args)) for image in images], np.array(labels)


def open_networks(args: argparse.Namespace, target: str) -> dict:
    """{precision: CompiledNetwork} of those that the device can compute in."""
    from common.inference.choices import PRECISIONS
    from common.inference.network import open_network

    networks = {}
    for precision in PRECISIONS:
        try:
            networks[precision] = open_network(args.model_prefix, args.epoch, (1, *args.image_shape), target, precision)
        except InputError as error:
            if precision != "float16":
                raise
            print(f"{target}: left out: {error}", file=sys.stderr)
    return networks


def run(networks: "dict[str, CompiledNetwork]", images: list[np.ndarray], rounds: int) -> tuple:
    """({precision: probabilities (n, classes)}, {precision: seconds of each image in each round}), after one round that
    is not timed."""
    answers = {precision: [] for precision in networks}
    seconds = {precision: [] for precision in networks}
    for turn in range(1 + rounds):
        for image in images:
            for precision, network in networks.items():
                start = time.perf_counter()
                probabilities = network.predict(image)
                if turn:
                    seconds[precision].append(time.perf_counter() - start)
                else:
                    answers[precision].append(probabilities)
    return {precision: np.concatenate(rows) for precision, rows in answers.items()}, seconds


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, required=True, help="number of PREFIX-%%04d.params")
    parser.add_argument("--images", required=True, help="folder with images, or RecordIO file")
    parser.add_argument("--labels", action="store_true", help="count right answers by the labels of the RecordIO file")
    parser.add_argument("--targets", nargs="+", default=["llvm", "opencl"], help="TVM targets")
    parser.add_argument("--rounds", type=positive, default=3, help="times that each image is answered, and timed")
    parser.add_argument("--out", type=output, default="benchmarks/precisions.csv", help="CSV file to write")
    parser.add_argument("--append", action="store_true", help="keep the rows that it has")
    add_preprocessing_args(parser, "--model-prefix")
    arguments = parser.parse_args()
    with reported("precisions.py"):
        main(arguments)

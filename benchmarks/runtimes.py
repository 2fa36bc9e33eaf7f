#!/usr/bin/env python
"""The files of tools/export_weights.py in the runtimes that take them, against MXNet on photographs. Examples:

    python benchmarks/runtimes.py --model-prefix models/imagenet1k-mnetv2-1_0 --images photographs/
    python benchmarks/runtimes.py --model-prefix demo/digits --epoch 32 --images digits --python RUNTIMES/bin/python

--python names that of a virtual environment with what requirements-runtimes.txt lists; what is not installed there is
left out, in a line. int8 needs tools/calibrate.py first.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from benchmarks.runtime_runners import RUNTIMES
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import files_read
from common.images.options import add_preprocessing_args, completed, preprocessing_of

GRAPH = ("--image-shape", "{shape}")
EXPORTS = {  # file in the scratch folder, and flags of tools/export_weights.py
    "onnx": ("network.onnx", "--to", "onnx", *GRAPH),
    "onnx-int8": ("network-int8.onnx", "--to", "onnx", *GRAPH, "--precision", "int8"),
    "tflite": ("network.tflite", "--to", "tflite", *GRAPH),
    "tflite-float16": ("network-float16.tflite", "--to", "tflite", *GRAPH, "--precision", "float16"),
    "tflite-int8": ("network-int8.tflite", "--to", "tflite", *GRAPH, "--precision", "int8"),
    "torchvision": ("torchvision.safetensors", "--to", "torchvision"),
    "timm": ("timm", "--to", "timm"),
}


def main(args: argparse.Namespace) -> None:
    from common.evaluation.score import predict
    from common.images.preprocess import preprocess, read_image
    from common.inference.classify import images_in

    paths = sorted(images_in([args.images]))[::args.every][:args.count]
    check_not_read(args.out, *files_read(args.model_prefix, args.epoch), *paths)
    if not paths:
        raise InputError(f"{args.images}: no images there")
    args = completed(args, args.model_prefix)
    images = np.concatenate([preprocess(read_image(path), args.image_shape, preprocessing_of(args)) for path in paths])
    expected = np.concatenate([predict(args.model_prefix, args.epoch, image[np.newaxis]) for image in images])
    rows = []
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        np.save(f"{folder}/images.npy", images)
        for form, (file, *flags) in EXPORTS.items():
            try:
                output_of("tools/export_weights.py", Path(args.model_prefix).resolve(), f"{folder}/{file}", "--epoch",
                          args.epoch, *(flag.format(shape=",".join(map(str, args.image_shape))) for flag in flags))
            except InputError as error:
                print(f"{form}: left out: {error}", file=sys.stderr)
                continue
            for name, runtime in RUNTIMES.items():
                if form not in runtime.formats:
                    continue
                try:
                    versions, found = answers(args.python, name, folder, file)
                except InputError as error:
                    print(f"{form} in {runtime.label}: left out: {error}", file=sys.stderr)
                    continue
                rows.append({
                    "format": form, "runtime": runtime.label, "max_difference": f"{np.abs(found - expected).max():.1e}",
                    "same_first_answer": f"{(found.argmax(axis=1) == expected.argmax(axis=1)).mean():.4f}",
                    "photographs": len(images), "checkpoint": Path(args.model_prefix).name, "versions": versions,
                    **machine()})
                print(rows[-1], flush=True)
    if not rows:
        raise InputError(f"--python {args.python}: has none of the runtimes: install requirements-runtimes.txt in a "
                         "virtual environment")
    write_csv(args.out, rows)


def answers(python: str, name: str, folder: str, file: str) -> tuple[str, np.ndarray]:
    """(versions, probabilities (N, classes)) of a runtime on `folder`/images.npy. Raises InputError where it fails."""
    said = output_of("-m", "benchmarks.runtime_runners", name, f"{folder}/{file}", f"{folder}/images.npy",
                     f"{folder}/answers.npy", python=python)
    return said.splitlines()[-1], np.load(f"{folder}/answers.npy")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--images", required=True, help="folder with photographs")
    parser.add_argument("--count", type=positive, default=20, help="how many of them, at most")
    parser.add_argument("--every", type=positive, default=1, help="take each so many-th, by name")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the runtimes")
    parser.add_argument("--out", type=output, default="benchmarks/runtimes.csv", help="CSV file to write")
    add_preprocessing_args(parser, "--model-prefix")
    arguments = parser.parse_args()
    with reported("runtimes.py"):
        main(arguments)

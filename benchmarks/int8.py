#!/usr/bin/env python
"""Right answers in 8-bit integers, by TVM, ONNX and TFLite, beside float32 and others' quantisers. Examples:

    python benchmarks/int8.py --model-prefix models/flowers --epoch 9 --calibration train/ --images val/
    python benchmarks/int8.py --model-prefix models/mobilenetv2 --calibration train/ --images val/ --synset synset.txt

A folder of --images and --calibration has a folder of photographs for each class, named by the first word of the class
in --synset. All quantisers see the same photographs, as many of --calibration as tools/calibrate.py takes. --python
names that of a virtual environment with what requirements-runtimes.txt lists; what is not installed there is left out,
in a line.
"""
import argparse
import math
import random
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from benchmarks.runtimes import answers
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import files_read
from common.images.class_names import names_file, read_names
from common.images.options import add_preprocessing_args, completed, preprocessing_of

CERTAINTY = 1.96  # standard deviations: 95 %
EXPORTS = (  # file, and flags of tools/export_weights.py
    ("float32.onnx", "--to", "onnx", "--fold"),
    ("int8.onnx", "--to", "onnx", "--precision", "int8"),
    ("int8.tflite", "--to", "tflite", "--precision", "int8"),
)
WAYS = {  # row: (of benchmarks.quantizers or None, of benchmarks.runtime_runners, file)
    "float32": (None, "onnxruntime", "float32.onnx"),
    "int8 by ONNX": (None, "onnxruntime", "int8.onnx"),
    "int8 by TFLite": (None, "litert", "int8.tflite"),
    "ONNX Runtime's quantiser": ("onnxruntime", "onnxruntime", "static.onnx"),
    "OpenVINO's NNCF": ("nncf", "openvino", "nncf.xml"),
}


def main(args: argparse.Namespace) -> None:
    from common.inference.classify import images_in
    from common.inference.network import open_network

    synset = names_file(args.synset, args.model_prefix)
    if not synset and not args.unlabelled:
        raise InputError(f"--synset: {args.model_prefix} has no names of classes beside it")
    photographs, seen = sorted(images_in([args.images])), calibration(args)
    check_not_read(args.out, *([synset] if synset else []), *files_read(args.model_prefix, args.epoch), *photographs,
                   *seen)
    labels = None
    if not args.unlabelled:
        classes = [name.split()[0] for name in read_names(synset)]
        labels = np.array([label(path, classes) for path in photographs])
    args = completed(args, args.model_prefix)
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        prefix = copied(args, seen, folder)
        for file, *flags in EXPORTS:
            output_of("tools/export_weights.py", prefix, f"{folder}/{file}", "--epoch", args.epoch, *flags,
                      "--image-shape", ",".join(map(str, args.image_shape)))
        for name, paths in (("calibration", seen), ("images", photographs)):
            np.save(f"{folder}/{name}.npy", np.concatenate([read(path, args) for path in paths]))
        found = {}
        for name, (quantizer, runtime, file) in WAYS.items():
            try:
                if quantizer:
                    output_of("-m", "benchmarks.quantizers", quantizer, f"{folder}/float32.onnx",
                              f"{folder}/calibration.npy", f"{folder}/{file}", python=args.python)
                found[name] = answers(args.python, runtime, folder, file)
            except InputError as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
        if "float32" not in found:
            raise InputError(f"--python {args.python}: has no ONNX Runtime, whose float32 all is compared with")
        tvm = open_network(prefix, args.epoch, (1, *args.image_shape), "llvm", "int8")
        found["int8 by TVM"] = (f"tvm {version('xtc-tvm-python-bindings')}", np.concatenate(
            [tvm.predict(image[np.newaxis]) for image in np.load(f"{folder}/images.npy")]))
    base = found["float32"][1]
    rows = [row(args, name, versions, probabilities, base, labels, len(seen))
            for name, (versions, probabilities) in found.items()]
    write_csv(args.out, rows, args.append)


def calibration(args: argparse.Namespace) -> list[str]:
    """--count photographs of --calibration, drawn at random."""
    from common.inference.classify import images_in

    photographs = sorted(images_in([args.calibration]))
    return random.Random(0).sample(photographs, min(args.count, len(photographs)))


def label(path: str, classes: list[str]) -> int:
    """The number of the class that a photograph's folder names."""
    folder = Path(path).parent.name
    if folder not in classes:
        raise InputError(f"{path}: its folder names none of the {len(classes)} classes of --synset")
    return classes.index(folder)


def read(path: str, args: argparse.Namespace) -> np.ndarray:
    from common.images.preprocess import preprocess, read_image
    return preprocess(read_image(path), args.image_shape, preprocessing_of(args))


def copied(args: argparse.Namespace, seen: list[str], folder: str) -> str:
    """PREFIX of the checkpoint in `folder`, calibrated there on the photographs `seen`."""
    for path in files_read(args.model_prefix, args.epoch):
        if Path(path).exists() and not str(path).endswith("-int8.json"):
            shutil.copy(path, folder)
    photographs = Path(folder, "calibration")
    photographs.mkdir()
    for number, path in enumerate(seen):
        (photographs / f"{number}{Path(path).suffix}").symlink_to(Path(path).resolve())
    prefix = f"{folder}/{Path(args.model_prefix).name}"
    output_of("tools/calibrate.py", prefix, "--epoch", args.epoch, "--images", photographs, "--count", len(seen),
              "--image-shape", ",".join(map(str, args.image_shape)))
    return prefix


def row(args: argparse.Namespace, name: str, versions: str, found: np.ndarray, base: np.ndarray,
        labels: np.ndarray | None, seen: int) -> dict:
    """`labels`: None if the first answers of `base`, float32's, count as right."""
    if labels is None:
        labels = base.argmax(axis=1)
    right, right_in_float32 = (int((rows.argmax(axis=1) == labels).sum()) for rows in (found, base))
    low, high = interval(right, len(labels))
    row = {"checkpoint": Path(args.model_prefix).name, "born_in_8_bits": args.born_in_8_bits, "precision": name,
           "right_is": "float32's first answer" if args.unlabelled else "the label",
           "photographs": len(labels), "top_1": f"{right / len(labels):.4f}", "low": f"{low:.4f}",
           "high": f"{high:.4f}", "points_below_float32": f"{100 * (right_in_float32 - right) / len(labels):.2f}",
           "same_first_answer": f"{(found.argmax(axis=1) == base.argmax(axis=1)).mean():.4f}",
           "mean_difference": f"{np.abs(found - base).mean():.1e}", "calibrated_on": seen,
           "input": "x".join(map(str, args.image_shape)), "versions": versions, **machine()}
    print(row, flush=True)
    return row


def interval(right: int, images: int) -> tuple[float, float]:
    """Wilson's, of 95 % (Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    share, spread = right / images, CERTAINTY ** 2 / images
    half = math.sqrt(share * (1 - share) * spread + spread ** 2 / 4)
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--images", required=True, help="folder of labelled photographs to answer")
    parser.add_argument("--calibration", required=True, help="folder of photographs to calibrate with")
    parser.add_argument("--count", type=positive, default=256, help="how many of --calibration, at most")
    parser.add_argument("--synset", help="names of the classes (default: PREFIX-synset.txt)")
    parser.add_argument("--born-in-8-bits", action="store_true", help="note that the weights were in 8 bits before, "
                        "which flatters every quantiser")
    parser.add_argument("--unlabelled", action="store_true", help="folders name no class: float32's first answers "
                        "count as right")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the runtimes")
    parser.add_argument("--out", type=output, default="benchmarks/int8.csv", help="CSV file to write")
    parser.add_argument("--append", action="store_true", help="keep the rows that it has")
    add_preprocessing_args(parser, "--model-prefix")
    arguments = parser.parse_args()
    with reported("int8.py"):
        main(arguments)

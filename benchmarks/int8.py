#!/usr/bin/env python
"""Right answers in 8-bit integers, by TVM and by ONNX, beside float32 and ONNX Runtime's own quantiser. Examples:

    python benchmarks/int8.py --model-prefix models/flowers --epoch 9 --calibration train/ --images val/
    python benchmarks/int8.py --model-prefix models/mobilenetv2 --calibration train/ --images val/ --synset synset.txt

A folder of --images and --calibration has a folder of photographs for each class, named by the first word of the class
in --synset. Both quantisers see the same photographs, as many of --calibration as tools/calibrate.py takes.
"""
import argparse
import math
import random
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import files_read
from common.images.class_names import names_file, read_names
from common.images.options import add_preprocessing_args, completed, preprocessing_of

if TYPE_CHECKING:
    from common.inference.agreement import Predict

CERTAINTY = 1.96  # standard deviations: 95 %


def main(args: argparse.Namespace) -> None:
    from common.inference.classify import images_in
    from common.inference.network import open_network

    synset = names_file(args.synset, args.model_prefix)
    if not synset:
        raise InputError(f"--synset: {args.model_prefix} has no names of classes beside it")
    classes = [name.split()[0] for name in read_names(synset)]
    photographs, seen = sorted(images_in([args.images])), sorted(images_in([args.calibration]))
    seen = random.Random(0).sample(seen, min(args.count, len(seen)))
    check_not_read(args.out, synset, *files_read(args.model_prefix, args.epoch), *photographs, *seen)
    labels = np.array([label(path, classes) for path in photographs])
    args = completed(args, args.model_prefix)
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        prefix = copied(args, seen, folder)
        for name, flags in (("float32", ()), ("int8", ("--precision", "int8"))):
            output_of("tools/export_weights.py", prefix, f"{folder}/{name}.onnx", "--epoch", args.epoch, "--to", "onnx",
                      "--fold", "--image-shape", ",".join(map(str, args.image_shape)), *flags)
        quantize_by_onnxruntime(f"{folder}/float32.onnx", f"{folder}/static.onnx", [read(path, args) for path in seen])
        tvm = open_network(prefix, args.epoch, (1, *args.image_shape), "llvm", "int8")
        networks = {"float32": by_onnxruntime(f"{folder}/float32.onnx"), "int8 by TVM": tvm.predict,
                    "int8 by ONNX": by_onnxruntime(f"{folder}/int8.onnx"),
                    "ONNX Runtime's quantiser": by_onnxruntime(f"{folder}/static.onnx")}
        answers = {name: [] for name in networks}
        for path in photographs:
            data = read(path, args)
            for name, predict in networks.items():
                answers[name].append(np.array(predict(data)[0]))
    rows = [row(args, name, np.array(found), np.array(answers["float32"]), labels, len(seen))
            for name, found in answers.items()]
    write_csv(args.out, rows, args.append)


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


def quantize_by_onnxruntime(model: str, out: str, images: list[np.ndarray]) -> None:
    """As its documentation advises for processors with VNNI: QDQ, uint8 by int8, a scale for each channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict | None:
            image = next(self._left, None)
            return None if image is None else {"data": image}

    quantize_static(model, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def by_onnxruntime(model: str) -> "Predict":
    import onnxruntime
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda data: session.run(None, {"data": data})[0]


def row(args: argparse.Namespace, name: str, found: np.ndarray, base: np.ndarray, labels: np.ndarray,
        seen: int) -> dict:
    right, right_in_float32 = (int((rows.argmax(axis=1) == labels).sum()) for rows in (found, base))
    low, high = interval(right, len(labels))
    row = {"checkpoint": Path(args.model_prefix).name, "born_in_8_bits": args.born_in_8_bits, "precision": name,
           "photographs": len(labels), "top_1": f"{right / len(labels):.4f}", "low": f"{low:.4f}",
           "high": f"{high:.4f}", "points_below_float32": f"{100 * (right_in_float32 - right) / len(labels):.2f}",
           "same_first_answer": f"{(found.argmax(axis=1) == base.argmax(axis=1)).mean():.4f}",
           "mean_difference": f"{np.abs(found - base).mean():.1e}", "calibrated_on": seen,
           "input": "x".join(map(str, args.image_shape)), "onnxruntime": version("onnxruntime"),
           "tvm": version("xtc-tvm-python-bindings"), **machine()}
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
    parser.add_argument("--out", type=output, default="benchmarks/int8.csv", help="CSV file to write")
    parser.add_argument("--append", action="store_true", help="keep the rows that it has")
    add_preprocessing_args(parser, "--model-prefix")
    arguments = parser.parse_args()
    with reported("int8.py"):
        main(arguments)

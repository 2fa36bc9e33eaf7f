#!/usr/bin/env python
"""A checkpoint out to each format and in again: which arrays are the same, and what MXNet answers with both. Example:

    python benchmarks/round_trips.py --model-prefix models/imagenet1k-mnetv2-1_0 --images photographs/

Out is tools/export_weights.py, in is tools/convert_weights.py. int8 needs tools/calibrate.py first.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.params import checkpoint_files, load_params
from common.checkpoint.prefix import files_read
from common.images.options import add_preprocessing_args, completed, preprocessing_of

WAYS = {  # row: (file of the way in, flags out)
    "npz": ("network.npz", ()),
    "torchvision": ("network.safetensors", ()),
    "timm": ("timm/model.safetensors", ()),
    "onnx": ("network.onnx", ()),
    "onnx, folded": ("folded.onnx", ("--fold",)),
    "onnx, int8": ("int8.onnx", ("--precision", "int8")),
    "tflite": ("network.tflite", ()),
    "tflite, float16": ("float16.tflite", ("--precision", "float16")),
    "tflite, int8": ("int8.tflite", ("--precision", "int8")),
}


def main(args: argparse.Namespace) -> None:
    from common.evaluation.score import predict
    from common.images.preprocess import preprocess, read_image
    from common.inference.classify import images_in

    paths = sorted(images_in([args.images]))[:args.count]
    check_not_read(args.out, *files_read(args.model_prefix, args.epoch), *paths)
    if not paths:
        raise InputError(f"{args.images}: no images there")
    args = completed(args, args.model_prefix)
    images = [preprocess(read_image(path), args.image_shape, preprocessing_of(args)) for path in paths]
    original = load_params(checkpoint_files(args.model_prefix, args.epoch)[1])
    answers = np.concatenate([predict(args.model_prefix, args.epoch, image) for image in images])
    rows = []
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        for name, (file, flags) in WAYS.items():
            kind = name.partition(",")[0]
            shape = ("--image-shape", ",".join(map(str, args.image_shape))) if kind in ("onnx", "tflite") else ()
            out = Path(folder, file).parent if kind == "timm" else Path(folder, file)
            prefix = f"{folder}/{name.replace(', ', '-')}-again"
            try:
                output_of("tools/export_weights.py", args.model_prefix, out, "--epoch", args.epoch, "--to", kind,
                          *shape, *flags, cwd=Path.cwd())
                output_of("tools/convert_weights.py", f"{folder}/{file}", prefix, "--from", kind, cwd=Path.cwd())
                again = load_params(f"{prefix}-0000.params")
                found = np.concatenate([predict(prefix, 0, image) for image in images])
            except InputError as error:
                rows.append(row(name, args, len(images), note=str(error).replace(folder, "")))
                continue
            same = sum(array.tobytes() == again[key].tobytes() for key, array in original.items() if key in again)
            first = (found.argmax(axis=1) == answers.argmax(axis=1)).mean()
            rows.append(row(name, args, len(images), f"{same} of {len(original)}",
                            f"{np.abs(found - answers).max():.1e}", f"{first:.4f}"))
    write_csv(args.out, rows)


def row(name: str, args: argparse.Namespace, photographs: int, same: str = "", difference: str = "", first: str = "",
        note: str = "") -> dict:
    found = {"format": name, "same_arrays": same, "max_difference": difference, "same_first_answer": first,
             "note": note, "photographs": photographs, "checkpoint": Path(args.model_prefix).name, **machine()}
    print(found, flush=True)
    return found


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--images", required=True, help="folder with photographs")
    parser.add_argument("--count", type=positive, default=20, help="how many of them, at most")
    parser.add_argument("--out", type=output, default="benchmarks/round_trips.csv", help="CSV file to write")
    add_preprocessing_args(parser, "--model-prefix")
    arguments = parser.parse_args()
    with reported("round_trips.py"):
        main(arguments)

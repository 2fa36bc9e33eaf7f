#!/usr/bin/env python
"""Right answers to labelled photographs, in each precision, by MXNet, TVM and ONNX Runtime. Examples:

    python benchmarks/photographs.py photographs/ --model-prefix models/mobilenetv2 --epoch 235
    python benchmarks/photographs.py photographs/ --model-prefix models/other --append

The folder has a folder of photographs for each class, named by the first word of the class in --synset. int8 needs
tools/calibrate.py first, with other photographs.
"""
import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.int8 import interval, label
from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, not_negative
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import files_read
from common.images.class_names import names_file, read_names
from common.images.options import add_preprocessing_args, completed, preprocessing_of

Predict = Callable[[np.ndarray], np.ndarray]  # float32 (1, 3, H, W) to probabilities (1, classes)


def by_mxnet(args: argparse.Namespace, precision: str, folder: str) -> Predict:
    from common.evaluation.score import predict
    return lambda image: predict(args.model_prefix, args.epoch, image)


def by_tvm(args: argparse.Namespace, precision: str, folder: str, target: str) -> Predict:
    from common.inference.network import open_network
    return open_network(args.model_prefix, args.epoch, (1, *args.image_shape), target, precision).predict


def by_onnxruntime(args: argparse.Namespace, precision: str, folder: str) -> Predict:
    import onnxruntime
    file = f"{folder}/{precision}.onnx"
    output_of("tools/export_weights.py", Path(args.model_prefix).resolve(), file, "--epoch", args.epoch, "--to", "onnx",
              "--precision", precision, "--image-shape", ",".join(map(str, args.image_shape)))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"data": image})[0]


# what runs it, precision, how it is opened
WAYS: tuple[tuple[str, str, Callable[[argparse.Namespace, str, str], Predict]], ...] = (
    ("MXNet", "float32", by_mxnet),
    *((f"TVM {target}", precision, partial(by_tvm, target=target))
      for target in ("llvm", "opencl") for precision in ("float32", "float16", "int8")),
    ("ONNX Runtime", "float32", by_onnxruntime),
    ("ONNX Runtime", "int8", by_onnxruntime),
)


def main(args: argparse.Namespace) -> None:
    from common.find_mxnet import mx  # noqa: F401 (before TVM)
    from common.images.preprocess import preprocess, read_image
    from common.inference.classify import images_in

    synset = names_file(args.synset, args.model_prefix)
    if not synset:
        raise InputError(f"--synset: {args.model_prefix} has no names of classes beside it")
    paths = sorted(images_in([args.folder]))
    check_not_read(args.out, synset, *files_read(args.model_prefix, args.epoch), *paths)
    classes = [name.split()[0] for name in read_names(synset)]
    labels = np.array([label(path, classes) for path in paths])
    args = completed(args, args.model_prefix)

    def prepared(path):
        image = read_image(path)[::-1, ::-1] if args.turned else read_image(path)
        return preprocess(np.ascontiguousarray(image), args.image_shape, preprocessing_of(args))
    images, rows, base = [prepared(path) for path in paths], [], None
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        for runner, precision, opened in WAYS:
            try:
                predict = opened(args, precision, folder)
            except InputError as error:
                print(f"{runner}, {precision}: left out: {error}", file=sys.stderr)
                continue
            found = np.concatenate([predict(image) for image in images])
            base = found if base is None else base
            rows.append(row(args, runner, precision, found, base, labels))
    write_csv(args.out, rows, args.append)


def row(args: argparse.Namespace, runner: str, precision: str, found: np.ndarray, base: np.ndarray,
        labels: np.ndarray) -> dict:
    ranks = (found > found[np.arange(len(labels)), labels][:, np.newaxis]).sum(axis=1)
    scores = {}
    for k in (1, 5):
        right = int((ranks < k).sum())
        low, high = interval(right, len(labels))
        scores |= {f"top_{k}": f"{right / len(labels):.4f}", f"top_{k}_low": f"{low:.4f}",
                   f"top_{k}_high": f"{high:.4f}"}
    result = {"checkpoint": Path(args.model_prefix).name, "runner": runner, "precision": precision, **scores,
              "same_first_answer": f"{(found.argmax(axis=1) == base.argmax(axis=1)).mean():.4f}",
              "max_difference": f"{np.abs(found - base).max():.1e}", "photographs": len(labels),
              "turned": args.turned, "input": "x".join(map(str, args.image_shape)), "mxnet": version("mxnet"),
              "tvm": version("xtc-tvm-python-bindings"), "onnxruntime": version("onnxruntime"), **machine()}
    print(result, flush=True)
    return result


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="labelled photographs")
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--synset", help="names of the classes (default: PREFIX-synset.txt)")
    parser.add_argument("--turned", action="store_true", help="turn photographs by 180 degrees, for weights of which "
                        "every kernel is turned")
    parser.add_argument("--out", type=output, default="benchmarks/photographs.csv", help="CSV file to write")
    parser.add_argument("--append", action="store_true", help="keep the rows that it has")
    add_preprocessing_args(parser, "--model-prefix")
    arguments = parser.parse_args()
    with reported("photographs.py"):
        main(arguments)

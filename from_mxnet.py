#!/usr/bin/env python
"""Compile an MXNet checkpoint with TVM for an OpenCL device, and classify photographs with it.

Prints the time and the top-5 of each photograph; of a folder, or with --output, a table of all of them, computed in
batches. The compiled network is kept: the next run starts at once. MXNet is not needed (only for --verify). Examples:

    python from_mxnet.py                                   data/cat.jpg with the published 1.0 weights
    python from_mxnet.py dog.jpg --target llvm             on this processor instead of an OpenCL device
    python from_mxnet.py digit.jpg --model-prefix demo/digits --epoch 32
    python from_mxnet.py photographs --output top5.csv     all images in a folder and the folders in it
    python from_mxnet.py --export bundle --target llvm     a folder that runs without this repository
"""
import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, missing_package, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import files_read
from common.evaluation.answers import check_finite, top_answers
from common.images.class_names import check_synset, names_file, read_synset
from common.images.options import add_preprocessing_args, completed, preprocessing_of
from common.inference.choices import AUTO, PRECISIONS, is_for_another_machine, kind_of
from common.inference.tables import TOP, answers_table, table_file

if TYPE_CHECKING:
    from common.inference.network import CompiledNetwork

HERE = Path(__file__).resolve().parent
PUBLISHED = "published-1_0"  # of models/zoo.toml
IMAGENET = str(HERE / "data" / "imagenet1k-synset.txt")
PHOTOGRAPH = str(HERE / "data" / "cat.jpg")
TOLERANCE = 1e-4
REPEAT, BATCH_SIZE = 3, 16

Predict = Callable[[np.ndarray], np.ndarray]
MXNetPredict = Callable[[str, int, np.ndarray], np.ndarray]  # common.evaluation.score.predict


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", metavar="FILE|DIR",
                        help="photographs to classify, or folders of them (default: data/cat.jpg)")
    model = parser.add_argument_group("checkpoint")
    model.add_argument("--model-prefix", help="PREFIX of PREFIX-symbol.json (default: the published 1.0 weights, from "
                                              "models/ or downloaded)")
    model.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    model.add_argument("--synset", help="text file with the name of each class, one a line (default: "
                       "PREFIX-synset.txt, else ImageNet's 1,000)")
    add_preprocessing_args(model, "--model-prefix")
    device = parser.add_argument_group("device")
    device.add_argument("--target", default="opencl", help="opencl, llvm (this processor) or any TVM target string")
    device.add_argument("--precision", choices=PRECISIONS, default="float32", help="what the network computes in")
    device.add_argument("--records", metavar="FILE", default=AUTO, help="tuning records of tools/tune.py; auto: "
                        "those in tuning/ that fit the device best; none: untuned")
    device.add_argument("--list-devices", action="store_true", help="list OpenCL platforms and devices, and end")
    one = parser.add_argument_group("one photograph after the other")
    one.add_argument("--repeat", type=positive, help=f"runs of each (default: {REPEAT})")
    many = parser.add_argument_group("a folder, or many photographs")
    many.add_argument("--output", type=table_file, metavar="FILE", help="table to write, .csv or .json (default, of a "
                                                                        "folder: CSV on standard output)")
    many.add_argument("--batch-size", type=positive, help=f"images that the network takes at a time (default: "
                                                          f"{BATCH_SIZE})")
    many.add_argument("--data-nthreads", type=positive, help="threads that decode images (default: one for each core "
                                                             "that may be used)")
    more = parser.add_argument_group("compiled networks")
    more.add_argument("--export", metavar="DIR", help="write the compiled network to a folder, with programs that run "
                      "it without this repository; without FILE or DIR, end then")
    more.add_argument("--no-cache", action="store_true", help="compile anew, and do not keep it")
    more.add_argument("--clear-cache", action="store_true", help="remove the compiled networks that are kept, and end")
    more.add_argument("--verify", action="store_true", help=f"compare with MXNet's output, of many images that of the "
                      f"first batch; fail above {TOLERANCE:g} in float32")
    return parser


def main(args: argparse.Namespace) -> None:
    mxnet_predict = import_mxnet_predict() if args.verify else None  # before TVM
    if args.list_devices:
        from common.inference.runtime import list_devices
        for line in list_devices():
            print(line, flush=True)
        return
    if args.clear_cache:
        from common.inference.cache import clear_cache
        if left := clear_cache():
            print(f"{left} compiled networks are in use and were left", file=sys.stderr)
        return

    many = args.output is not None or any(map(os.path.isdir, args.images))
    only_export = bool(args.export) and not args.images and not many
    check_arguments(args, many, only_export)
    take_published_weights(args)
    args.synset = names_file(args.synset, args.model_prefix) or IMAGENET
    check_not_overwritten(args)
    args = completed(args, args.model_prefix)
    if args.export and is_for_another_machine(args.target):
        if not only_export:
            raise InputError(f"--target {args.target!r} cannot run here: give --export without photographs")
        export_elsewhere(args, args.batch_size or 1)
    elif only_export:
        open_compiled(args, args.batch_size or 1)
    elif many:
        table(args, mxnet_predict)
    else:
        print_out(args, mxnet_predict)


def check_arguments(args: argparse.Namespace, many: bool, only_export: bool) -> None:
    """Refuse what would be ignored."""
    if args.repeat and (many or only_export):
        raise InputError("--repeat is for photographs that are printed one by one: leave it out")
    if args.batch_size and not (many or only_export):
        raise InputError("--batch-size is for a folder, --output, or --export without FILE: photographs are printed "
                         "one by one")
    if args.data_nthreads and not many:
        raise InputError("--data-nthreads is for a folder or --output: photographs are printed one by one")
    if args.verify and only_export:
        raise InputError("--verify: with what photographs? give FILE or DIR beside --export")


def check_not_overwritten(args: argparse.Namespace) -> None:
    """Raise InputError where what would be written is read here."""
    from common.inference.classify import images_in
    for path in filter(None, (args.output, args.export)):
        check_not_read(path, args.synset, args.records if args.records != AUTO else None,
                       *files_read(args.model_prefix, args.epoch), *images_in(args.images or [PHOTOGRAPH]))


def print_out(args: argparse.Namespace, mxnet_predict: MXNetPredict | None) -> None:
    """The time and the top-5 of each photograph, one at a time."""
    paths = args.images or [PHOTOGRAPH]
    inputs = [prepared(path, args) for path in paths]
    compiled = open_compiled(args, 1)
    synset = read_synset(args.synset, compiled.num_classes)
    print(device_line(compiled))
    outputs = []
    for path, data in zip(paths, inputs):
        print(path)
        for _ in range(args.repeat or REPEAT):
            probabilities = classify(compiled, path, data, synset)
        outputs.append(probabilities)
    if args.verify:
        verify(args, mxnet_predict, inputs, outputs)


def prepared(path: str, args: argparse.Namespace) -> np.ndarray:
    """A photograph as the network takes it, float32 (1, 3, H, W). Raises InputError for what cannot be read."""
    from common.images.preprocess import preprocess, read_image
    image = read_image(path)
    try:
        return preprocess(image, args.image_shape, preprocessing_of(args))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def classify(compiled: "CompiledNetwork", path: str, data: np.ndarray, synset: list[str]) -> np.ndarray:
    """Run the network once and print the time and the top-5; returns the probabilities (1, classes)."""
    start = time.perf_counter()
    probabilities = compiled.predict(data)
    ran = time.perf_counter()
    top = top_answers(probabilities[0], TOP)
    end = time.perf_counter()
    check_finite(path, probabilities)
    print(f"elapsed: {(end - start) * 1e3:.1f}ms ({(ran - start) * 1e3:.1f}ms)")
    for rank, label in enumerate(top, start=1):
        print(f"TVM prediction top-{rank}: {label} {synset[label]} ({probabilities[0, label]:.3f})")
    return probabilities


def table(args: argparse.Namespace, mxnet_predict: MXNetPredict | None) -> None:
    """A table of all photographs; what cannot be read is told, noted in the table, and passed over."""
    from common.inference.classify import images_in
    from common.inference.tabulate import tabulate
    paths = args.images or [PHOTOGRAPH]
    total = sum(1 for _ in images_in(paths))
    if not total:
        raise InputError(f"{', '.join(args.images)}: no images there")
    with answers_table(args.output) as write:  # opened before anything is compiled: a slip shows at once
        compiled = open_compiled(args, args.batch_size or BATCH_SIZE)
        synset = read_synset(args.synset, compiled.num_classes)
        print(device_line(compiled), file=sys.stderr)
        compiled.predict(np.zeros(compiled.data_shape, np.float32))  # the first run builds OpenCL's kernels
        done = tabulate(images_in(paths), total, write, synset, bar=bool(args.output) or not sys.stdout.isatty(),
                        predict=verified(args, mxnet_predict, compiled.predict) if args.verify else compiled.predict,
                        data_shape=compiled.data_shape, preprocessing=preprocessing_of(args),
                        threads=args.data_nthreads)
    print(done, file=sys.stderr)
    if not done.classified:
        raise InputError("none of the images could be read")


def open_compiled(args: argparse.Namespace, batch_size: int) -> "CompiledNetwork":
    """The compiled network, which is also exported where that is asked for."""
    from common.inference.network import open_network, tuning_line
    if args.export:
        from common.inference.export import check_destination, export
        check_destination(args.export)
    check_synset(args.synset, args.model_prefix)
    compiled = open_network(args.model_prefix, args.epoch, (batch_size, *args.image_shape), args.target,
                            precision=args.precision, records=records_of(args), cache=not args.no_cache)
    print(tuning_line(compiled.about, records_of(args)), file=sys.stderr)
    if args.export:
        export(compiled.folder, args.export, args.synset, preprocessing_of(args), args.target)
        print(f"exported to {args.export}", file=sys.stderr)
    return compiled


def export_elsewhere(args: argparse.Namespace, batch_size: int) -> None:
    """A bundle for another machine, whose code cannot run here."""
    from common.inference.export import check_destination, export
    from common.inference.network import compile_elsewhere, tuning_line
    check_destination(args.export)
    check_synset(args.synset, args.model_prefix)
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        about = compile_elsewhere(folder, args.model_prefix, args.epoch, (batch_size, *args.image_shape), args.target,
                                  args.precision, records_of(args))
        print(tuning_line(about, records_of(args)), file=sys.stderr)
        export(folder, args.export, args.synset, preprocessing_of(args), args.target)
    print(f"exported to {args.export}", file=sys.stderr)


def records_of(args: argparse.Namespace) -> str | None:
    return None if args.records == "none" else args.records


def device_line(compiled: "CompiledNetwork") -> str:
    from common.inference.runtime import device_name
    return f"device: {device_name(compiled.device)}"


def verified(args: argparse.Namespace, mxnet_predict: MXNetPredict, predict: Predict) -> Predict:
    """`predict`, whose first batch is compared with MXNet's answers."""
    seen = []

    def compared(data):
        probabilities = predict(data)
        if not seen:
            seen.append(verify(args, mxnet_predict, [data], [probabilities], sys.stderr))
        return probabilities
    return compared


def verify(args: argparse.Namespace, mxnet_predict: MXNetPredict, inputs: list[np.ndarray],
           outputs: list[np.ndarray], file: TextIO | None = None) -> None:
    """Fails above TOLERANCE in float32; of the other precisions the difference is told."""
    expected = [mxnet_predict(args.model_prefix, args.epoch, data) for data in inputs]
    difference = float(np.abs(np.subtract(expected, outputs)).max())
    name = "OpenCL" if kind_of(args.target) == "opencl" else kind_of(args.target)
    if args.precision != "float32":
        print(f"{name} in {args.precision} and MXNet differ by {difference:.1e} at most", file=file)
    elif difference <= TOLERANCE:
        print(f"{name} and MXNet agree (max difference {difference:.1e})", file=file)
    else:
        raise InputError(f"{name} and MXNet disagree (max difference {difference:.1e}, allowed {TOLERANCE:g})")


def import_mxnet_predict() -> MXNetPredict:
    try:
        return importlib.import_module("common.evaluation.score").predict
    except ModuleNotFoundError as error:
        raise InputError(f"--verify: {missing_package(error)}") from None


def take_published_weights(args: argparse.Namespace) -> None:
    """Where no checkpoint is given, make it the published one, which is downloaded where it is not there."""
    if args.model_prefix is None:
        if args.epoch:
            raise InputError(f"--epoch {args.epoch}: of what checkpoint? give --model-prefix")
        from common.modelzoo import prefix_of
        args.model_prefix = prefix_of(PUBLISHED)


if __name__ == "__main__":
    arguments = get_args_parser().parse_args()
    with reported("from_mxnet.py"):
        main(arguments)

#!/usr/bin/env python
"""Compile an MXNet checkpoint with TVM for an OpenCL device, and classify photographs with it.

Prints the time and the top-5 of each photograph. For a folder, or with --output, it writes a table of all of them,
computed in batches. The compiled network is kept: the next run starts at once. Only --verify needs MXNet. Examples:

    python from_mxnet.py                                   data/cat.jpg with the published 1.0 weights
    python from_mxnet.py dog.jpg --target llvm             on this processor instead of an OpenCL device
    python from_mxnet.py digit.jpg --model-prefix demo/digits --epoch 32
    python from_mxnet.py photographs --output top5.csv     all images in a folder and the folders in it
    python from_mxnet.py --export bundle --target llvm     a folder that runs without this repository
"""
import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import check_no_file_name, files_read
from common.evaluation.answers import check_finite, top_answers
from common.images.class_names import check_synset, names_file, read_synset
from common.images.options import add_preprocessing_args, completed, preprocessing_of
from common.inference.agreement import TOLERANCE, Predict, Reference, agreement, checked_once, reference
from common.inference.choices import AUTO, PRECISIONS
from common.inference.systems import build_of, is_for_another_machine, triple_in
from common.inference.tables import TOP, answers_table, table_file

if TYPE_CHECKING:
    from common.inference.classify import Done
    from common.inference.network import CompiledNetwork

    Answers = list[tuple[int, str, float]]  # (number of the class, its name, probability), best first

HERE = Path(__file__).resolve().parent
PUBLISHED = "published-1_0"  # of models/zoo.toml
IMAGENET = str(HERE / "data" / "imagenet1k-synset.txt")
PHOTOGRAPH = str(HERE / "data" / "cat.jpg")
REPEAT, BATCH_SIZE = 3, 16


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", metavar="FILE|DIR",
                        help="photographs to classify, or folders of them (default: data/cat.jpg)")
    model = parser.add_argument_group("checkpoint")
    model.add_argument("--model-prefix", help="PREFIX of PREFIX-symbol.json (default: the published 1.0 weights, from "
                                              "models/ or downloaded)")
    model.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    model.add_argument("--synset", help="text file with the name of each class, one per line (default: "
                       "PREFIX-synset.txt, else ImageNet's 1,000)")
    add_preprocessing_args(model, "--model-prefix")
    device = parser.add_argument_group("device")
    device.add_argument("--target", default="opencl", help="opencl, llvm (this processor) or any TVM target string")
    device.add_argument("--precision", choices=PRECISIONS, default="float32", help="what the network computes in")
    device.add_argument("--records", metavar="FILE", default=AUTO, help="tuning records from tools/tune.py; auto: "
                        "those in tuning/ that fit the device best; none: untuned")
    device.add_argument("--list-devices", action="store_true", help="list OpenCL platforms and devices, and exit")
    one = parser.add_argument_group("photographs one by one")
    one.add_argument("--repeat", type=positive, help=f"runs for each (default: {REPEAT})")
    many = parser.add_argument_group("a folder, or many photographs")
    many.add_argument("--output", type=table_file, metavar="FILE", help="table to write, .csv or .json (default for a "
                                                                        "folder: CSV on standard output)")
    many.add_argument("--batch-size", type=positive, help=f"images that the network takes at a time (default: "
                                                          f"{BATCH_SIZE})")
    many.add_argument("--data-nthreads", type=positive, help="threads that decode images (default: one for each core "
                                                             "that may be used)")
    more = parser.add_argument_group("compiled networks")
    more.add_argument("--export", metavar="DIR", help="write the compiled network to a folder, with programs that run "
                      "it without this repository; without FILE or DIR, exit then")
    more.add_argument("--export-params", metavar="DIR", help="put the parameters of this checkpoint into a folder that "
                      "--export wrote for another one of the same network, and exit")
    more.add_argument("--no-cache", action="store_true", help="compile again, and do not keep the result")
    more.add_argument("--clear-cache", action="store_true", help="remove the compiled networks that are kept, and exit")
    more.add_argument("--verify", action="store_true", help=f"compare with MXNet's output (for a table, the first "
                      f"batch); fail above {TOLERANCE:g} in float32")
    return parser


def main(arguments: list[str] | None = None) -> "list[Answers] | Done | None":
    """The answers to each photograph, how many of a folder were classified, or None if nothing was."""
    args = get_args_parser().parse_args(arguments)
    mxnet_predict = reference() if args.verify else None  # before TVM
    if args.list_devices:
        list_devices()
        return None
    if args.clear_cache:
        from common.inference.cache import clear_cache
        clear_cache()
        return None
    many = args.output is not None or any(map(os.path.isdir, args.images))
    only_export = bool(args.export or args.export_params) and not args.images and not many
    check_arguments(args, many, only_export)
    take_published_weights(args)
    args.synset = names_file(args.synset, args.model_prefix) or IMAGENET
    args.records = None if args.records == "none" else args.records
    check_not_overwritten(args)
    args = completed(args, args.model_prefix)
    if args.export_params:
        from common.inference.export import export_params
        export_params(args.export_params, args.model_prefix, args.epoch, args.synset, preprocessing_of(args))
        return None
    if only_export:
        compile_network(args, args.batch_size or 1)
        return None
    return table(args, mxnet_predict) if many else print_out(args, mxnet_predict)


def list_devices() -> None:
    from common.inference.runtime import list_devices
    for line in list_devices():
        print(line, flush=True)


def check_arguments(args: argparse.Namespace, many: bool, only_export: bool) -> None:
    """Refuse what would be ignored, or cannot be done."""
    if args.repeat and (many or only_export):
        raise InputError("--repeat is for photographs that are printed one by one: leave it out")
    if args.batch_size and not (many or only_export):
        raise InputError("--batch-size is for a folder, --output, or --export without FILE: photographs are printed "
                         "one by one")
    if args.data_nthreads and not many:
        raise InputError("--data-nthreads is for a folder or --output: photographs are printed one by one")
    if args.verify and only_export:
        raise InputError("--verify needs photographs: give FILE or DIR beside --export")
    if args.export_params and (args.export or args.images or many):
        raise InputError("--export-params only replaces parameters: leave out FILE, DIR, --output and --export")
    build_of(triple_in(args.target))
    if args.export and is_for_another_machine(args.target) and not only_export:
        raise InputError(f"--target {args.target!r} cannot run here: give --export without photographs")
    if args.model_prefix is not None:
        check_no_file_name(args.model_prefix, "--model-prefix")
    elif args.epoch:
        raise InputError(f"--epoch {args.epoch} needs --model-prefix: which checkpoint is it of?")


def take_published_weights(args: argparse.Namespace) -> None:
    """Without --model-prefix, make it the published checkpoint, which is downloaded if it is not there."""
    if args.model_prefix is None:
        from common.modelzoo import prefix_of
        args.model_prefix = prefix_of(PUBLISHED)


def check_not_overwritten(args: argparse.Namespace) -> None:
    """Raise InputError if what would be written is read here."""
    from common.inference.classify import images_in
    for path in filter(None, (args.output, args.export)):
        check_not_read(path, args.synset, args.records if args.records != AUTO else None,
                       *files_read(args.model_prefix, args.epoch), *images_in(args.images or [PHOTOGRAPH]))


def compile_network(args: argparse.Namespace, batch_size: int) -> "CompiledNetwork | None":
    """The compiled network, and the bundle of --export; None if it is for another machine."""
    from common.checkpoint.fold import load_folded
    from common.inference.export import check_destination, export
    from common.inference.network import compile_elsewhere, notes, open_network
    if args.export:
        check_destination(args.export)
    check_synset(args.synset, args.model_prefix)
    data_shape = batch_size, *args.image_shape
    request = args.model_prefix, args.epoch, data_shape, args.target, args.precision, args.records
    compiled = None
    with ExitStack() as stack:
        if args.export and is_for_another_machine(args.target):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mobilenetv2-")))
            about, params = compile_elsewhere(folder, *request), load_folded(*request[:3])[1]
        else:
            compiled = open_network(*request, cache=not args.no_cache)
            folder, about, params = compiled.folder, compiled.about, compiled.params
        for note in filter(None, (args.assumed, *notes(about, args.target, args.records))):
            print(note, file=sys.stderr)
        if args.export:
            export(folder, args.export, params, args.synset, preprocessing_of(args), args.target)
            print(f"exported to {args.export}", file=sys.stderr)
    return compiled


def print_out(args: argparse.Namespace, mxnet_predict: Reference | None) -> "list[Answers]":
    """The time and the top-5 of each photograph, one at a time."""
    paths = args.images or [PHOTOGRAPH]
    inputs = [prepared(path, args) for path in paths]
    compiled = compile_network(args, 1)
    synset = read_synset(args.synset, compiled.num_classes)
    print_device(compiled)
    outputs, answers = [], []
    for path, data in zip(paths, inputs):
        print(path)
        for _ in range(args.repeat or REPEAT):
            probabilities, top = classify(compiled, path, data, synset)
        outputs.append(probabilities)
        answers.append(top)
    if args.verify:
        print(verified(args, mxnet_predict, inputs, outputs))
    return answers


def prepared(path: str, args: argparse.Namespace) -> np.ndarray:
    """A photograph as the network takes it, float32 (1, 3, H, W). Raises InputError for what cannot be read."""
    from common.images.preprocess import preprocess, read_image
    image = read_image(path)
    try:
        return preprocess(image, args.image_shape, preprocessing_of(args))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def classify(compiled: "CompiledNetwork", path: str, data: np.ndarray,
             synset: list[str]) -> "tuple[np.ndarray, Answers]":
    """Run the network once and print the time and the top-5; returns the probabilities (1, classes), and the top-5."""
    start = time.perf_counter()
    probabilities = compiled.predict(data)
    ran = time.perf_counter()
    top = top_answers(probabilities[0], TOP)
    end = time.perf_counter()
    check_finite(path, probabilities)
    print(f"elapsed: {(end - start) * 1e3:.1f}ms ({(ran - start) * 1e3:.1f}ms)")
    answers = [(int(label), synset[label], float(probabilities[0, label])) for label in top]
    for rank, (label, name, probability) in enumerate(answers, start=1):
        print(f"TVM prediction top-{rank}: {label} {name} ({probability:.3f})")
    return probabilities, answers


def table(args: argparse.Namespace, mxnet_predict: Reference | None) -> "Done":
    """A table of all photographs. One that cannot be read is reported, noted in the table, and passed over."""
    from common.inference.classify import images_in, tabulate
    paths = args.images or [PHOTOGRAPH]
    total = sum(1 for _ in images_in(paths))
    if not total:
        raise InputError(f"{', '.join(args.images)}: no images there")
    with answers_table(args.output) as write:  # opened before anything is compiled: what is wrong shows at once
        compiled = compile_network(args, args.batch_size or BATCH_SIZE)
        synset = read_synset(args.synset, compiled.num_classes)
        print_device(compiled, sys.stderr)
        compiled.predict(np.zeros(compiled.data_shape, np.float32))  # the first run builds OpenCL's kernels
        predict: Predict = compiled.predict
        if args.verify:
            predict = checked_once(predict, lambda data, found: print(
                verified(args, mxnet_predict, [data], [found]), file=sys.stderr))
        done = tabulate(images_in(paths), total, write, synset, bar=bool(args.output) or not sys.stdout.isatty(),
                        predict=predict, data_shape=compiled.data_shape, preprocessing=preprocessing_of(args),
                        threads=args.data_nthreads)
    print(done, file=sys.stderr)
    if not done.classified:
        raise InputError("none of the images could be read")
    return done


def verified(args: argparse.Namespace, mxnet_predict: Reference, inputs: list[np.ndarray],
             outputs: list[np.ndarray]) -> str:
    expected = [mxnet_predict(args.model_prefix, args.epoch, data) for data in inputs]
    return agreement(expected, outputs, args.target, args.precision)


def print_device(compiled: "CompiledNetwork", file: TextIO | None = None) -> None:
    from common.inference.runtime import device_name
    print(f"device: {device_name(compiled.device)}", file=file)


if __name__ == "__main__":
    with reported("from_mxnet.py"):
        main()

#!/usr/bin/env python
"""Score a checkpoint on a RecordIO file: single centre crop, every image counted once. Images are
prepared as PREFIX-preprocess.json beside the checkpoint says, unless a flag says otherwise. Examples:

    python eval_imagenet.py --model-prefix models/imagenet1k-mnetv2-1_0 --epoch 0 --data-val val.rec
    python eval_imagenet.py ... --backend tvm --target llvm       the network as TVM compiles it for this processor
    python eval_imagenet.py ... --predictions images.csv --per-class classes.csv --synset data/imagenet1k-synset.txt
    python eval_imagenet.py ... --confusion confusion.png
"""
import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import check_no_file_name, files_read
from common.images.class_names import check_synset, names_file, read_synset
from common.images.recordio import files_of, record_files

if TYPE_CHECKING:
    import numpy as np

    from common.data.evaluation_images import EvaluationIter
    from common.evaluation.score import Score
    from common.find_mxnet import mx

    Predict = Callable[[mx.nd.NDArray], mx.nd.NDArray | np.ndarray]  # both of common.evaluation.score.score
    OnBatch = Callable[[np.ndarray, np.ndarray, np.ndarray, mx.nd.NDArray], object]


def get_args_parser() -> ArgumentParser:
    from common.data.options import add_image_args
    from common.inference.choices import PRECISIONS

    parser = ArgumentParser(description=__doc__)
    model = parser.add_argument_group("checkpoint")
    model.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    model.add_argument("--epoch", type=not_negative, required=True, help="number of PREFIX-%%04d.params")
    data = parser.add_argument_group("images")
    data.add_argument("--data-val", required=True, metavar="REC", help="RecordIO file of the images, several "
                      "separated by commas, or a folder with the parts of one set")
    add_image_args(data, "--model-prefix")
    device = parser.add_argument_group("device")
    device.add_argument("--batch-size", type=positive, default=32, help="images in a batch")
    device.add_argument("--gpus", default="", help="GPUs to run on, as in 0,1; empty: the processor")
    device.add_argument("--backend", choices=BACKENDS, default="mxnet", help="what runs the network")
    device.add_argument("--target", help="for --backend tvm: opencl, llvm (this processor) or any TVM target string "
                        "(default: opencl)")
    device.add_argument("--precision", choices=PRECISIONS, help="for --backend tvm: what the network computes in "
                        "(default: float32)")
    results = parser.add_argument_group("results")
    results.add_argument("--top-k", type=positive, default=5, help="answers among which the label may be for the "
                         "second accuracy, and answers in the tables")
    results.add_argument("--predictions", metavar="CSV", help="write the answers to each image to this file")
    results.add_argument("--per-class", metavar="CSV", help="write the accuracies of each class to this file")
    results.add_argument("--confusion", metavar="PNG", help="draw which classes are taken for which, and the most "
                         "confident mistakes, to this file")
    results.add_argument("--synset", help="text file with the name of each class, one per line, for these three "
                         "(default: PREFIX-synset.txt, if it is there)")
    return parser


def main(arguments: list[str] | None = None) -> "Score":
    args = get_args_parser().parse_args(arguments)
    if any(getattr(args, name) for name in WRITTEN):
        args.synset = names_file(args.synset, args.model_prefix)
    check(args)
    from common.data.iterators import evaluation_iter  # imports MXNet, which must come before TVM
    from common.evaluation.score import score
    from common.images.options import completed
    from common.images.recordio import check_records

    for file in record_files(args.data_val, args.data_val_idx):  # what is wrong shows before anything is compiled
        check_records(*file)
    args = completed(args, args.model_prefix)
    num_classes, build = BACKENDS[args.backend](args)
    if args.assumed:
        print(args.assumed, file=sys.stderr)
    images = evaluation_iter(args, num_classes)
    top_k = min(args.top_k, num_classes)
    with ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in results(args, num_classes, top_k)]
        predict = build()
        listeners.append(stack.enter_context(progress(images)))
        total = score(predict, images, top_k, on_batch=lambda *batch: [listener(*batch) for listener in listeners])
    accuracies = f"top-1 {total.top_1:.4f}" + (f" top-{top_k} {total.top_k:.4f}" if top_k > 1 else "")
    skipped = f", {total.skipped} damaged one{'s' * (total.skipped != 1)} skipped" if total.skipped else ""
    print(f"{accuracies} ({total.images} images{skipped})")
    return total


def check(args: argparse.Namespace) -> None:
    check_no_file_name(args.model_prefix, "--model-prefix")
    if args.backend == "tvm" and args.gpus:
        raise InputError(f"--gpus {args.gpus} is for --backend mxnet; --backend tvm runs on the device of --target")
    for flag in ("target", "precision"):
        if args.backend != "tvm" and getattr(args, flag) is not None:
            raise InputError(f"--{flag} {getattr(args, flag)} needs --backend tvm")
    flag_of: dict[Path, str] = {}
    for name, (kind, ending) in WRITTEN.items():
        if (path := getattr(args, name)) is None:
            continue
        if Path(path).suffix.lower() != ending:
            raise InputError(f"{path}: {kind} are {ending[1:].upper()}; give a name that ends in {ending}")
        flag = f"--{name.replace('_', '-')}"
        if (other := flag_of.setdefault(Path(path).resolve(), flag)) != flag:
            raise InputError(f"{other} and {flag} are both {path}: give two files")
        check_not_read(path, args.synset, *files_of(args.data_val, args.data_val_idx),
                       *files_read(args.model_prefix, args.epoch))
        if not Path(path).absolute().parent.is_dir():
            raise InputError(f"{path}: No such file or directory")
    if args.synset:
        check_synset(args.synset, args.model_prefix)


def with_mxnet(args: argparse.Namespace) -> "tuple[int, Callable[[], Predict]]":
    """(number of classes, function that makes the `predict` of common.evaluation.score.score)."""
    from common.checkpoint.ndarrays import load_checkpoint, run_by_mxnet
    from common.checkpoint.params import checkpoint_files
    from common.checkpoint.symbol import is_label
    from common.evaluation.score import module_predictor
    from common.find_mxnet import contexts, mx

    data_shape = (args.batch_size, *args.image_shape)
    symbol, arg_params, aux_params = load_checkpoint(args.model_prefix, args.epoch, data_shape)
    devices = contexts(args.gpus)[:args.batch_size]
    # an equal work load would leave the last device without an image in some batch sizes, which Module refuses
    loads = [len(range(i, args.batch_size, len(devices))) for i in range(len(devices))]

    def build():
        labels = [name for name in symbol.list_arguments() if is_label(name)]
        with run_by_mxnet(checkpoint_files(args.model_prefix, args.epoch)[0]):
            module = mx.mod.Module(symbol, label_names=labels, context=devices, work_load_list=loads)
            module.bind([("data", data_shape)], [(name, data_shape[:1]) for name in labels] or None, for_training=False)
            module.set_params(arg_params, aux_params, allow_extra=True)
            predict = module_predictor(module)
            predict(mx.nd.zeros(data_shape)).wait_to_read()  # errors show before an image is read
        return predict
    return symbol.infer_shape(data=data_shape)[1][0][1], build


def with_tvm(args: argparse.Namespace) -> "tuple[int, Callable[[], Predict]]":
    """As `with_mxnet`; `build` prints the device, as from_mxnet.py does."""
    from common.inference.choices import AUTO
    from common.inference.network import notes, open_network
    from common.inference.runtime import device_name

    data_shape = (args.batch_size, *args.image_shape)
    target = args.target or "opencl"
    compiled = open_network(args.model_prefix, args.epoch, data_shape, target, args.precision or "float32", AUTO)
    for note in notes(compiled.about, target, AUTO):
        print(note, file=sys.stderr)

    def build():
        print(f"device: {device_name(compiled.device)}", flush=True)
        return lambda data: compiled.predict(data.asnumpy())
    return compiled.num_classes, build


BACKENDS = {"mxnet": with_mxnet, "tvm": with_tvm}


# what is written: {its flag: (what it is called, the ending of its file)}
WRITTEN = {"predictions": ("tables", ".csv"), "per_class": ("tables", ".csv"), "confusion": ("pictures", ".png")}


def results(args: argparse.Namespace, num_classes: int, top_k: int) -> "Iterator[AbstractContextManager[OnBatch]]":
    """What is to be written. The files are opened before the network runs: what is wrong shows at once."""
    from common.evaluation.tables import classes_table, predictions_table

    names = read_synset(args.synset, num_classes) if args.synset else None
    if args.predictions:
        yield predictions_table(args.predictions, num_classes, top_k, names, names_of_files(args))
    if args.per_class:
        yield classes_table(args.per_class, num_classes, top_k, names)
    if args.confusion:
        from common.evaluation.confusion import confusion_picture  # with Matplotlib
        from common.images.options import preprocessing_of
        _, _, mean, std = preprocessing_of(args)
        yield confusion_picture(args.confusion, num_classes, names, mean, std)


def names_of_files(args: argparse.Namespace) -> list[str] | None:
    """Those of the images, if lists beside the records tell."""
    from common.images.listed_names import listed_names

    try:
        return listed_names(record_files(args.data_val, args.data_val_idx))
    except InputError as error:
        print(f"{error}; {args.predictions} will not name files", file=sys.stderr)
        return None


@contextmanager
def progress(images: "EvaluationIter") -> "Iterator[OnBatch]":
    """A progress bar on a terminal, with images per second."""
    from tqdm import tqdm

    with tqdm(total=images.num_images, unit=" images", disable=None, dynamic_ncols=True) as bar:
        yield lambda records, *_: bar.update(len(records))


if __name__ == "__main__":
    with reported("eval_imagenet.py"):
        main()

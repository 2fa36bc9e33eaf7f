#!/usr/bin/env python
"""Average the weights of several epochs of a run, to one checkpoint. MXNet is not needed. Examples:

    python tools/average_checkpoints.py models/mobilenetv2 --output models/mobilenetv2-avg
    python tools/average_checkpoints.py models/mobilenetv2 --epochs 225,230,235 --output models/mobilenetv2-avg

Every number of OUT_PREFIX-0000.params is the mean of those in the PREFIX-%04d.params, summed in float64. So are
BatchNorm's moving mean and variance, which are near those of the averaged network if the epochs are near each other, as
the last ones of a run are; they are not measured anew. Symbol, preprocessing and class names are those of PREFIX.
"""
import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read, written_atomically
from common.checkpoint.params import checkpoint_files, load_checkpoint_params, save_checkpoint_params
from common.checkpoint.prefix import check_no_file_name, check_prefix, epochs_of, files_read, files_under
from common.checkpoint.preprocessing import load_preprocessing, preprocessing_file, preprocessing_json
from common.checkpoint.symbol import load_symbol
from common.images.class_names import synset_file


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("prefix", metavar="PREFIX", help="PREFIX of the checkpoints")
    parser.add_argument("--output", required=True, metavar="OUT_PREFIX", help="PREFIX of the average, whose epoch is 0")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=positive, default=5, metavar="N", help="the last N epochs that there are")
    which.add_argument("--epochs", type=epoch_list, help="these epochs, as in 10,12,14")
    return parser


def epoch_list(text: str) -> list[int]:
    """Different whole numbers with commas between."""
    epochs = [not_negative(epoch) for epoch in text.split(",")]
    if len(set(epochs)) < len(epochs):
        raise argparse.ArgumentTypeError(f"{text!r}: names an epoch twice")
    return epochs


def main(args: argparse.Namespace) -> None:
    check_no_file_name(args.prefix, "PREFIX")
    check_prefix(args.output, "--output")
    epochs = args.epochs or last_epochs(args.prefix, args.last)
    for file in files_under(args.output):
        check_not_read(file, *(read for epoch in epochs for read in files_read(args.prefix, epoch)))
    symbol_file, _ = checkpoint_files(args.prefix, 0)
    load_symbol(symbol_file)  # what it cannot read is refused
    preprocessing, names = load_preprocessing(args.prefix), synset_file(args.prefix)
    params = mean_params([checkpoint_files(args.prefix, epoch)[1] for epoch in epochs])
    with ExitStack() as stack:  # the symbol, without which no checkpoint loads, is renamed last
        def write(path, content):
            Path(stack.enter_context(written_atomically(path))).write_bytes(content)
        out_symbol, out_params = checkpoint_files(args.output, 0)
        write(out_symbol, Path(symbol_file).read_bytes())
        write(preprocessing_file(args.output), preprocessing_json(preprocessing).encode())
        if names.exists():
            write(synset_file(args.output), names.read_bytes())
        save_checkpoint_params(out_params, *params)
    print(f"{out_params}: the mean of {len(epochs)} checkpoints of {args.prefix}, epochs "
          f"{', '.join(map(str, epochs))}")


def last_epochs(prefix: str, count: int) -> list[int]:
    """The last `count` epochs of PREFIX. Raises InputError if there are not as many."""
    epochs = epochs_of(prefix)
    if not epochs:
        raise InputError(f"{prefix}: there is no {prefix}-0000.params or of another epoch")
    if len(epochs) < count:
        raise InputError(f"--last {count}: {prefix} has {len(epochs)} ({', '.join(map(str, epochs))}); give --last "
                         f"{len(epochs)}, or train with a larger --keep")
    return epochs[-count:]


def mean_params(files: Sequence[str]) -> tuple[dict, dict]:
    """(arg_params, aux_params): the means of those in these files, in float64, of the types of the first. Raises
    InputError unless all have the same names and shapes."""
    first = load_checkpoint_params(files[0])
    totals = [{name: array.astype(np.float64) for name, array in group.items()} for group in first]
    for file in files[1:]:
        loaded = load_checkpoint_params(file)
        for theirs, total in zip(loaded, totals):
            check_alike(theirs, total, file, files[0])
            for name, array in theirs.items():
                total[name] += array
    arg_params, aux_params = ({name: (array / len(files)).astype(group[name].dtype) for name, array in total.items()}
                              for total, group in zip(totals, first))
    return arg_params, aux_params


def check_alike(theirs: dict, ours: dict, file: str, first: str) -> None:
    """Raise InputError unless both have arrays of the same names and shapes."""
    for name in sorted({*theirs, *ours}):
        shapes = [group[name].shape if name in group else None for group in (theirs, ours)]
        if shapes[0] != shapes[1]:
            has = [f"has {name} of shape {shape}" if shape is not None else f"has no {name}" for shape in shapes]
            raise InputError(f"{file}: {has[0]}, and {first} {has[1]}: they are of different networks")


if __name__ == "__main__":
    with reported("average_checkpoints.py"):
        main(get_args_parser().parse_args())

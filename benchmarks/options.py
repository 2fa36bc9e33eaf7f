#!/usr/bin/env python
"""What an option of train_imagenet.py is worth on a folder of photographs, in accuracy and in time. Examples:

    python benchmarks/options.py tiny-imagenet-20/ --scratch SCRATCH --multiplier 0.5
    python benchmarks/options.py tiny-imagenet-20/ --scratch SCRATCH --multiplier 0.5 --options "96 px" "128 px"
    python benchmarks/options.py flowers-5/ --scratch SCRATCH --model-prefix PREFIX --side 96 --epochs 5

The folder has train/ and val/, with a folder of photographs for each class. Without --model-prefix a network is trained
from random weights with the values of benchmarks/parity.py, with it the recipe `finetune` goes on from those weights;
each option is added alone. val/ is read once, after the last epoch. Runs that the CSV has already are not made again.
"""
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import parity
from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from benchmarks.training_runs import Results, mxnet_version, pack, score, spread, train
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import read_toml
from common.training.recipe import FOLDER

KEYS = ("folder", "start", "multiplier", "side", "epochs", "option", "seed")
LAST = 3  # checkpoints whose mean is scored


@dataclass
class Option:
    """`flags` of train_imagenet.py beside the usual ones, and the PREFIX-`scored` of which the accuracy is told; one
    run serves options with the same flags. `recipe` is run in place of the usual flags, in as many epochs."""
    flags: str = ""
    scored: str = ""
    recipe: str = ""


NONE, DISTILLATION, GROWING = "none", "distillation", "crops that grow"
KEPT = f"--keep {LAST}"
OPTIONS = {
    NONE: Option(KEPT),
    "mixup": Option("--mixup 0.2"),
    "CutMix": Option("--cutmix 1"),
    "TrivialAugment": Option("--auto-augment ta_wide"),
    "RandAugment": Option("--auto-augment ra"),
    "random erasing": Option("--random-erase 0.25"),
    "AdamW": Option("--optimizer adamw --lr 0.001 --wd 0.05"),
    "clipped gradients": Option("--clip-grad-norm 1"),
    "moving average": Option("--ema 0.998", scored="-ema"),
    f"mean of the last {LAST}": Option(KEPT, scored="-mean"),
    DISTILLATION: Option("--teacher {teacher} --temperature 4 --hard-weight 0.3"),
    "96 px": Option("--image-shape 3,96,96"),
    "128 px": Option("--image-shape 3,128,128"),
    GROWING: Option(recipe="today-64"),
    "4 times the epochs": Option("--num-epochs {epochs_4}"),
}


def main(args: argparse.Namespace) -> None:
    refused = {DISTILLATION: "" if args.teacher else "give --teacher PREFIX",
               GROWING: "of networks from random weights only; give no --model-prefix" if args.model_prefix else ""}
    args.options = args.options or [option for option in OPTIONS if not refused.get(option)]
    for option in args.options:
        if why := refused.get(option):
            raise InputError(f"--options '{option}': {why}")
    results, packed = Results(Path(args.out), KEYS), pack(Path(args.folder), Path(args.scratch))
    args.classes = sum(path.is_dir() for path in Path(args.folder, "train").iterdir())
    runs = [{"folder": Path(args.folder).resolve().name, "start": Path(args.model_prefix or "random").name,
             "multiplier": args.multiplier, "side": args.side, "epochs": args.epochs, "option": option, "seed": seed}
            for seed in args.seeds for option in args.options]
    trained: dict = {}
    for run in results.missing(runs):
        row = {**run, **measured(args, run, packed, trained), "versions": mxnet_version(), **machine()}
        print(row, flush=True)
        write_csv(args.out, [row], append=True)
    show(results.of(runs))


def measured(args: argparse.Namespace, run: dict, packed: Path, trained: dict) -> dict:
    """The rest of a row; `trained`: {PREFIX: epochs} of the runs that were made before, to which one may be added."""
    option = OPTIONS[run["option"]]
    twin = next(name for name, other in OPTIONS.items()
                if (other.flags, other.recipe) == (option.flags, option.recipe))
    prefix = Path(args.scratch, "runs", Results(Path(args.out), KEYS).name({**run, "option": twin}))
    if prefix not in trained:
        trained[prefix] = train(packed, prefix, [*base(args, run["seed"], option.recipe), *option.flags.format(
            teacher=args.teacher, epochs_4=4 * args.epochs).split()])
    epoch = len(trained[prefix])
    if option.scored == "-mean":
        output_of("tools/average_checkpoints.py", prefix, "--last", LAST, "--output", f"{prefix}-mean")
        epoch = 0
    return {"flags": f"--recipe {option.recipe}" if option.recipe else option.flags,
            "top_1": f"{score(Path(f'{prefix}{option.scored}'), epoch, packed):.4f}",
            "seconds": f"{sum(row['seconds'] for row in trained[prefix]):.1f}"}


def base(args: argparse.Namespace, seed: int, recipe: str = "") -> list[str]:
    """The flags of a run without any option, or of a recipe from random weights."""
    if args.model_prefix:
        return ["--recipe", "finetune", "--pretrained-model", args.model_prefix, "--num-epochs", str(args.epochs),
                "--image-shape", f"3,{args.side},{args.side}", "--seed", str(seed)]
    network = ["--multiplier", str(args.multiplier)]
    if not recipe:
        return [*parity.flags(args, seed), *network]
    epochs = sum(stage["epochs"] for stage in read_toml(FOLDER / f"{recipe}.toml")["stage"])
    return ["--recipe", recipe, "--epoch-scale", str(args.epochs / epochs), "--num-classes", str(args.classes),
            "--seed", str(seed), *network]


def show(rows: list[dict]) -> None:
    """Top-1 of each option, and its seconds beside those of none, of the same seed and processor."""
    seconds = {(row["seed"], row["processor"]): float(row["seconds"]) for row in rows if row["option"] == NONE}
    for option in OPTIONS:
        if found := [row for row in rows if row["option"] == option]:
            ratios = [float(row["seconds"]) / seconds[run] for row in found
                      if (run := (row["seed"], row["processor"])) in seconds]
            time = f", {np.median(ratios):.2f} of the time" if ratios else ""
            print(f"{option}: {spread([float(row['top_1']) for row in found])}{time}")


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="photographs: train/ and val/, a folder for each class in both")
    parser.add_argument("--options", nargs="+", choices=OPTIONS, help="what to measure (default: all)")
    parser.add_argument("--model-prefix", help="PREFIX of the weights to go on from")
    parser.add_argument("--teacher", help="PREFIX of the teacher, for distillation")
    parser.add_argument("--multiplier", type=float, default=1.0, help="of a network from random weights")
    parser.add_argument("--side", type=positive, default=64, help="pixels of the crop")
    parser.add_argument("--epochs", type=positive, default=8, help="of each run")
    parser.add_argument("--seeds", type=not_negative, nargs="+", default=[0, 1, 2], help="a run for each")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for packed photographs and checkpoints, "
                        "kept for the next call")
    parser.add_argument("--out", type=output, default="benchmarks/options.csv", help="CSV file that grows")
    return parser


if __name__ == "__main__":
    with reported("options.py"):
        main(get_args_parser().parse_args())

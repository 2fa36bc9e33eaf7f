#!/usr/bin/env python
"""MobileNetV2 trained from random weights by train_imagenet.py and by PyTorch, in the same way. Example:

    python benchmarks/parity.py tiny-imagenet-20/ --python RUNTIMES/bin/python --scratch /tmp/parity

The folder has train/ and val/, with a folder of photographs for each class. Both train the same network with the same
distribution of augmentations, schedule and weight decay, for the same epochs, from weights of one distribution. Runs
that the CSV has already are not measured again. --python names that of a virtual environment with what
requirements-runtimes.txt lists.
"""
import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import machine, output, write_csv
from benchmarks.training_runs import Results, by_pytorch, mxnet_version, pack, spread, train
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import reported
from common.base.files import written_atomically

# one rate for both: SGD with Nesterov's momentum, cosine to 0 after a warm-up
BATCH, LR, MOMENTUM, DECAY, SMOOTHING, WARMUP = 64, 0.05, 0.9, 4e-5, 0.1, 1.0
AREA = (0.25, 1.0)  # of the photograph, that a square crop shows
COLOURS = ("max-random-h", "max-random-s", "max-random-l")
CONTENDERS = ("train_imagenet.py", "PyTorch")
KEYS = ("contender", "side", "epochs", "seed")


def flags(args: argparse.Namespace, seed: int) -> list[str]:
    given = {"num-classes": args.classes, "image-shape": f"3,{args.side},{args.side}", "num-epochs": args.epochs,
             "seed": seed, "batch-size": BATCH, "lr": LR, "optimizer": "nag", "mom": MOMENTUM, "wd": DECAY,
             "lr-mode": "cosine", "warmup-epochs": WARMUP, "label-smoothing": SMOOTHING, "random-resized-crop": 1,
             "min-random-area": AREA[0], "max-random-area": AREA[1], "min-random-aspect-ratio": 1,
             "max-random-aspect-ratio": 1, **dict.fromkeys(COLOURS, 0)}
    return [text for flag, value in given.items() for text in (f"--{flag}", str(value))]


def request(args: argparse.Namespace, seed: int) -> dict:
    """The same for `benchmarks.pytorch_training`."""
    return {"train": str(Path(args.folder, "train").resolve()), "val": str(Path(args.folder, "val").resolve()),
            "classes": args.classes, "side": args.side, "epochs": args.epochs, "seed": seed, "batch_size": BATCH,
            "lr": LR, "optimizer": "nag", "momentum": MOMENTUM, "weight_decay": DECAY, "label_smoothing": SMOOTHING,
            "warmup_epochs": WARMUP, "resized_crop": AREA, "shorter": (0, 0), "resize": round(args.side * 256 / 224),
            "threads": machine()["cores"]}


def main(args: argparse.Namespace) -> None:
    results, packed = Results(Path(args.out), KEYS), pack(Path(args.folder), Path(args.scratch))
    args.classes = sum(path.is_dir() for path in Path(args.folder, "train").iterdir())
    runs = [{"contender": contender, "side": args.side, "epochs": args.epochs, "seed": seed}
            for seed in args.seeds for contender in CONTENDERS]
    for run in results.missing(runs):
        if run["contender"] == "PyTorch":
            rows, versions = by_pytorch(args.python, request(args, run["seed"]), Path(args.scratch))
            versions = f"torch {versions}"
        else:
            prefix = Path(args.scratch, "runs", f"{args.side}-{args.epochs}-{run['seed']}")
            rows, versions = train(packed, prefix, flags(args, run["seed"]), validate=True), mxnet_version()
        write_csv(args.out, [{**run, "epoch": row["epoch"], "loss": f"{row['loss']:.4f}",
                              "train_top_1": f"{row['train_top_1']:.4f}", "top_1": f"{row['top_1']:.4f}",
                              "seconds": f"{row['seconds']:.1f}", "versions": versions, **machine()} for row in rows],
                  append=True)
    rows = results.of(runs)
    for contender in CONTENDERS:
        last = [float(row["top_1"]) for row in rows if row["contender"] == contender and row["epoch"] == row["epochs"]]
        print(f"{contender}: top-1 after {args.epochs} epochs {spread(last)}")
    draw(rows, args.chart)


def draw(rows: Iterable[dict], path: str) -> None:
    """Loss in training and top-1 in validation by epoch: mean, and from the least to the greatest of the seeds."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, column, title in zip(axes, ("loss", "top_1"), ("loss in training", "top-1 in validation")):
        for contender in CONTENDERS:
            curves = {}
            for row in rows:
                if row["contender"] == contender:
                    curves.setdefault(row["seed"], []).append(float(row[column]))
            values = np.array(list(curves.values()))
            epochs = np.arange(1, values.shape[1] + 1)
            line, = panel.plot(epochs, values.mean(axis=0), label=f"{contender}, {len(values)} seeds")
            panel.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
        panel.set(title=title, xlabel="epoch")
        panel.grid(alpha=0.3)
    axes[0].legend()
    with written_atomically(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="photographs: train/ and val/, a folder for each class in both")
    parser.add_argument("--side", type=positive, default=64, help="pixels of the crop")
    parser.add_argument("--epochs", type=positive, default=8, help="of each run")
    parser.add_argument("--seeds", type=not_negative, nargs="+", default=[0, 1, 2], help="a run of both for each")
    parser.add_argument("--python", default=sys.executable, help="the Python that has torch and torchvision")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for packed photographs and checkpoints, "
                        "kept for the next call")
    parser.add_argument("--out", type=output, default="benchmarks/parity.csv", help="CSV file that grows")
    parser.add_argument("--chart", type=output, default="docs/parity.png", help="picture to draw")
    arguments = parser.parse_args()
    with reported("parity.py"):
        main(arguments)

#!/usr/bin/env python
"""What each recipe of recipes/ reaches on the demo's handwritten digits, scaled down to a few minutes. Example:

    python benchmarks/recipes.py --out benchmarks/recipes.csv

The digits are packed in a temporary folder, where train_imagenet.py and eval_imagenet.py then run as anyone would run
them, so that the flags in the table can be typed as they are. It fails where a recipe scores less than LEAST.
"""
import argparse
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import ROOT, output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, not_negative
from common.base.errors import reported
from common.packing.prepare import prepare
from tools.make_digits import PACKED

SHOWN = {"stdout": None, "stderr": None}  # what a run says is for who waits for it
LEAST = 0.95
SHAPE = "--image-shape 3,48,48"
# a mirrored digit is none, and one in a larger image than 0.6 of what is packed does not fit into the crop
SMALL = f"--multiplier 0.25 --num-classes 10 {SHAPE} --batch-size 32 --random-mirror 0 --max-random-scale 0.6"
FIVE = "five/digits"  # a network of five classes, from which the two of `finetune` start

# run: (recipe, its flags, whether LEAST holds for it)
RUNS = {
    "digits": ("digits", "", True),
    "published-1_0": ("published-1_0", f"{SMALL} --epoch-scale 0.13", True),
    "published-1_4": ("published-1_4", f"{SMALL} --epoch-scale 0.13", True),
    "classic-480": ("classic-480", f"{SMALL} --epoch-scale 0.15 --num-epochs 32", True),
    "cosine-150": ("cosine-150", f"{SMALL} --min-random-area 0.5 --epoch-scale 0.25", True),
    # a small network, half trained, has far to go: at the rates of the recipe it needs more epochs
    "finetune": ("finetune", f"{SMALL} --lr 0.01 --epoch-scale 2 --pretrained-model {FIVE}-0016.params", True),
    "finetune-last-layers": ("finetune", f"{SMALL} --epoch-scale 2 --pretrained-model {FIVE}-0016.params "
                             "--train-from last-1x1-conv", False),
}


def train(folder: Path, recipe: str, flags: str, data: str, prefix: str) -> None:
    output_of(ROOT / "train_imagenet.py", "--recipe", recipe, "--data-train", f"{data}/train.rec", "--model-prefix",
              prefix, *flags.split(), cwd=folder, **SHOWN)


def prepare_start(folder: Path) -> None:
    """Train a network on digits 0 to 4 alone, which the runs of `finetune` turn to all ten."""
    for part in ("train", "val"):
        for digit in range(5):
            classes = folder / "five-images" / part
            classes.mkdir(parents=True, exist_ok=True)
            (classes / f"digit{digit}").symlink_to(folder / "digits" / "images" / part / f"digit{digit}")
    prepare(folder / "five-images", folder / "five", short_side=PACKED, any_count=True)
    train(folder, "digits", "--num-classes 5 --epoch-scale 0.5", "five", FIVE)


def measure(folder: Path, run: str, seed: int) -> dict:
    """A row of the table."""
    recipe, flags, _ = RUNS[run]
    prefix, start = f"{run}/x", time.monotonic()
    train(folder, recipe, f"{flags} --seed {seed}", "digits", prefix)
    seconds = time.monotonic() - start
    epochs = max(int(path.stem[-4:]) for path in folder.glob(f"{prefix}-????.params"))
    said = output_of(ROOT / "eval_imagenet.py", "--model-prefix", prefix, "--epoch", epochs, *SHAPE.split(),
                     "--data-val", "digits/val.rec", cwd=folder, stderr=None)
    top_1, images = re.fullmatch(r"top-1 (\S+) .*\((\d+) images\)\n", said).groups()
    return {"run": run, "recipe": recipe, "flags": flags, "seed": seed, "epochs": epochs, "images": images,
            "top-1": top_1, "seconds": f"{seconds:.0f}", **machine(), "mxnet": version("mxnet")}


def main(args: argparse.Namespace) -> None:
    rows, runs = [], args.runs or list(RUNS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output_of(ROOT / "tools" / "make_digits.py", "digits", cwd=folder, **SHOWN)
        if any(FIVE in RUNS[run][1] for run in runs):
            prepare_start(folder)
        for run in runs:
            rows.append(measure(folder, run, args.seed))
            print(rows[-1], flush=True)
    write_csv(args.out, rows)
    low = [row["run"] for row in rows if RUNS[row["run"]][2] and float(row["top-1"]) < LEAST]
    if low:
        sys.exit(f"{args.out}: less than {LEAST} is reached by {', '.join(low)}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="+", choices=RUNS, metavar="RUN", help=f"only these (of {', '.join(RUNS)})")
    parser.add_argument("--seed", type=not_negative, default=0, help="of every run")
    parser.add_argument("--out", type=output, default="benchmarks/recipes.csv", help="CSV file to write")
    with reported("recipes.py"):
        main(parser.parse_args())

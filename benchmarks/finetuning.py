#!/usr/bin/env python
"""Fine-tuning on a folder of photographs, beside logistic regression on the network's features and PyTorch. Examples:

    python benchmarks/finetuning.py flowers/ --model-prefix PREFIX --python PYTHON --scratch SCRATCH
    python benchmarks/finetuning.py flowers/ --model-prefix PREFIX --scratch SCRATCH --held-out 0.2 --flags="--lr 0.01"

The folder has train/ and val/, with a folder of photographs for each class. val/ is read once, after the last epoch;
--held-out, for choosing a recipe's values, takes its place by a share of train/. Rows that the CSV has already are not
measured again. --python names that of a virtual environment with what requirements-runtimes.txt lists.
"""
import argparse
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import machine, output, write_csv
from benchmarks.training_runs import Results, by_pytorch, mxnet_version, pack, place_in, score, spread, train
from common.base.arguments import ArgumentParser, fraction, not_negative, positive
from common.base.errors import reported
from common.base.files import written_atomically

RECIPE, TODAY, BAR = "finetune", "today-finetune", "logistic regression"
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03)  # C of the logistic regression, chosen on a fifth of train/
KEYS = ("contender", "flags", "side", "per_class", "part", "seed")


def main(args: argparse.Namespace) -> None:
    results = Results(Path(args.out), KEYS)
    part = f"{args.held_out:g} of train" if args.held_out else "val"
    runs = [{"contender": contender, "flags": "" if contender == BAR else args.flags,
             "side": args.side, "per_class": args.per_class or "all", "part": part, "seed": seed}
            for seed in args.seeds for contender in args.contenders
            if contender != BAR or args.per_class or not seed]  # it does not depend on the seed
    for run in results.missing(runs):
        photographs = chosen(args, run["seed"])
        packed = pack(photographs, Path(args.scratch))
        began = time.monotonic()
        top_1, about = CONTENDERS[run["contender"]](args, run, photographs, packed)
        row = {**run, "top_1": f"{top_1:.4f}", "minutes": f"{(time.monotonic() - began) / 60:.1f}", **about,
               "checkpoint": Path(args.model_prefix).name, **machine()}
        print(row, flush=True)
        write_csv(args.out, [row], append=True)
    for contender in args.contenders:
        if rows := results.of(run for run in runs if run["contender"] == contender):
            print(f"{contender}: {spread([float(row['top_1']) for row in rows])}")
    if rows := [row for row in results.rows() if row["part"] == "val"]:
        draw(rows, args.chart)


def draw(rows: Iterable[dict], path: str) -> None:
    """A panel for each number of photographs, size and flags, a line for each contender, a dot for each seed."""
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["contender"] == BAR):  # which has no flags, and is in each panel
        title = f"{row['per_class']} photographs{' of a class' * (row['per_class'] != 'all')}, {row['side']} px"
        theirs = [panel for panel in panels if panel.startswith(title)] if row["contender"] == BAR else []
        for panel in theirs or [f"{title} {row['flags']}".strip()]:
            panels.setdefault(panel, {}).setdefault(row["contender"], []).append(float(row["top_1"]))
    figure = Figure((8, 0.5 + 1.5 * len(panels)), layout="constrained")
    for axes, (title, values) in zip(np.ravel(figure.subplots(len(panels), sharex=True)), panels.items()):
        names = [name for name in CONTENDERS if name in values]
        for place, name in enumerate(names):
            axes.plot(values[name], [place] * len(values[name]), "o", alpha=0.6)
            axes.plot(np.mean(values[name]), place, "|", color="black", markersize=16)
        axes.set(title=title, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("top-1; a dot for each seed, a line at their mean")
    with written_atomically(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def chosen(args: argparse.Namespace, seed: int) -> Path:
    """A folder with links to the photographs: of train/ as many of each class as --per-class says, drawn by the seed,
    and val/, or what is held out of train/."""
    name = f"{args.per_class or 'all'}-{args.held_out:g}" + (f"-{seed}" if args.per_class else "")
    folder = place_in(Path(args.scratch), name, Path(args.folder))
    if folder.exists():
        return folder
    for source in sorted(path for path in Path(args.folder, "train").iterdir() if path.is_dir()):
        photographs = sorted(source.iterdir())
        random.Random(0).shuffle(photographs)
        held = round(args.held_out * len(photographs))
        train = photographs[held:]
        if args.per_class:
            train = random.Random(seed).sample(train, args.per_class)
        val = photographs[:held] if held else sorted(Path(args.folder, "val", source.name).iterdir())
        for part, files in (("train", train), ("val", val)):
            (folder / part / source.name).mkdir(parents=True)
            for file in files:
                (folder / part / source.name / file.name).symlink_to(file.resolve())
    return folder


def logistic_regression(args: argparse.Namespace, run: dict, photographs: Path, packed: Path) -> tuple[float, dict]:
    """On the pooled features of the network as it is, of images prepared as evaluation does."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    (train, train_labels), (val, val_labels) = features(args, photographs, packed)
    fitted, held, labels, held_labels = train_test_split(train, train_labels, test_size=0.2, random_state=0,
                                                         stratify=train_labels)

    def model(strength):
        return LogisticRegression(C=strength, max_iter=2000)
    best = max(STRENGTHS, key=lambda strength: model(strength).fit(fitted, labels).score(held, held_labels))
    score = model(best).fit(train, train_labels).score(val, val_labels)
    return score, {"epochs": "", "versions": f"scikit-learn {version('scikit-learn')}, C {best:g}"}


def features(args: argparse.Namespace, photographs: Path, packed: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(features (N, 1280), labels (N,)) of train/, of val/]"""
    from common.find_mxnet import mx
    from common.images.options import preprocessing_of
    from common.images.preprocess import preprocess, read_image

    settings, network, arg_params, aux_params = start(args, packed)
    executor = network.get_internals()["flatten_output"].simple_bind(mx.cpu(), grad_req="null",
                                                                     data=(1, 3, args.side, args.side))
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    found = []
    for part in ("train", "val"):
        files = [(file, label) for label, folder in enumerate(sorted((photographs / part).iterdir()))
                 for file in sorted(folder.iterdir())]
        found.append((np.concatenate([executor.forward(data=preprocess(
            read_image(file), settings.image_shape, preprocessing_of(settings)))[0].asnumpy() for file, _ in files]),
            np.array([label for _, label in files])))
    return found


def start(args: argparse.Namespace, packed: Path, recipe: str = RECIPE, unfolded: bool = False) -> tuple:
    """(settings, network, arg_params, aux_params) that a run begins with; `unfolded`: with the statistics that
    train_imagenet.py gives folded weights."""
    import train_imagenet
    from common.checkpoint.ndarrays import start_params
    from common.data import get_rec_iter
    from common.find_mxnet import mx
    from common.training.pretrained import arrays_of, weights_of
    from common.training.recipe import parse
    from common.training.unfolding import unfold
    from symbols.mobilenetv2 import get_symbol

    flags = parse(train_imagenet.get_args_parser(), [
        "--recipe", recipe, "--data-train", f"{packed}/train.rec", *shared(args)])
    settings, network = flags.recipe.settings(flags, 0), get_symbol(**vars(flags))
    weights = weights_of(args.model_prefix)
    params = start_params(network, arrays_of(weights), weights, (1, *settings.image_shape))
    if unfolded:
        unfold(network, *params, (), get_rec_iter(flags, mx.kv.create("local"))[0], mx.cpu(), weights)
    return settings, network, *params


def shared(args: argparse.Namespace) -> list[str]:
    return ["--pretrained-model", args.model_prefix, "--image-shape", f"3,{args.side},{args.side}",
            *shlex.split(args.flags)]


def trained(args: argparse.Namespace, run: dict, photographs: Path, packed: Path, *flags: str,
            recipe: str = RECIPE) -> tuple[float, dict]:
    prefix = Path(args.scratch, "runs", Results(Path(args.out), KEYS).name(run))
    rows = train(packed, prefix, ["--recipe", recipe, *shared(args), "--seed", str(run["seed"]), *flags])
    return score(prefix, len(rows), packed), {"epochs": len(rows), "versions": mxnet_version()}


def by_torch(args: argparse.Namespace, run: dict, photographs: Path, packed: Path,
             recipe: str = RECIPE) -> tuple[float, dict]:
    """The recipe's values in the words of `benchmarks.pytorch_training.Request`."""
    from common.data.iterators import augmentation_options
    from common.images.options import preprocessing_of

    settings, _, arg_params, aux_params = start(args, packed, recipe, unfolded=True)
    weights = Path(args.scratch, "start.npz")
    np.savez(weights, **{name: array.asnumpy() for name, array in {**arg_params, **aux_params}.items()})
    prepared, augmented = preprocessing_of(settings), augmentation_options(settings)
    shorter = [augmented["resize"] * augmented[f"{end}_random_scale"] for end in ("min", "max")]
    rows, versions = by_pytorch(args.python, {
        "train": str(photographs / "train"), "val": str(photographs / "val"), "classes": settings.num_classes,
        "side": args.side, "shorter": shorter, "epochs": settings.epochs, "seed": run["seed"],
        "batch_size": settings.batch_size, "lr": settings.lr, "head_lr_mult": settings.head_lr_mult,
        "warmup_epochs": settings.warmup_epochs, "momentum": settings.mom, "optimizer": settings.optimizer,
        "weight_decay": settings.wd, "label_smoothing": settings.label_smoothing,
        "hls": [settings.max_random_h, settings.max_random_l, settings.max_random_s], "mean": prepared.mean,
        "std": prepared.std, "resize": prepared.resize_for(args.side), "same_padding": settings.padding == "same",
        "start": str(weights), "val_once": True, "threads": machine()["cores"]}, Path(args.scratch))
    return rows[-1]["top_1"], {"epochs": len(rows), "versions": f"torch {versions}"}


CONTENDERS: dict[str, Callable] = {
    BAR: logistic_regression,
    "all layers": trained,
    "all layers, AdamW": partial(trained, recipe=TODAY),
    "fc alone": lambda *given: trained(*given, "--train-from", "fc"),
    "all layers, PyTorch": by_torch,
    "all layers, AdamW, PyTorch": partial(by_torch, recipe=TODAY),
}

if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="photographs: train/ and val/, a folder for each class in both")
    parser.add_argument("--model-prefix", required=True, help="PREFIX of the weights to start from")
    parser.add_argument("--side", type=positive, default=128, help="pixels of the crop")
    parser.add_argument("--seeds", type=not_negative, nargs="+", default=[0, 1, 2], help="one run for each")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="what to measure")
    parser.add_argument("--flags", default="", help="of train_imagenet.py, in place of the recipe's values")
    parser.add_argument("--per-class", type=positive, help="train on so many photographs of each class")
    parser.add_argument("--held-out", type=fraction, default=0.0, help="validate on this share of train/, not on val/")
    parser.add_argument("--python", default=sys.executable, help="the Python that has torch and torchvision")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for packed photographs and checkpoints, "
                        "kept for the next call")
    parser.add_argument("--out", type=output, default="benchmarks/finetuning.csv", help="CSV file that grows")
    parser.add_argument("--chart", type=output, default="docs/finetuning.png",
                        help="picture to draw, of all rows on val/")
    arguments = parser.parse_args()
    with reported("finetuning.py"):
        main(arguments)

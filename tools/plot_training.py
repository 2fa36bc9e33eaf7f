#!/usr/bin/env python
"""Draw the curves of training: loss, accuracy, learning rate and throughput of one or several runs. Examples:

    python tools/plot_training.py models/mobilenetv2-metrics.jsonl
    python tools/plot_training.py models/a-metrics.jsonl old.log --labels new,old --published 1_0 -o compared.png
    python tools/plot_training.py --published 1_4

A RUN is PREFIX-metrics.jsonl, or a log of MXNet's or GluonCV's image-classification scripts. A published curve lies
behind the runs, in grey; alone it has panels for accuracy and learning rate only, since the published logs
hold no more.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.curves.picture import BEHIND, COLORS, PANELS, X_LABELS, Curve, save_picture
from common.curves.read import read_published, read_run

PUBLISHED = Path(__file__).resolve().parent.parent / "data" / "published"
PUBLISHED_NAMES = ("1_0", "1_4")
PUBLISHED_NOTE = "{}: from the logs of liangfu/mxnet-mobilenet-v2; training accuracy is of each epoch's last batches"


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="*", help=f"metrics or log of a run; {len(COLORS)} at most")
    parser.add_argument("--labels", metavar="A,B", help="the runs' names in the legend (default: those of the files)")
    parser.add_argument("--published", metavar="1_0|1_4|FILE.csv", help="the curve of these published weights, or of "
                        "a table like those in data/published/")
    parser.add_argument("--x", choices=X_LABELS, default="epoch", help="epochs, or hours: the epochs' times added up")
    parser.add_argument("-o", "--output", metavar="PNG", default="training.png", help="picture to write")
    return parser


def main(args: argparse.Namespace) -> None:
    if not (args.runs or args.published):
        raise InputError("nothing to draw: give a RUN, or --published 1_0")
    if len(args.runs) > len(COLORS):
        raise InputError(f"{len(args.runs)} runs: more than {len(COLORS)} cannot be told apart")
    if Path(args.output).suffix.lower() != ".png":
        raise InputError(f"-o {args.output}: give the name of a .png file")
    check_not_read(args.output, *args.runs, args.published and published(args.published)[1])
    curves = [Curve(label, color, read_run(path))
              for label, color, path in zip(run_labels(args.runs, args.labels), COLORS, args.runs)]
    for path, curve in zip(args.runs, curves):
        if curve.run.note:
            print(f"warning: {path}: {curve.run.note}", file=sys.stderr)
    note = ""
    if args.published:
        label, path = published(args.published)
        curves.insert(0, Curve(label, BEHIND if curves else COLORS[0], read_published(path)))
        note = PUBLISHED_NOTE.format(label) if args.published in PUBLISHED_NAMES else ""
    save_picture(args.output, curves, args.x, note, panels=PANELS if args.runs else ("Accuracy", "Learning rate"))
    print(args.output)


def run_labels(paths: list[str], given: str | None) -> list[str]:
    labels = [Path(path).name.removesuffix("-metrics.jsonl").removesuffix(".log") for path in paths]
    if given is not None:
        labels = given.split(",")
    elif len(set(labels)) < len(labels):
        labels = paths
    if len(labels) != len(paths):
        raise InputError(f"--labels {given}: {len(labels)} names for {len(paths)} runs")
    labels = [label.encode("utf-8", "replace").decode() for label in labels]
    return [label if len(label) <= 40 else f"{label[:18]}...{label[-19:]}" for label in labels]


def published(name: str) -> tuple[str, str | Path]:
    """(label, path) of a published curve."""
    if name in PUBLISHED_NAMES:
        return f"published {name.replace('_', '.')}", PUBLISHED / f"published-training-curve-{name}.csv"
    if not name.endswith(".csv"):
        raise InputError(f"--published {name}: give {', '.join(PUBLISHED_NAMES)} or a FILE.csv")
    return f"published ({run_labels([name], None)[0]})", name


if __name__ == "__main__":
    with reported("plot_training.py"):
        main(get_args_parser().parse_args())

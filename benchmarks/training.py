#!/usr/bin/env python
"""A training step of MobileNetV2 1.0 on the processor: MXNet's own, with the fused operator, and PyTorch's. Example:

    python benchmarks/training.py

Each contender is a process of its own with a thread for each core, in float32. In each round every one has a turn, in
random order, that begins when the one before it rests: a step that is not counted, then steps for some seconds. A step
is forward, backward and SGD with momentum on the same batch, without input. Medians are those of all steps, ratios
those of the rounds' medians. The profile is MXNet's, of each operator for itself, in other processes.
"""
import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contender import Contender, add_contender_args, pythons, turns
from benchmarks.results import machine, output, write_csv
from benchmarks.training_runners import RUNNERS
from common.base.arguments import ArgumentParser, positive
from common.base.errors import reported

BASE = "pytorch"
MOST = 6  # operators in the profile; the rest is one row


def started(args: argparse.Namespace, name: str, scratch: str, **request: int) -> Contender:
    request = {"batch_size": args.batch_size, "cores": machine()["cores"], **request}
    return Contender("benchmarks.training_runners", name, args.pythons[name], request, scratch)


def measured(args: argparse.Namespace, side: int, scratch: str) -> dict:
    """{name: (lists of the seconds of steps, of each round; peak MiB; what it says of itself)}"""
    times = {name: [] for name in args.pythons}
    with ExitStack() as stack:
        contenders = []
        for name in args.pythons:
            contenders.append(started(args, name, scratch, side=side))
            stack.callback(contenders[-1].close)
        for contender in turns(contenders, args.rounds, side, f"{side} px"):
            times[contender.name].append(contender.turn(0, args.seconds)[0])
        return {contender.name: (times[contender.name], contender.peak_mib(), contender.ask({"do": "answer"}))
                for contender in contenders}


def rows_of(args: argparse.Namespace, side: int,
            found: dict[str, tuple[list[list[float]], float, dict]]) -> Iterator[dict]:
    medians = {name: list(map(statistics.median, times)) for name, (times, *_) in found.items()}
    for name, (times, peak, about) in found.items():
        low, median, high = np.quantile(sum(times, []), (0.25, 0.5, 0.75))
        ratio = statistics.median(b / a for a, b in zip(medians[name], medians[BASE])) if BASE in found else None
        yield {"side": side, "batch": args.batch_size, "contender": RUNNERS[name].label,
               "images_per_s": f"{args.batch_size / median:.1f}", "images_per_s_q1": f"{args.batch_size / high:.1f}",
               "images_per_s_q3": f"{args.batch_size / low:.1f}",
               "times_pytorch_nchw": f"{ratio:.2f}" if ratio else "", "step_ms": f"{1e3 * median:.0f}",
               "steps": sum(map(len, times)), "rounds": args.rounds, "peak_mib": f"{peak:.0f}",
               "setting": about["setting"], "versions": about["versions"], **machine()}


def profile_rows(args: argparse.Namespace, side: int, scratch: str) -> Iterator[dict]:
    """Milliseconds that a step spends in MXNet's operators, the costly ones first."""
    for name in (name for name in args.pythons if name.startswith("mxnet")):
        contender = started(args, name, scratch, side=side, profile=True)
        try:
            found = contender.ask({"do": "answer"})["found"]
        finally:
            contender.close()
        costly = sorted(found, key=found.get, reverse=True)
        total = sum(found.values())
        shown = {**{operator: found[operator] for operator in costly[:MOST]},
                 "others": sum(found[operator] for operator in costly[MOST:])}
        for operator, milliseconds in shown.items():
            yield {"side": side, "batch": args.batch_size, "contender": RUNNERS[name].label, "operator": operator,
                   "step_ms": f"{milliseconds:.0f}", "share": f"{milliseconds / total:.2f}", **machine()}


def main(args: argparse.Namespace) -> None:
    rows, profile = [], []
    args.pythons = pythons(args, RUNNERS)
    with tempfile.TemporaryDirectory() as scratch:
        for side in args.sides:
            rows += rows_of(args, side, measured(args, side, scratch))
            profile += profile_rows(args, side, scratch)
    for path, found, columns in (
            (args.out, rows, ("side", "contender", "images_per_s", "times_pytorch_nchw", "peak_mib")),
            (args.profile, profile, ("side", "contender", "operator", "step_ms", "share"))):
        for row in found:
            print(*(row[name] for name in columns), sep="\t")
        if found:
            write_csv(path, found)


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    add_contender_args(parser, RUNNERS)
    parser.add_argument("--sides", type=positive, nargs="+", default=[224, 128], help="pixels of an image's side")
    parser.add_argument("--batch-size", type=positive, default=32, help="images in a step")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each")
    parser.add_argument("--seconds", type=positive, default=6, help="in which the steps of a turn begin")
    parser.add_argument("--out", type=output, default="benchmarks/training.csv", help="CSV file to write")
    parser.add_argument("--profile", type=output, default="benchmarks/training_profile.csv",
                        help="CSV file of the profile")
    return parser


if __name__ == "__main__":
    with reported("training.py"):
        main(get_args_parser().parse_args())

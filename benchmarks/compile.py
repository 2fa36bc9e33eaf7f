#!/usr/bin/env python
"""Seconds that TVM takes to compile MobileNetV2 1.0 at 224x224: BatchNorm folded by us, or left to TVM. Example:

    python benchmarks/compile.py --rounds 3 --out benchmarks/compile.csv

Both in turn, in one process, after a build that is not counted.
"""
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.find_mxnet import mx  # noqa: F401  (before TVM)

# isort: split
from benchmarks.results import machine, write_csv
from common.arguments import ArgumentParser
from common.compiler.build import build, save
from common.compiler.checkpoint import to_relay
from common.compiler.targets import host_cpu, resolve_target
from common.symbol_json import fold_batch_norm, load_symbol, parameter_names
from symbols.mobilenetv2 import get_symbol

SHAPE = (1, 3, 224, 224)


def network():
    """(graph, params) of MobileNetV2 1.0; a build does not depend on the values, so all of them are one."""
    symbol = get_symbol()
    with tempfile.TemporaryDirectory() as folder:
        symbol.save(f"{folder}/x-symbol.json")
        graph = load_symbol(f"{folder}/x-symbol.json")
    arg_shapes, _, aux_shapes = symbol.infer_shape(data=SHAPE)
    shapes = dict(zip(symbol.list_arguments() + symbol.list_auxiliary_states(), arg_shapes + aux_shapes))
    return graph, {name: np.ones(shapes[name], np.float32) for name in parameter_names(graph)}


def compile_network(graph, params, target):
    """As `python -m common.compiler` does: built, and written to files."""
    with tempfile.TemporaryDirectory() as folder:
        save(build(to_relay(graph, params, SHAPE), resolve_target(target)), folder, {})


def main(args):
    graph, params = network()
    ways = {"folded by fold_batch_norm": lambda: fold_batch_norm(graph, params), "left to TVM": lambda: (graph, params)}
    rows = []
    for target in args.targets:
        seconds = {way: [] for way in ways}
        compile_network(*fold_batch_norm(graph, params), target)
        for _ in range(args.rounds):
            for way, prepare in ways.items():
                start = time.perf_counter()
                compile_network(*prepare(), target)
                seconds[way].append(time.perf_counter() - start)
        base = statistics.median(seconds["left to TVM"])
        for way, times in seconds.items():
            median = statistics.median(times)
            rows.append({"target": target, "batch_norm": way, "builds": len(times),
                         "median_s": f"{median:.1f}", "min_s": f"{min(times):.1f}", "max_s": f"{max(times):.1f}",
                         "ratio_to_tvm": f"{median / base:.2f}", **machine(), "processor": host_cpu(),
                         "tvm": version("xtc-tvm-python-bindings")})
            print(rows[-1])
    write_csv(args.out, rows)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=["opencl", "llvm"], help="TVM targets")
    parser.add_argument("--rounds", type=int, default=3, help="builds of each kind that are counted")
    parser.add_argument("--out", default="benchmarks/compile.csv", help="CSV file to write")
    main(parser.parse_args())

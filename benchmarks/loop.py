#!/usr/bin/env python
"""What the training loop costs beside the network: images/s of train_imagenet.py and of a bare loop. Example:

    python benchmarks/loop.py --rounds 5 --out benchmarks/loop.csv

Both train MobileNetV2 1.0 on the same synthetic batches, in turn, each time in a new process. The bare loop is MXNet's
Module alone: forward, backward and update, without scores, reports or a look at signals; both without the operator of
common/training/fused_batchnorm.py. The first batches are not counted. It fails where training is slower than LEAST of
the bare loop.
"""
import argparse
import re
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, positive
from common.base.errors import reported
from common.data.iterators import BENCHMARK_BATCHES

LEAST = 0.97
BATCH, SIDE = 32, 128
WARM_UP = 10
COUNTED = BENCHMARK_BATCHES - WARM_UP
TRAINING = ("train_imagenet.py", "--benchmark", "1", "--batch-size", str(BATCH), "--image-shape", f"3,{SIDE},{SIDE}",
            "--disp-batches", str(WARM_UP), "--fused-batchnorm", "0")
WAYS = {"bare loop": ("benchmarks/loop.py", "--bare"), "train_imagenet.py": TRAINING}


def bare() -> float:
    """Images/s of the least that trains, with the settings that train_imagenet.py has without flags."""
    from common.data.iterators import SyntheticIter
    from common.find_mxnet import mx
    from symbols.mobilenetv2 import get_symbol

    images = SyntheticIter(1000, (BATCH, 3, SIDE, SIDE), BENCHMARK_BATCHES)
    module = mx.mod.Module(get_symbol(), context=mx.cpu())
    module.bind(images.provide_data, images.provide_label)
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    module.init_optimizer(None, "sgd", {"learning_rate": 0.045, "momentum": 0.9, "wd": 4e-5})
    for done, batch in enumerate(images):
        if done == WARM_UP:
            mx.nd.waitall()
            start = time.perf_counter()
        module.forward_backward(batch)
        module.update()
    mx.nd.waitall()
    return COUNTED * BATCH / (time.perf_counter() - start)


def measure(way: str) -> float:
    """Images/s over the batches that are counted, from the lines that tell the speed of so many at a time."""
    said = output_of(*WAYS[way], stderr=subprocess.STDOUT)
    parts = [(int(end) - int(begin), float(speed)) for begin, end, speed
             in re.findall(r"Batch \[(\d+)-(\d+)\]\tSpeed: (\S+) samples/sec", said) if int(begin) >= WARM_UP]
    if sum(batches for batches, _ in parts) != COUNTED:
        sys.exit(f"{way}: told of other batches:\n{said}")
    return COUNTED / sum(batches / speed for batches, speed in parts)


def main(args: argparse.Namespace) -> None:
    speeds = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            speeds[way].append(measure(way))
            print(f"{way}: {speeds[way][-1]:.2f} images/s", flush=True)
    base = statistics.median(speeds["bare loop"])
    rows = []
    for way, values in speeds.items():
        median = statistics.median(values)
        rows.append({"way": way, "batch": BATCH, "side": SIDE, "batches": COUNTED, "runs": len(values),
                     "median": f"{median:.2f}", "min": f"{min(values):.2f}", "max": f"{max(values):.2f}",
                     "ratio_to_bare": f"{median / base:.3f}", **machine(), "mxnet": version("mxnet")})
        print(rows[-1])
    write_csv(args.out, rows)
    if median < LEAST * base:
        sys.exit(f"{args.out}: the ratio is less than {LEAST}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive, default=5, help="runs of each way")
    parser.add_argument("--out", type=output, default="benchmarks/loop.csv", help="CSV file to write")
    parser.add_argument("--bare", action="store_true", help="run the bare loop once, in this process")
    with reported("loop.py"):
        arguments = parser.parse_args()
        if arguments.bare:
            print(f"Batch [{WARM_UP}-{BENCHMARK_BATCHES}]\tSpeed: {bare():.2f} samples/sec")
        else:
            main(arguments)

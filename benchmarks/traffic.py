#!/usr/bin/env python
"""Bytes that a worker of MXNet's parameter server sends and receives for each step of MobileNetV2. Example:

    python benchmarks/traffic.py --steps 5 --out benchmarks/traffic.csv

Workers and servers run on this machine, by tools/launch.py, as many servers as workers; in each step the gradients of
all parameters are pushed and their sums pulled. The bytes are those that the kernel counts for the TCP connections of
each worker. Beside them: what the shapes say, and the seconds that so many bytes take at 1 to 100 Gbit/s.
"""
import argparse
import json
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import ROOT, output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, positive
from common.base.errors import reported

MULTIPLIERS = ("1.0", "1.4")
COMPRESSION = {"type": "2bit", "threshold": 0.5}
TYPES = {"none": 32, "2bit": 2}  # bits of a gradient that is pushed; what is pulled has 32
GIGABITS = (1, 10, 25, 100)
WARM_UP = 2


def shapes(multiplier: str) -> dict[str, tuple[int, ...]]:
    path = ROOT / "data" / "published" / f"published-parameters-{multiplier.replace('.', '_')}.json"
    return {name: tuple(shape) for name, shape in json.loads(path.read_text())["arguments"].items()}


def calculated(multiplier: str, compression: str) -> tuple[int, int]:
    """(bytes pushed, bytes pulled) of a step and worker: each array's gradients in whole words of 4 bytes."""
    sizes = [int(np.prod(shape)) for shape in shapes(multiplier).values()]
    return sum(-(-size * TYPES[compression] // 32) * 4 for size in sizes), sum(size * 4 for size in sizes)


def counters() -> np.ndarray:
    """(sent, received): bytes of this process's TCP connections so far, without the headers of TCP and below.

    They are tcpi_bytes_acked and tcpi_bytes_received of struct tcp_info, linux/tcp.h."""
    total = np.zeros(2, int)
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # a connection of another kind, or one that has just ended
            if os.readlink(link).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as connection:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                total += struct.unpack_from("=QQ", info, 120)
    return total


def work(multiplier: str, compression: str, steps: int, folder: str | Path) -> None:
    """One worker: its bytes of each step, written to a file of `folder`."""
    from common.find_mxnet import mx

    store = mx.kvstore.create("dist_sync")
    if compression != "none":
        store.set_gradient_compression(COMPRESSION)
    gradients = {name: mx.nd.random.uniform(-1, 1, shape) for name, shape in shapes(multiplier).items()}
    for name, gradient in gradients.items():
        store.init(name, gradient)
    rows = []
    for _ in range(WARM_UP + steps):
        before = counters()
        for i, (name, gradient) in enumerate(gradients.items()):
            store.push(name, gradient, priority=-i)  # pushpull() refuses compression
            store.pull(name, out=gradient, priority=-i)
        mx.nd.waitall()
        time.sleep(0.1)  # for the last acknowledgements
        rows.append((counters() - before).tolist())
        store._barrier()
    Path(folder, f"{store.rank}.json").write_text(json.dumps(rows[WARM_UP:]))


def measure(multiplier: str, compression: str, workers: int, steps: int) -> list[tuple[int, int]]:
    """Every worker's [sent, received] of every step."""
    with tempfile.TemporaryDirectory() as folder:
        worker = [sys.executable, __file__, "--work", multiplier, compression, str(steps), folder]
        output_of("tools/launch.py", "-n", workers, *worker, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=None)
        return [tuple(row) for path in Path(folder).iterdir() for row in json.loads(path.read_text())]


def main(args: argparse.Namespace) -> None:
    rows = []
    for multiplier in MULTIPLIERS:
        for compression in TYPES:
            for workers in args.workers:
                sent, received = zip(*measure(multiplier, compression, workers, args.steps))
                pushed, pulled = calculated(multiplier, compression)
                both = statistics.median(a + b for a, b in zip(sent, received))
                rows.append({"multiplier": multiplier, "compression": compression, "workers": workers,
                             "samples": len(sent), "sent": round(statistics.median(sent)), "sent_min": min(sent),
                             "sent_max": max(sent), "received": round(statistics.median(received)),
                             "received_min": min(received), "received_max": max(received),
                             "calculated_push": pushed, "calculated_pull": pulled,
                             "ratio_to_calculated": f"{both / (pushed + pulled):.4f}",
                             **{f"s_at_{speed}_gbit": f"{8 * both / speed / 1e9:.4f}" for speed in GIGABITS},
                             **machine(), "mxnet": version("mxnet")})
                print(rows[-1], flush=True)
    write_csv(args.out, rows)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=positive, default=5, help=f"that are counted, after {WARM_UP} that are not")
    parser.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="numbers of workers")
    parser.add_argument("--out", type=output, default="benchmarks/traffic.csv", help="CSV file to write")
    parser.add_argument("--work", nargs=4, help="MULTIPLIER COMPRESSION STEPS FOLDER: what launch.py starts")
    with reported("traffic.py"):
        arguments = parser.parse_args()
        if arguments.work:
            name, kind, count, out = arguments.work
            work(name, kind, int(count), out)
        else:
            main(arguments)

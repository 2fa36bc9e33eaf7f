#!/usr/bin/env python
"""Find the fastest schedule of each layer on a device, for from_mxnet.py to compile with. Examples:

    python tools/tune.py --target llvm                            this processor, the 1.0 network, one image at a time
    python tools/tune.py --target opencl --batch-size 1 16 --resume
    python tools/tune.py --target "opencl -device=mali -mtriple=aarch64-linux-gnu" --rpc 192.168.1.2:9190 --key board

Each schedule is built and run on the device. A layer's fastest one is written to tuning/DEVICE.json before the next
layer is tuned: an interrupted run keeps what it has found, and --resume goes on from there, or adds another network.
docs/inference.md says how a board is reached. Nothing else should run on the device meanwhile.
"""
import argparse
import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, not_negative, port, positive, positive_amount
from common.base.errors import InputError, reported
from common.base.files import check_not_read, locked
from common.checkpoint.prefix import files_read
from common.images.options import image_shape
from common.inference.choices import FOLDER

if TYPE_CHECKING:
    from tvm import autotvm
    from tvm.target import Target

    from common.compiler.records import Records
    from common.compiler.relay_network import Network
    from common.inference.runtime import Device


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="opencl", help="opencl, llvm (this processor) or any TVM target string")
    parser.add_argument("--trials", type=positive, default=64, help="schedules to try for a layer, at most")
    records = parser.add_argument_group("records")
    records.add_argument("--output", metavar="JSON", help="file of the records (default: tuning/DEVICE.json)")
    records.add_argument("--resume", action="store_true", help="keep the records that the file has, and add to them")
    records.add_argument("--any-processor", action="store_true",
                         help="the records are for every processor with such vectors, not only for this one")
    network = parser.add_argument_group("network (its weights make no difference)")
    network.add_argument("--multiplier", type=positive_amount, nargs="+", help="of MobileNetV2's widths (default: 1.0)")
    network.add_argument("--model-prefix", help="PREFIX of PREFIX-symbol.json, in place of --multiplier")
    network.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    network.add_argument("--image-shape", type=image_shape, default=(3, 224, 224), help="channels,height,width")
    network.add_argument("--batch-size", type=positive, nargs="+", default=[1], help="images at a time")
    board = parser.add_argument_group("another machine")
    board.add_argument("--rpc", type=host_and_port, metavar="HOST:PORT", help="TVM's RPC tracker that knows it")
    board.add_argument("--key", help="its name there")
    return parser


def host_and_port(text: str) -> tuple:
    host, _, number = text.rpartition(":")
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r}: give HOST:PORT, as in 192.168.1.2:9190")
    return host, port(number)


def main(args: argparse.Namespace) -> None:
    if bool(args.rpc) != bool(args.key):
        raise InputError("--rpc and --key go together: the tracker, and the board's name there")
    if args.model_prefix and args.multiplier:
        raise InputError("--multiplier is for tuning without --model-prefix: give one of them")
    from common.compiler.targets import resolve_target
    from common.inference.boards import board
    from common.inference.runtime import describe

    resolve_target(args.target)
    device = board(args.rpc[0], args.rpc[1], args.key, args.target) if args.rpc else describe(args.target)
    target = resolve_target(args.target, device.floats)
    output = Path(args.output or FOLDER / f"{file_name(device.name)}.json")
    check_not_read(output, *(files_read(args.model_prefix, args.epoch) if args.model_prefix else ()))
    output.parent.mkdir(parents=True, exist_ok=True)
    with locked(output.with_name(f".{output.name}.lock"), f"{output}: another tune.py is writing it; give another "
                "--output"):
        tune_layers(args, output, target, device)


def tune_layers(args: argparse.Namespace, output: Path, target: "Target", device: "Device") -> None:
    """Find the schedules that `output` has no records of, and write each as it is found."""
    from common.compiler.measuring import end_processes, reached
    from common.compiler.tuning import let_go, measurement, tasks_of

    found = start(args, output, target, device)
    tasks = missing(found, (task for network in networks(args, target) for task in tasks_of(network, target)))
    print(f"{output}: {len(found.records)} layers are there, {len(tasks)} to tune on {device.name}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.disable(logging.WARNING)  # about schedules that fail
    with reached(args.rpc, args.key, target) as address:
        measured = measurement(target, address)
        try:
            for number, task in enumerate(tasks, start=1):
                print(f"[{number}/{len(tasks)}] {tune_layer(task, args.trials, measured, found)}", flush=True)
        finally:
            end_processes()  # or Python waits until they have finished a measurement
            let_go(measured)
    if not found.records:
        raise InputError(f"no schedule of any layer ran on {device.name}")


def start(args: argparse.Namespace, output: Path, target: "Target", device: "Device") -> "Records":
    """The Records to add to: those of the file, or none."""
    from common.compiler.records import Records, about, load

    described = about(target, device, args.any_processor)
    if not output.exists():
        return Records(output, described, [])
    if not args.resume:
        raise InputError(f"{output}: is there already; --resume adds to it, --output names another file")
    found = load(output)
    for key, value in described.items():
        if found.about[key] != value:
            raise InputError(f"{output}: its records are for {key} {found.about[key]!r}, not {value!r}; give another "
                             "--output")
    return found


def networks(args: argparse.Namespace, target: "Target") -> "Iterator[Network]":
    """The networks to tune, in Relay, one for each width and batch size."""
    from common.compiler.blocked import block_of
    from common.compiler.relay_network import load_network, untrained_network

    for batch_size in args.batch_size:
        data_shape = (batch_size, *args.image_shape)
        if args.model_prefix:
            yield load_network(args.model_prefix, args.epoch, data_shape, block_of(target))
        else:
            for multiplier in args.multiplier or [1.0]:
                yield untrained_network(multiplier, data_shape, block_of(target))


def missing(found: "Records", tasks: "Iterable[autotvm.task.Task]") -> list:
    """The tasks that `found` has no record of, equal ones once."""
    done = {record[0].task.workload for record in found.records}
    return list({task.workload: task for task in tasks if task.workload not in done}.values())


def tune_layer(task: "autotvm.task.Task", trials: int, measured: dict, found: "Records") -> str:
    """Add the fastest schedule to the records, and write them. Returns a line about it."""
    from common.compiler.records import save
    from common.compiler.tuning import NoneRan, tune

    began = time.perf_counter()
    layer = " ".join([task.name, *("x".join(map(str, argument[1])) for argument in task.args[:2])])
    try:
        with progress(min(trials, len(task.config_space))) as on_trials:
            best = tune(task, trials, measured, on_trials)
    except NoneRan as error:
        return f"{layer}: no schedule ran: {error}"
    found.records.append(best)
    save(found)
    cost = min(best[1].costs)
    return f"{layer}: {cost * 1e3:.3f} ms, {task.flop / cost / 1e9:.0f} GFLOP/s, {time.perf_counter() - began:.0f} s"


@contextmanager
def progress(trials: int) -> Iterator[Callable[[int, float | None], None]]:
    """A bar on a terminal; `on_trials(number, seconds of the best or None)` moves it."""
    from tqdm import tqdm

    with tqdm(total=trials, unit=" trials", leave=False, disable=None, dynamic_ncols=True) as line:
        def on_trials(number, best):
            line.update(number)
            if best is not None:
                line.set_postfix_str(f"{best * 1e3:.3f} ms")
        yield on_trials


def file_name(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


if __name__ == "__main__":
    with reported("tune.py"):
        main(get_args_parser().parse_args())

#!/usr/bin/env python
"""One network in many ways: latency, throughput, seconds to the first result, memory, difference from MXNet. Example:

    python benchmarks/inference.py --model-prefix models/imagenet1k-mnetv2-1_0
    python benchmarks/inference.py --model-prefix models/imagenet1k-mnetv2-1_0 --calibration photographs/

Each contender is a process of its own, with a thread for each core, in float32, and has the network as its users have
it: MXNet's checkpoint; for ONNX Runtime and OpenVINO the ONNX, for PyTorch the safetensors of tools/export_weights.py;
for TVM the compiled network, which is in the cache after a first start that is not counted. Input and output are NumPy
arrays, and so a run holds the copies of both. With --calibration there are three in int8 too: TVM, and ONNX Runtime and
OpenVINO with their makers' quantisers, all calibrated on the same photographs; OpenVINO's needs the Python of
requirements-runtimes.txt for --frameworks.

latency: of one image; in each round every contender has a turn, in random order, that begins when the one before it
rests. It warms up, then runs for a quarter of a second, or once. After three rounds all are new processes. Medians and
quartiles are those of all runs; the ratio to ONNX Runtime is the median of the rounds' ratios. throughput: the same
with a batch, in other processes. first result: from the start of the process to the network's first output, with all
files in the system's memory. peak memory: resident, of the last process that runs one image. maximum difference: of
probabilities from MXNet's, of both batches. others_cpu_percent: what all other processes took of the machine during the
turns.
"""
import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contender import Contender, add_contender_args, pythons, turns
from benchmarks.inference_report import draw, markdown
from benchmarks.inference_runners import ALL, IN_8_BITS, QUANTISED, RUNNERS
from benchmarks.int8 import calibration, copied
from benchmarks.processes import ROOT, output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.prefix import check_no_file_name, files_read
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing
from common.images.preprocess import preprocess, read_image

BASE, REFERENCE = "onnxruntime", "mxnet"
WARM_UP, TURN = 0.05, 0.25  # seconds
ROUNDS = 3  # of the same processes: where a process has its memory makes it up to a fifth faster or slower
QUIET = 2  # percent of the machine that others may take without a warning


def requests(args: argparse.Namespace, scratch: str) -> list:
    """What a contender opens, for one image and for a batch; the files are made in `scratch`."""
    request = {"prefix": os.path.abspath(args.model_prefix), "epoch": args.epoch, "host_cpu": "",
               "cores": machine()["cores"], "onnx": f"{scratch}/network.onnx",
               "state_dict": f"{scratch}/network.safetensors"}
    for kind, out in (("onnx", request["onnx"]), ("torchvision", request["state_dict"])):
        output_of("tools/export_weights.py", request["prefix"], out, "--epoch", args.epoch, "--to", kind)
    if any(name.startswith("tvm") for name in args.pythons):
        request["host_cpu"] = output_of("-c", "from common.compiler.targets import host_cpu; print(host_cpu())").strip()
    if any(name.startswith("onnxruntime-avx2") for name in args.pythons):
        output_of("-sC", "native", "avx2-alone", python="make")
        request["avx2_alone"] = str(ROOT / "native" / "build" / "libavx2_alone.so")
    preprocessing = load_preprocessing(args.model_prefix)
    image = preprocess(read_image(ROOT / "data" / "cat.jpg"), preprocessing=preprocessing)
    if args.calibration:
        request |= quantised(args, image.shape[1:], preprocessing, scratch)
    found = []
    for batch in (1, args.batch_size):
        path = f"{scratch}/{batch}.npy"
        np.save(path, np.concatenate([np.roll(image, 14 * shift, axis=3) for shift in range(batch)]))
        found.append(request | {"data": path, "data_shape": [batch, *image.shape[1:]]})
    return found


def quantised(args: argparse.Namespace, image_shape: tuple, preprocessing: Preprocessing, scratch: str) -> dict:
    """What those of QUANTISED open: the checkpoint, calibrated, and its ONNX, quantised as their makers do, with the
    same photographs."""
    args.image_shape, seen = image_shape, calibration(args)
    prefix, float32, images = copied(args, seen, scratch), f"{scratch}/float32.onnx", f"{scratch}/calibration.npy"
    output_of("tools/export_weights.py", prefix, float32, "--epoch", args.epoch, "--to", "onnx", "--fold")
    np.save(images, np.concatenate([preprocess(read_image(path), preprocessing=preprocessing) for path in seen]))
    found = {"calibrated": prefix, "by_onnxruntime": f"{scratch}/static.onnx", "by_nncf": f"{scratch}/nncf.xml"}
    for framework, quantizer in (("onnxruntime", "onnxruntime"), ("openvino", "nncf")):
        users = [name for name in QUANTISED if name.startswith(framework) and name in args.pythons]
        if users:
            output_of("-m", "benchmarks.quantizers", quantizer, float32, images, found[f"by_{quantizer}"],
                      python=args.pythons[users[0]])
    return found


def started(name: str, args: argparse.Namespace, request: dict, scratch: str) -> Contender:
    return Contender("benchmarks.inference_runners", name, args.pythons[name], request, scratch)


def first_results(args: argparse.Namespace, request: dict, scratch: str) -> dict:
    """{name: seconds of each start}. Raises InputError where a network is compiled in one of them."""
    seconds = {name: [] for name in args.pythons}
    for _ in range(args.starts):
        for name in args.pythons:
            contender = started(name, args, request, scratch)
            seconds[name].append(contender.first_result)
            contender.close()
            if "compiling for" in contender.errors():
                raise InputError(f"{name} was compiled again: did files of common/ or tuning/ change, or is the cache "
                                 "too small (MOBILENETV2_CACHE_MB)?")
    return seconds


def measured(args: argparse.Namespace, request: dict, scratch: str) -> dict:
    """{name: dict of "times" (a list of seconds for each round), "others" (percent), "peak_mib", "probabilities",
    "setting", "versions"}."""
    times, ticks = ({name: start.copy() for name in args.pythons} for start in ([], [0, 0]))
    found = {}
    for first in range(0, args.rounds, ROUNDS):
        with ExitStack() as stack:
            contenders = []
            for name in args.pythons:
                contenders.append(started(name, args, request, scratch))
                stack.callback(contenders[-1].close)
            what = f"{request['data_shape'][0]} images, after {first} rounds of {args.rounds}"
            for contender in turns(contenders, min(ROUNDS, args.rounds - first), first, what):
                runs, *taken = contender.turn(WARM_UP, TURN)
                times[contender.name].append(runs)
                ticks[contender.name] = [a + b for a, b in zip(ticks[contender.name], taken)]
            for contender in contenders:
                answer = f"{scratch}/{contender.name}.npy"
                about = contender.ask({"do": "answer", "to": answer})
                others, of_all = ticks[contender.name]
                found[contender.name] = about | {
                    "times": times[contender.name], "others": 100 * others / max(of_all, 1),
                    "peak_mib": contender.peak_mib(), "probabilities": np.load(answer)}
    return found


def rows_of(args: argparse.Namespace, starts: dict[str, list[float]], single: dict[str, dict],
            batch: dict[str, dict]) -> Iterator[dict]:
    """A row for each contender, of what `first_results` and `measured` gave for one image and for a batch."""
    for name in starts:
        one, many = single[name], batch[name]
        low, latency, high = quartiles(sum(one["times"], []))
        slow, middle, fast = (args.batch_size / seconds for seconds in reversed(quartiles(sum(many["times"], []))))
        differences = [np.abs(found[name]["probabilities"] - found[REFERENCE]["probabilities"]).max()
                       for found in (single, batch) if REFERENCE in found]
        yield {"contender": name, "label": ALL[name].label,
               "latency_ms": f"{1e3 * latency:.2f}",
               "latency_q1": f"{1e3 * low:.2f}", "latency_q3": f"{1e3 * high:.2f}",
               "ratio_to_onnxruntime": f"{ratio(one, single[BASE]):.3f}" if BASE in single else "",
               "latency_runs": sum(map(len, one["times"])), "batch": args.batch_size, "images_per_s": f"{middle:.1f}",
               "images_per_s_q1": f"{slow:.1f}", "images_per_s_q3": f"{fast:.1f}",
               "throughput_runs": sum(map(len, many["times"])), "rounds": args.rounds,
               "first_result_s": f"{statistics.median(starts[name]):.2f}",
               "first_result_min": f"{min(starts[name]):.2f}", "first_result_max": f"{max(starts[name]):.2f}",
               "starts": args.starts, "peak_mib": f"{one['peak_mib']:.0f}",
               "peak_mib_of_batch": f"{many['peak_mib']:.0f}",
               "max_difference": f"{max(differences):.1e}" if differences else "",
               "others_cpu_percent": f"{max(one['others'], many['others']):.1f}", "setting": one["setting"],
               "setting_of_batch": many["setting"], "versions": one["versions"], **machine()}


def quartiles(values: list[float]) -> list:
    """[first quartile, median, third quartile]"""
    return np.quantile(values, (0.25, 0.5, 0.75)).tolist()


def ratio(one: dict, base: dict) -> float:
    """The median, over rounds, of how many times the base's median of a round `one` took."""
    return statistics.median(statistics.median(a) / statistics.median(b) for a, b in zip(one["times"], base["times"]))


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def check(args: argparse.Namespace) -> None:
    """Raises InputError for what would otherwise be found after a while; makes paths absolute."""
    check_no_file_name(args.model_prefix, "--model-prefix")
    if Path(args.chart).suffix.lower() != ".png":
        raise InputError(f"--chart {args.chart}: give the name of a .png file")
    for path in (args.out, args.chart):
        check_not_read(path, *files_read(args.model_prefix, args.epoch))
    args.contenders = args.contenders or [*RUNNERS, *(IN_8_BITS if args.calibration else ())]
    if not args.calibration and (needy := [name for name in args.contenders if name in QUANTISED]):
        raise InputError(f"{', '.join(needy)}: give --calibration FOLDER, photographs to quantise with")
    args.pythons = pythons(args, ALL)
    args.scratch = args.scratch and os.path.abspath(args.scratch)


def main(args: argparse.Namespace) -> None:
    check(args)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        single, batch = requests(args, scratch)
        for name in args.pythons:  # compiled and in the system's memory from here on
            progress(f"{ALL[name].label}: first start, which is not counted")
            for request in (single, batch):
                started(name, args, request, scratch).close()
        progress(f"{args.starts} starts each")
        starts = first_results(args, single, scratch)
        rows = list(rows_of(args, starts, *(measured(args, request, scratch) for request in (single, batch))))
    write_csv(args.out, rows)
    draw(rows, args.chart)
    print(markdown(rows))
    if max(float(row["others_cpu_percent"]) for row in rows) > QUIET:
        progress("warning: other processes were at work meanwhile (others_cpu_percent): measure again when it is quiet")


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    add_contender_args(parser, ALL, default=())
    parser.add_argument("--calibration", help="folder of photographs that the contenders in int8 are quantised with")
    parser.add_argument("--count", type=positive, default=64, help="how many of --calibration, at most")
    parser.add_argument("--rounds", type=positive, default=20, help="turns of each")
    parser.add_argument("--starts", type=positive, default=5, help="starts of each that are counted")
    parser.add_argument("--batch-size", type=positive, default=16, help="images at a time for the throughput")
    parser.add_argument("--scratch", help="folder for temporary files")
    parser.add_argument("--out", type=output, default="benchmarks/inference.csv", help="CSV file to write")
    parser.add_argument("--chart", type=output, default="docs/inference-benchmark.png", help="picture to write")
    return parser


if __name__ == "__main__":
    with reported("inference.py"):
        main(get_args_parser().parse_args())

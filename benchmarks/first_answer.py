#!/usr/bin/env python
"""Seconds from the start of a process to the top-5 of one photograph: the network never seen, another checkpoint of a
known network, the same checkpoint again. Example:

    python benchmarks/first_answer.py --model-prefix models/imagenet1k-mnetv2-1_0 --before ../before

from_mxnet.py runs as a user runs it, with --repeat 1; beside it scripts of a few lines that do the same with ONNX
Runtime and OpenVINO, which need no compiler. `--before`: a checkout of an earlier commit, with its own native/build,
whose from_mxnet.py takes its turns too. All take turns, each in a new process, with a cache of its own for compiled
networks and for what OpenCL's driver keeps. The other checkpoint has the same weights, each a thousandth larger.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import ROOT, output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import InputError, reported
from common.base.files import written_atomically
from common.checkpoint.params import checkpoint_files, load_checkpoint_params, save_checkpoint_params
from common.checkpoint.preprocessing import preprocessing_file

PHOTOGRAPH = ROOT / "data" / "cat.jpg"
TARGETS = ("llvm", "opencl")
STATES = ("never seen", "another checkpoint", "again")
RUNTIMES = {
    "ONNX Runtime": ("onnxruntime", "run = onnxruntime.InferenceSession(onnx).run(None, {'data': data})[0]"),
    "OpenVINO": ("openvino", "run = openvino.Core().compile_model(onnx, 'CPU')(data)[0]"),
}
SCRIPT = """
import sys
import cv2, numpy as np, {package}
onnx, photograph = sys.argv[1:]
image = cv2.imread(photograph)[:, :, ::-1]
side = min(image.shape[:2])
image = cv2.resize(image, None, fx=256 / side, fy=256 / side, interpolation=cv2.INTER_AREA)
top, left = ((n - 224) // 2 for n in image.shape[:2])
data = image[top:top + 224, left:left + 224].astype(np.float32) - (123.68, 116.78, 103.94)
data = np.ascontiguousarray(data.transpose(2, 0, 1)[None], np.float32)
{run}
print(np.argsort(-run[0])[:5])
"""


def prefixes(args: argparse.Namespace, scratch: Path) -> dict[str, str]:
    """{state: PREFIX of the checkpoint that it runs, of epoch 0}"""
    symbol_file, params_file = checkpoint_files(args.model_prefix, args.epoch)
    for name, factor in (("one", 1), ("other", 1.001)):
        shutil.copy(symbol_file, scratch / f"{name}-symbol.json")
        if Path(preprocessing_file(args.model_prefix)).exists():
            shutil.copy(preprocessing_file(args.model_prefix), preprocessing_file(scratch / name))
        save_checkpoint_params(scratch / f"{name}-0000.params", *(
            {name: (array * factor).astype(array.dtype) for name, array in group.items()}
            for group in load_checkpoint_params(params_file)))
    return dict(zip(STATES, (f"{scratch}/one", f"{scratch}/other", f"{scratch}/other")))


def seconds_of(command: list, folder: Path = ROOT, **environment: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, text=True, capture_output=True,
                          check=False)
    if done.returncode:
        raise InputError(f"{' '.join(map(str, command[:2]))}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - start


def of_repository(folder: Path, target: str, prefixes: dict[str, str]) -> Iterator[tuple[str, float]]:
    """(state, seconds) of from_mxnet.py in `folder`, in the order of STATES."""
    with tempfile.TemporaryDirectory() as cache:
        for state, prefix in prefixes.items():
            yield state, seconds_of(
                [sys.executable, "from_mxnet.py", PHOTOGRAPH, "--model-prefix", prefix, "--repeat", "1", "--target",
                 target, "--synset", ROOT / "data" / "imagenet1k-synset.txt"], folder,
                MOBILENETV2_CACHE=f"{cache}/compiled", POCL_CACHE_DIR=f"{cache}/pocl")


def main(args: argparse.Namespace) -> None:
    folders = {"this repository": ROOT} | ({"before": Path(args.before).resolve()} if args.before else {})
    times: dict[tuple, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        onnx = f"{scratch}/network.onnx"
        output_of("tools/export_weights.py", os.path.abspath(args.model_prefix), onnx, "--epoch", args.epoch,
                  "--to", "onnx")
        of_states = prefixes(args, Path(scratch))
        for number in range(args.rounds):
            for who, folder in folders.items():
                for target in TARGETS:
                    for state, seconds in of_repository(folder, target, of_states):
                        times.setdefault((who, target, state), []).append(seconds)
            for who, (package, run) in RUNTIMES.items():
                python = sys.executable if package == "onnxruntime" else shutil.which(args.frameworks)
                if python:
                    script = SCRIPT.format(package=package, run=run)
                    times.setdefault((who, "", "any"), []).append(
                        seconds_of([python, "-c", script, onnx, PHOTOGRAPH]))
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    rows = [{"contender": who, "target": target, "checkpoint": state, "median_s": f"{statistics.median(values):.2f}",
             "min_s": f"{min(values):.2f}", "max_s": f"{max(values):.2f}", "runs": len(values), **machine(),
             "tvm": version("xtc-tvm-python-bindings"), "onnxruntime": version("onnxruntime")}
            for (who, target, state), values in times.items()]
    for row in rows:
        print(*(row[name] for name in ("contender", "target", "checkpoint", "median_s", "min_s", "max_s")), sep="\t")
    write_csv(args.out, rows)
    draw(rows, args.chart)


def draw(rows: list[dict], path: str) -> None:
    """A bar for each row, in seconds on a logarithmic axis."""
    from matplotlib.figure import Figure
    figure = Figure((8, 0.6 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    labels = [", ".join(filter(None, (row["contender"], row["target"], row["checkpoint"].replace("any", ""))))
              for row in rows]
    medians = [float(row["median_s"]) for row in rows]
    colours = {"this repository": "#0072B2", "before": "#9ECAE1"}
    bars = axes.barh(range(len(rows)), medians, color=[colours.get(row["contender"], "#7F7F7F") for row in rows])
    axes.bar_label(bars, [f"{seconds:.2f}" for seconds in medians], padding=3, fontsize=8)
    axes.set(yticks=range(len(rows)), yticklabels=labels, xscale="log", xlim=(0.1, 3 * max(medians)),
             xlabel=f"seconds from process start to the top-5, median of {rows[0]['runs']} "
                    f"({rows[0]['processor']}, {rows[0]['cores']} cores)")
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    with written_atomically(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of a checkpoint of 1,000 classes for 224x224")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--before", metavar="FOLDER", help="checkout of an earlier commit")
    parser.add_argument("--frameworks", metavar="PYTHON", default=".venv-converters/bin/python",
                        help="a Python with OpenVINO, if it is there")
    parser.add_argument("--rounds", type=positive, default=5, help="times that each runs")
    parser.add_argument("--out", type=output, default="benchmarks/first_answer.csv", help="CSV file to write")
    parser.add_argument("--chart", type=output, default="docs/first-answer.png", help="PNG file to draw")
    with reported("first_answer.py"):
        main(parser.parse_args())

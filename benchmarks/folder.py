#!/usr/bin/env python
"""Images/s of a folder of photographs: decoded alone, classified alone, and both as from_mxnet.py does. Example:

    python benchmarks/folder.py --model-prefix models/imagenet1k-mnetv2-1_0 --out benchmarks/folder.csv

The photographs are those of benchmarks/crops.py. The ways take turns, each with all cores: "decode" reads and
prepares them for the network, "network" computes a batch again and again, "both" goes from the files to the table.
Where the network runs on the processor that decodes, they share its cores: cores_bound is 1 / (1 / decode + 1 /
network), the most that is left where no core is idle in either. cpu_ms is what an image takes of all cores together,
waiting included that keeps one busy. Peak memory is that of a process of its own, for all of them and for one folder
in ten. "ONNX Runtime" is a short script as one writes it by hand: OpenCV decodes and prepares the next batches in a
thread for each core, ONNX Runtime computes this one with as many, and the best five are written.
"""
import argparse
import csv
import re
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.crops import CLASSES, write_photographs
from benchmarks.processes import output_of
from benchmarks.results import machine, output, whole_batches, write_csv
from common.base.arguments import ArgumentParser, not_negative, positive
from common.base.errors import reported
from common.base.files import check_not_read
from common.checkpoint.prefix import check_no_file_name, files_read
from common.inference.classify import classify_images, images_in, tabulate
from common.inference.tables import answers_table

MEAN = (123.68, 116.78, 103.94)  # RGB
AHEAD = 2  # batches that are prepared while one is computed, by hand
PEAK = """
import re
from pathlib import Path
import from_mxnet
from_mxnet.main()
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def by_onnxruntime(session: onnxruntime.InferenceSession, paths: list[Path], batch_size: int, out: str) -> int:
    """Write the best five of each photograph to `out`; how many photographs there were."""
    def prepared(path):
        image = cv2.imread(str(path))
        scale = 256 / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        top, left = (room // 2 for room in np.subtract(image.shape[:2], 224))
        crop = image[top:top + 224, left:left + 224, ::-1].transpose(2, 0, 1)
        return crop - np.float32(MEAN).reshape(3, 1, 1)

    with ThreadPoolExecutor(machine()["cores"]) as pool, open(out, "w", newline="") as file:
        table, begun = csv.writer(file), deque()

        def finish(part, images):
            answers = session.run(None, {"data": np.stack([image.result() for image in images])})[0]
            for path, scores in zip(part, answers):
                best = scores.argsort()[:-6:-1]
                table.writerow([path, *best, *scores[best]])

        for at in range(0, len(paths), batch_size):
            part = paths[at:at + batch_size]
            begun.append((part, [pool.submit(prepared, path) for path in part]))
            if len(begun) > AHEAD:
                finish(*begun.popleft())
        for batch in begun:
            finish(*batch)
    return len(paths)


def session_of(args: argparse.Namespace, scratch: Path) -> onnxruntime.InferenceSession:
    """The checkpoint in ONNX Runtime, with a thread for each core that sleeps where it waits."""
    output_of("tools/export_weights.py", args.model_prefix, scratch / "x.onnx", "--epoch", args.epoch, "--to", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = machine()["cores"]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(scratch / "x.onnx"), options, providers=["CPUExecutionProvider"])


def measured(args: argparse.Namespace, target: str, folder: Path,
             session: onnxruntime.InferenceSession) -> dict[str, list[tuple[float, float]]]:
    """{way: [(images/s, milliseconds of all cores for an image)] of the rounds}."""
    from common.inference.network import open_network

    network = open_network(args.model_prefix, args.epoch, (args.batch_size, 3, 224, 224), target)
    shape, count = network.data_shape, whole_batches(args.images, args.batch_size)
    batch = np.random.RandomState(0).normal(0, 50, shape).astype(np.float32)
    answers = network.predict(batch)  # and OpenCL's kernels are built
    names = [str(label) for label in range(network.num_classes)]

    def decode():
        for _ in classify_images(images_in([folder]), lambda data: answers, shape):
            pass
        return args.images

    def compute():
        for _ in range(count // args.batch_size):
            network.predict(batch)
        return count

    def both(threads=None):
        with tempfile.TemporaryDirectory() as out, answers_table(f"{out}/x.csv") as write:
            return tabulate(images_in([folder]), args.images, write, names, bar=False, predict=network.predict,
                            data_shape=shape, threads=threads).classified

    def hand_written():
        with tempfile.TemporaryDirectory() as out:
            return by_onnxruntime(session, sorted(folder.glob("*/*")), args.batch_size, f"{out}/x.csv")

    ways: dict[str, Callable] = {
        "decode": decode, "network": compute, "both": both, "ONNX Runtime": hand_written,
        **{f"both, {threads} threads": partial(both, threads) for threads in args.threads}}
    speeds = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, run in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            done = run()
            speeds[way].append((done / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu) / done))
            print(f"{target}: {way}: {speeds[way][-1][0]:.1f} images/s, {speeds[way][-1][1]:.2f} ms", flush=True)
    return speeds


def peak(args: argparse.Namespace, target: str, paths: list[Path]) -> float:
    """Peak memory in MiB of from_mxnet.py for `paths`, whose network is compiled and kept already."""
    with tempfile.TemporaryDirectory() as out:
        synset = Path(out) / "synset.txt"
        synset.write_text("".join(f"{label}\n" for label in range(args.num_classes)))
        said = output_of("-c", PEAK, *paths, "--model-prefix", args.model_prefix, "--epoch", args.epoch, "--target",
                         target, "--batch-size", args.batch_size, "--synset", synset, "--output", f"{out}/x.csv")
    return float(re.findall(r"[\d.]+", said)[-1])


def rows_of(args: argparse.Namespace, target: str, folder: Path,
            session: onnxruntime.InferenceSession) -> Iterator[dict]:
    speeds = measured(args, target, folder, session)
    medians = {way: statistics.median(speed for speed, _ in values) for way, values in speeds.items()}
    slower = min(medians["decode"], medians["network"])
    bound = 1 / (1 / medians["decode"] + 1 / medians["network"])
    few, all_of_them = (peak(args, target, paths) for paths in (sorted(folder.iterdir())[:1], [folder]))
    for way, values in speeds.items():
        both = way.startswith("both")
        yield {"target": target, "way": way, "images": args.images, "batch": args.batch_size, "runs": len(values),
               "median": f"{medians[way]:.1f}", "min": f"{min(values)[0]:.1f}", "max": f"{max(values)[0]:.1f}",
               "cpu_ms": f"{statistics.median(cpu for _, cpu in values):.2f}",
               "share_of_slower": f"{medians[way] / slower:.2f}" if both else "",
               "share_of_cores_bound": f"{medians[way] / bound:.2f}" if both else "",
               "peak_mib": f"{all_of_them:.0f}" if way == "both" else "",
               f"peak_mib_of_1_in_{CLASSES}": f"{few:.0f}" if way == "both" else "", **machine(),
               **{name: version(name) for name in ("opencv-python-headless", "simplejpeg", "onnxruntime")}}


def main(args: argparse.Namespace) -> None:
    rows = []
    whole_batches(args.images, args.batch_size)
    check_no_file_name(args.model_prefix, "--model-prefix")
    check_not_read(args.out, *files_read(args.model_prefix, args.epoch))
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch) / "photographs"
        write_photographs(folder, args.images)
        session = session_of(args, Path(scratch))
        for target in args.target:
            found = list(rows_of(args, target, folder, session))
            print(*found, sep="\n")
            rows += found
    write_csv(args.out, rows)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json, for 224x224 pixels")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--num-classes", type=positive, default=1000, help="of the network")
    parser.add_argument("--target", nargs="+", default=["llvm", "opencl"], help="devices to measure")
    parser.add_argument("--images", type=positive, default=2000, help="number of photographs")
    parser.add_argument("--batch-size", type=positive, default=16, help="images that the network takes at a time")
    parser.add_argument("--threads", type=positive, nargs="*", default=[], help="numbers of threads to try beside")
    parser.add_argument("--rounds", type=positive, default=3, help="runs of each way")
    parser.add_argument("--scratch", help="folder for temporary files")
    parser.add_argument("--out", type=output, default="benchmarks/folder.csv", help="CSV file to write")
    with reported("folder.py"):
        main(parser.parse_args())

#!/usr/bin/env python
"""Images/s of tools/prepare_imagenet.py beside those of MXNet's im2rec.py. Example:

    .venv/bin/pip install -r requirements-benchmarks.txt
    python benchmarks/prepare.py --out benchmarks/prepare.csv

The photographs of benchmarks/crops.py are packed with a shorter side of 480 and a JPEG quality of 95. Each way
is a process of its own on all cores; the ways take turns. "bound" decodes, resizes and encodes the same images with
OpenCV, on all cores, and does nothing else: it has them in memory, and writes nothing.
"""
import argparse
import importlib.util
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.crops import write_photographs
from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, positive
from common.base.errors import reported

BOUND = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import cv2
import numpy as np
cv2.setNumThreads(1)
workers, enlarge = int(sys.argv[2]), bool(int(sys.argv[3]))
def packed(content):
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    if min(height, width) > 480 or enlarge and min(height, width) < 480:
        image = cv2.resize(image, (480, 480 * height // width) if height > width else (480 * width // height, 480))
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].size
images = [path.read_bytes() for path in Path(sys.argv[1]).glob("train/*/*")]
start = time.perf_counter()
with ThreadPoolExecutor(workers) as pool:
    list(pool.map(packed, images))
print(len(images) / (time.perf_counter() - start))
"""
COSTS = """
import re, sys, time
from pathlib import Path
from common.packing.prepare import prepare
start = time.thread_time()
dataset = prepare(sys.argv[1], sys.argv[2], any_count=True)
print(1e6 * (time.thread_time() - start) / dataset["parts"]["train"]["images"])
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def write_archive(folder: Path, out: Path) -> None:
    """The photographs as ImageNet's training archive: a tar of a tar for each class."""
    out.mkdir()
    with tarfile.open(out / "ILSVRC2012_img_train.tar", "w") as archive:
        for images in sorted((folder / "train").iterdir()):
            path = out / f"{images.name}.tar"
            with tarfile.open(path, "w") as class_archive:
                for image in sorted(images.iterdir()):
                    class_archive.add(image, image.name)
            archive.add(path, path.name)
            path.unlink()


def run(*command: str | Path | int) -> tuple[float, str]:
    """(seconds, what it printed) of a Python process."""
    start = time.perf_counter()
    said = output_of(*command)
    return time.perf_counter() - start, said


def im2rec(folder: Path, out: Path, workers: int) -> tuple[float, str]:
    script = Path(importlib.util.find_spec("mxnet").origin).parent / "tools" / "im2rec.py"
    prefix = out / "train"
    run(script, prefix, folder / "train", "--list", "--recursive")
    return run(script, prefix, folder / "train", "--resize", 480, "--quality", 95, "--num-thread", workers)


def prepared(folder: Path, out: Path, *flags: str) -> tuple[float, str]:
    return run("tools/prepare_imagenet.py", folder, out, "--any-count", *flags)


def costs(folder: Path, out: Path) -> list[float]:
    """(microseconds of the main thread for an image, peak memory in MiB) of the work itself."""
    return [float(line) for line in run("-c", COSTS, folder, out)[1].split()[-2:]]


def speeds(args: argparse.Namespace, folder: Path, archive: Path, scratch: str) -> Iterator[dict]:
    """Rows of images/s: medians over the rounds, and ratios of the medians."""
    cores = machine()["cores"]
    ways = {
        "im2rec.py --resize 480": lambda out: args.images / im2rec(folder, out, cores)[0],
        "prepare_imagenet.py --enlarge": lambda out: args.images / prepared(folder, out, "--enlarge")[0],
        "bound --enlarge": lambda out: float(run("-c", BOUND, folder, cores, 1)[1]),
        "prepare_imagenet.py": lambda out: args.images / prepared(folder, out)[0],
        "prepare_imagenet.py, archive": lambda out: args.images / prepared(archive, out)[0],
        "bound": lambda out: float(run("-c", BOUND, folder, cores, 0)[1]),
    }
    found = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, measure in ways.items():
            with tempfile.TemporaryDirectory(dir=scratch) as out:
                found[way].append(measure(Path(out) / "out" if "prepare" in way else Path(out)))
    medians = {way: statistics.median(values) for way, values in found.items()}
    bounds = {"prepare_imagenet.py": "bound", "prepare_imagenet.py, archive": "bound",
              "prepare_imagenet.py --enlarge": "bound --enlarge"}
    for way, values in found.items():
        yield {"what": "images/s", "way": way, "images": args.images, "runs": len(values),
               "median": f"{medians[way]:.0f}", "min": f"{min(values):.0f}", "max": f"{max(values):.0f}",
               "ratio_to_im2rec": f"{medians[way] / medians['im2rec.py --resize 480']:.2f}",
               "share_of_bound": f"{medians[way] / medians[bounds[way]]:.2f}" if way in bounds else ""}


def main_thread(args: argparse.Namespace, archive: Path, scratch: str) -> Iterator[dict]:
    """A row of what one thread has to do for each image: reading, sorting, writing. It bounds what many cores give."""
    found = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            found.append(costs(archive, Path(out) / "out")[0])
    yield {"what": "microseconds of the main thread for an image", "way": "prepare_imagenet.py, archive",
           "images": args.images, "runs": len(found), "median": f"{statistics.median(found):.0f}",
           "min": f"{min(found):.0f}", "max": f"{max(found):.0f}"}


def main(args: argparse.Namespace) -> None:
    columns = ("what", "way", "images", "runs", "median", "min", "max", "ratio_to_im2rec", "share_of_bound")
    versions = {name: version(name) for name in ("opencv-python-headless", "simplejpeg", "mxnet")}
    rows = []
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch) / "photographs"
        archive = Path(scratch) / "archive"
        write_photographs(folder / "train", args.images)
        write_archive(folder, archive)
        for row in chain(speeds(args, folder, archive, scratch), main_thread(args, archive, scratch)):
            rows.append({**dict.fromkeys(columns, ""), **row, **machine(), **versions})
            print(row, flush=True)
    write_csv(args.out, rows)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=positive, default=8000, help="number of photographs")
    parser.add_argument("--rounds", type=positive, default=5, help="runs of each way")
    parser.add_argument("--scratch", help="folder for temporary files")
    parser.add_argument("--out", type=output, default="benchmarks/prepare.csv", help="CSV file to write")
    with reported("prepare.py"):
        main(parser.parse_args())

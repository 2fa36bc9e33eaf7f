"""Runs of train_imagenet.py and of PyTorch on the same photographs, for benchmarks/finetuning.py and parity.py."""
import csv
import dataclasses
import json
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from benchmarks.processes import ROOT, output_of
from common.base.errors import InputError

SAID = re.compile(r"top-1 (\S+) .*\((\d+) images\)")


def place_in(scratch: Path, what: str, folder: Path) -> Path:
    """Where `what` was made of a folder is kept, apart from what was made of others."""
    return scratch / "-".join((what, *folder.resolve().parts[1:]))


def pack(folder: Path, scratch: Path) -> Path:
    """The folder in `scratch` of train.rec and val.rec of a folder of photographs, which are packed if they are not."""
    out = place_in(scratch, "packed", folder)
    if not (out / "dataset.json").exists():
        output_of("tools/prepare_imagenet.py", folder.resolve(), out, "--any-count", stderr=None)
    return out


def train(packed: Path, prefix: Path, flags: Iterable[str], validate: bool = False) -> list[dict]:
    """Train as a user does; [{"epoch", "loss", "train_top_1", "top_1", "seconds"}, ...], "top_1" None without
    `validate`."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    output_of("train_imagenet.py", "--data-train", packed / "train.rec", "--model-prefix", prefix, "--top-k", "0",
              "--keep", "1", "--overwrite", "1", *(("--data-val", packed / "val.rec") if validate else ()), *flags,
              stderr=None)
    events = [json.loads(line) for line in Path(f"{prefix}-metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = {event["epoch"]: event["top-1"] for event in events if event["event"] == "validation"}
    return [{"epoch": event["epoch"] + 1, "loss": event["loss"], "train_top_1": event["top-1"],
             "top_1": scores.get(event["epoch"]), "seconds": event["seconds"]}
            for event in events if event["event"] == "epoch"]


def score(prefix: Path, epoch: int, packed: Path) -> float:
    """Top-1 of a checkpoint, by eval_imagenet.py."""
    said = output_of("eval_imagenet.py", "--model-prefix", prefix, "--epoch", epoch, "--data-val", packed / "val.rec")
    return float(SAID.search(said)[1])


def by_pytorch(python: str, request: dict, scratch: Path) -> tuple[list[dict], str]:
    """(the lines of `benchmarks.pytorch_training`, as those of `train`; PyTorch's version). Raises InputError."""
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "request.json"
    file.write_text(json.dumps(request), encoding="utf-8")
    rows = []
    with subprocess.Popen([python, "-m", "benchmarks.pytorch_training", file], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            rows.append(json.loads(line))
    if process.returncode or not rows:
        raise InputError(f"{python} -m benchmarks.pytorch_training ended with {process.returncode}")
    return rows, rows[0]["torch"]


@dataclasses.dataclass
class Results:
    """A CSV file that grows run by run, so that what was interrupted goes on: `keys` tell which runs are there."""
    path: Path
    keys: tuple[str, ...]

    def rows(self) -> list[dict]:
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def of(self, runs: Iterable[dict]) -> list[dict]:
        """The rows of these runs."""
        wanted = set(map(self._key, runs))
        return [row for row in self.rows() if self._key(row) in wanted]

    def missing(self, runs: Iterable[dict]) -> list[dict]:
        there = set(map(self._key, self.rows()))
        return [run for run in runs if self._key(run) not in there]

    def name(self, run: dict) -> str:
        """Of its files."""
        return "-".join(self._key(run)).translate({ord(letter): "_" for letter in " ./="})

    def _key(self, run):
        return tuple(str(run[key]) for key in self.keys)


def mxnet_version() -> str:
    return f"mxnet {version('mxnet')}"


def spread(values: list[float]) -> str:
    """Mean, least to greatest, and how many runs."""
    return f"{sum(values) / len(values):.3f} ({min(values):.3f}-{max(values):.3f}), {len(values)} runs"

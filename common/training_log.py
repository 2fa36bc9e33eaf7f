"""The curves of a training run, as its metrics file, a log of MXNet's or a published table has them."""
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import harmonic_mean

import numpy as np

from common.errors import InputError
from common.files import check_regular

BATCH_COLUMNS = ("epoch", "batch", "batches", "train_loss", "train_top1", "train_top5", "lr", "images_per_s")
EPOCH_COLUMNS = ("epoch", "train_loss", "train_top1", "train_top5", "val_loss", "val_top1", "val_top5", "ema_top1",
                 "lr", "images_per_s", "seconds")
LONGEST_LINE = 2 ** 20  # bytes; what has longer ones is no log
LARGEST = 1e100  # what is beyond it counts as infinite


@dataclass
class Run:
    """Columns of numbers by the names of EPOCH_COLUMNS and BATCH_COLUMNS, in order; NaN where a value is missing.

    Epochs are counted from 0; `batch` batches of the epoch's `batches` are completed; accuracies are shares of 1;
    `lr` is the rate of the last update, or the one after the epoch where only that is logged; `train_*` of a group of
    batches is of those since the group before it; `top5` is the top-k accuracy, and `k` 5, or the smallest
    that the run has where that is none of them.
    """
    epochs: dict
    batches: dict
    k: int


class _Rows:
    """Values by epoch, and by (epoch, batch), while a file is read. One that comes again replaces the earlier one."""

    def __init__(self) -> None:
        self.epochs, self.batches = defaultdict(dict), defaultdict(dict)

    def restart(self, epoch: int, batch: int = 0) -> None:
        """The run goes on from here: what a killed process did beyond is not part of it."""
        for row in [row for row in self.epochs if row >= epoch]:
            del self.epochs[row]
        for row in [row for row in self.batches if row > (epoch, batch)]:
            del self.batches[row]

    def run(self) -> Run:
        epochs = [{"epoch": epoch, **row} for epoch, row in sorted(self.epochs.items())]
        batches = [{"epoch": epoch, "batch": batch, **row} for (epoch, batch), row in sorted(self.batches.items())]
        found = {int(match[1]) for row in epochs + batches for name in row
                 if (match := re.fullmatch(r"(?:train|val)_top(\d+)", name))} - {1}
        k = 5 if 5 in found or not found else min(found)
        return Run(_columns(epochs, EPOCH_COLUMNS, k), _columns(batches, BATCH_COLUMNS, k), k)


def _columns(rows, names, k):
    return {name: np.array([row.get(name.replace("top5", f"top{k}"), math.nan) for row in rows], np.float64)
            for name in names}


def read_run(path: str | Path) -> Run:
    """Read PREFIX-metrics.jsonl, or a log of MXNet's Module.fit; the content tells which.

    Of epochs and batches that come again after a resume the later ones count. Raises InputError for a file that is
    neither, and with the line's number for a line of metrics that cannot be read.
    """
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: the file is empty")
    read = _read_metrics if first[1].lstrip().startswith('{"') else _read_log
    rows = _Rows()
    read(chain([first], lines), rows, path)
    if not (rows.epochs or rows.batches):
        raise InputError(f"{path}: no line of training in it; give PREFIX-metrics.jsonl or a log of MXNet's Module.fit")
    return rows.run()


def _lines(path):
    """(number, text) of each line that is not blank."""
    check_regular(path)
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            if b"\0" in line or len(line) == LONGEST_LINE:
                raise InputError(f"{path}, line {number}: not a text file")
            if line.strip():
                yield number, line.decode("utf-8", "replace")


# PREFIX-metrics.jsonl ------------------------------------------------------------------------------------------------

TRAINING = {"loss": "train_loss", "lr": "lr", "images_per_s": "images_per_s", "seconds": "seconds"}
COLUMNS = {"batches": TRAINING, "epoch": TRAINING, "validation": {"loss": "val_loss", "ema-top-1": "ema_top1"}}
TOP = {"batches": "train_top", "epoch": "train_top", "validation": "val_top"}


def _read_metrics(lines, rows, path):
    for where, event, entry in _entries(lines, path):
        if event == "start":
            rows.restart(_count(entry, "epoch", where), _count(entry, "batch", where))
        elif event in COLUMNS:
            row = _row(entry, event, rows, where)
            for name in entry:
                top = re.fullmatch(r"top-([1-9]\d{0,8})", name, re.ASCII)
                column = f"{TOP[event]}{top[1]}" if top else COLUMNS[event].get(name)
                if column:
                    row[column] = _number(entry, name, where)


def _entries(lines, path):
    """(file and line, event, entry) of each line, without those that a killed process cut short: nothing follows them,
    or the start of the process that went on."""
    cut = None
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            cut = cut or InputError(f"{where}: not JSON, or cut off")
            continue
        event = entry.get("event") if isinstance(entry, dict) else None
        if cut and event != "start":
            raise cut
        if not isinstance(event, str):
            raise InputError(f'{where}: no "event" in it, as every line of PREFIX-metrics.jsonl has')
        cut = None
        yield where, event, entry


def _row(entry, event, rows, where):
    epoch = _count(entry, "epoch", where)
    if event != "batches":
        return rows.epochs[epoch]
    batch, batches = _count(entry, "batch", where), _count(entry, "batches", where)
    if not 0 < batch <= batches:
        raise InputError(f'{where}: "batch" {batch} of {batches} "batches"')
    rows.batches[epoch, batch]["batches"] = batches
    return rows.batches[epoch, batch]


def _count(entry, name, where):
    value = entry.get(name)
    if type(value) is not int or not 0 <= value < 2 ** 31:
        raise InputError(f'{where}: "{name}" is {_shown(value)}; it has to be a whole number of 0 or more')
    return value


def _number(entry, name, where):
    value = entry[name]
    if value is None:
        return math.nan
    if type(value) not in (int, float) or not abs(value) < LARGEST:
        raise InputError(f'{where}: "{name}" is {_shown(value)}; it has to be a finite number')
    return float(value)


def _shown(value):
    text = "missing" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "..."


# Logs of MXNet -------------------------------------------------------------------------------------------------------

NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf))"
EPOCH = r"Epoch\[(\d{1,9})\]\s+"
# Speedometer (in older versions the brackets hold the last batch only, and in the oldest each metric has a line of its
# own), Module.fit, the schedulers, and fit.py of the image-classification examples
LOG_LINES = {what: re.compile(pattern, re.ASCII | re.IGNORECASE) for what, pattern in {
    "batches": rf"{EPOCH}Batch\s*\[(?:\d+-)?(\d{{1,9}})\]\s+Speed: {NUMBER} samples/sec(.*)",
    "train": rf"{EPOCH}Train-([\w-]+)={NUMBER}",
    "val": rf"{EPOCH}Validation-([\w-]+)={NUMBER}",
    "rate after": rf"{EPOCH}Learning-rate={NUMBER}",
    "time": rf"{EPOCH}Time cost={NUMBER}",
    "rate": rf"Update\[(\d{{1,18}})\]: (?:Change learning rate to|now learning rate arrived at) {NUMBER}",
    "first rate": rf"Adjust learning rate to {NUMBER} for epoch \d",
    "start": r"start with arguments ",
}.items()}
LOG_METRICS = {"accuracy": "{}_top1", "cross-entropy": "{}_loss", "ema-accuracy": "ema_top1", "lr": "lr"}
METRIC = re.compile(rf"(?:Train-)?([\w-]{{1,60}})={NUMBER}", re.ASCII | re.IGNORECASE)


def _read_log(lines, rows, path):
    rate, updates, at_this_rate, started = math.nan, 0, [], False
    for _, line in lines:
        what, match = next(((what, match) for what, pattern in LOG_LINES.items() if (match := pattern.search(line))),
                           (None, None))
        if what == "start":
            rate, updates, at_this_rate, started = math.nan, 0, [], True
        elif what == "first rate":
            rate, updates, at_this_rate = _logged(match[1]), 0, []
        elif what == "rate":
            if int(match[1]) < updates:  # another process began, with a rate of its own that it did not log
                for row in at_this_rate:
                    row["lr"] = math.nan
            rate, updates, at_this_rate = _logged(match[2]), int(match[1]), []
        elif what:
            epoch = int(match[1])
            if started:
                rows.restart(epoch)
                started = False
            if what == "batches":
                row = rows.batches[epoch, int(match[2])]
                values = {_log_column("train", name): _logged(value) for name, value in METRIC.findall(match[4])}
                rate = values.get("lr", rate)
                row.update(values, images_per_s=_logged(match[3]))
            else:
                row = rows.epochs[epoch]
            if what == "time":
                row["seconds"] = _logged(match[2])
            elif what == "rate after":
                row["lr after"] = _logged(match[2])
            elif what in ("train", "val"):
                row[_log_column(what, match[2])] = _logged(match[3])
            if what in ("batches", "train"):
                row["lr"] = rate
                at_this_rate.append(row)
    _complete(rows)


def _complete(rows):
    """The throughput of epochs, from their groups of batches, all of one number of images; and rates so far missing."""
    speeds = defaultdict(list)
    for (epoch, _), row in rows.batches.items():
        if row["images_per_s"] > 0:
            speeds[epoch].append(row["images_per_s"])
    for epoch, row in rows.epochs.items():
        if speeds[epoch]:
            row["images_per_s"] = harmonic_mean(speeds[epoch])
        if math.isnan(row.get("lr", math.nan)):
            row["lr"] = row.get("lr after", math.nan)


def _log_column(part, metric):
    """The column of a metric of MXNet's: accuracy, top_k_accuracy_5, cross-entropy; others have none."""
    top = re.fullmatch(r"top_k_accuracy_([1-9]\d{0,8})", metric, re.ASCII)
    return f"{part}_top{top[1]}" if top else LOG_METRICS.get(metric, f"{{}}_{metric}").format(part)


def _logged(text):
    value = float(text)
    return value if abs(value) < LARGEST else math.nan


# Published curves ----------------------------------------------------------------------------------------------------

def read_published(path: str | Path) -> Run:
    """Read a table as data/published/ has them: a row for each epoch, columns named as in EPOCH_COLUMNS, and `lr_end`.

    Its `lr` is the rate after the epoch's decay. Raises InputError, with the line's number, for what cannot be read.
    """
    rows, header = _Rows(), None
    for number, line in _lines(path):
        cells = [cell.strip() for cell in line.split(",")]
        if header is None:
            header = ["lr" if name == "lr_end" else name for name in cells]
            if header[0] != "epoch" or not set(header) & set(EPOCH_COLUMNS[1:]):
                raise InputError(f"{path}: not a published curve: the first line has to begin epoch,")
            continue
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number}: {len(cells)} cells, the first line has {len(header)}")
        if not re.fullmatch(r"\d{1,9}", cells[0], re.ASCII):
            raise InputError(f"{path}, line {number}: epoch {cells[0][:40]!r} is no whole number")
        values = rows.epochs[int(cells[0])]
        for name, cell in zip(header[1:], cells[1:]):
            if name in EPOCH_COLUMNS and cell:
                if not re.fullmatch(NUMBER, cell, re.ASCII | re.IGNORECASE) or math.isnan(_logged(cell)):
                    raise InputError(f"{path}, line {number}: {name} {cell[:40]!r} is not a finite number")
                values[name] = _logged(cell)
    if not rows.epochs:
        raise InputError(f"{path}: no epoch in it")
    return rows.run()

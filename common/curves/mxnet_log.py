"""Reading what MXNet's Module.fit logs, and the image-classification examples with it."""
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import harmonic_mean

from common.curves.curves import NUMBER, Rows, number_of

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


def read_log(lines: Iterable[tuple[int, str]], rows: Rows, path: str | Path) -> None:
    """Fill `rows` from the lines of a log; those that say nothing of the training are passed over."""
    rate, updates, at_this_rate, started = math.nan, 0, [], False
    for _, line in lines:
        what, match = next(((what, match) for what, pattern in LOG_LINES.items() if (match := pattern.search(line))),
                           (None, None))
        if what == "start":
            rate, updates, at_this_rate, started = math.nan, 0, [], True
        elif what == "first rate":
            rate, updates, at_this_rate = number_of(match[1]), 0, []
        elif what == "rate":
            if int(match[1]) < updates:  # another process began, with a rate of its own that it did not log
                for row in at_this_rate:
                    row["lr"] = math.nan
            rate, updates, at_this_rate = number_of(match[2]), int(match[1]), []
        elif what:
            epoch = int(match[1])
            if started:
                rows.restart(epoch)
                started = False
            if what == "batches":
                row = rows.batches[epoch, int(match[2])]
                values = {_log_column("train", name): number_of(value) for name, value in METRIC.findall(match[4])}
                rate = values.get("lr", rate)
                row.update(values, images_per_s=number_of(match[3]))
            else:
                row = rows.epochs[epoch]
            if what == "time":
                row["seconds"] = number_of(match[2])
            elif what == "rate after":
                row["lr after"] = number_of(match[2])
            elif what in ("train", "val"):
                row[_log_column(what, match[2])] = number_of(match[3])
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

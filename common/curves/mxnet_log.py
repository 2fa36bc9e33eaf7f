"""Reading logs of MXNet's Module.fit and image-classification examples, and of MXNet's and GluonCV's Gluon scripts."""
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import harmonic_mean

from common.curves.curves import NUMBER, Rows, number_of

EPOCH = r"Epoch ?\[?(\d{1,9})\]\s+"  # Gluon's scripts write [Epoch 0]
# Speedometer (in older versions the brackets hold the last batch only, and in the oldest each metric has a line of its
# own), Module.fit, the schedulers, fit.py of the image-classification examples, and the scripts of Gluon
LOG_LINES = {what: re.compile(pattern, re.ASCII | re.IGNORECASE) for what, pattern in {
    "batches": rf"{EPOCH}Batch\s*\[(?:\d+-)?(\d{{1,9}})\]\s+Speed: {NUMBER} samples/sec(.*)",
    "train": rf"{EPOCH}Train(?:-|ing:)([^=]{{0,70}}=.*)",
    "val": rf"{EPOCH}Validation(?:-|:)([^=]{{0,70}}=.*)",
    "rate after": rf"{EPOCH}Learning-rate={NUMBER}",
    "time": rf"{EPOCH}(?:Speed: {NUMBER} samples/sec\s+)?Time cost(?:=|: ){NUMBER}",
    "rate": rf"Update\[(\d{{1,18}})\]: (?:Change learning rate to|now learning rate arrived at) {NUMBER}",
    "first rate": rf"Adjust learning rate to {NUMBER} for epoch \d",
    "start": r"start with arguments |Namespace\(",
}.items()}
LOG_METRICS = {"accuracy": "{}_top1", "cross-entropy": "{}_loss", "ema-accuracy": "ema_top1", "lr": "lr"}
TOP = re.compile(r"(?:top_k_accuracy_|err-top|top)([1-9]\d{0,8})(?:-err)?", re.ASCII)
NODE = re.compile(r"Node\[(\d{1,9})\]", re.ASCII)  # the worker, of several, of a line of fit.py
METRIC = re.compile(rf"(?:Train-)?([\w-]{{1,60}})={NUMBER}", re.ASCII | re.IGNORECASE)


def read_log(lines: Iterable[tuple[int, str]], rows: Rows, path: str | Path) -> None:
    """Fill `rows` from the lines of a log; other lines are skipped, and those of all workers but one."""
    rate, updates, at_this_rate, started = math.nan, 0, [], False
    found = list(_found(lines))
    node, *others = sorted({node for node, *_ in found if node is not None}) or [None]
    if others:
        rows.note = f"the curve is that of Node[{node}]; " \
                    f"{', '.join(f'Node[{other}]' for other in others[:3])}{', ...' * (len(others) > 3)} left out"
    for of_node, what, match in found:
        if of_node not in (None, node):
            continue
        if what == "start":
            rate, updates, at_this_rate, started = math.nan, 0, [], True
        elif what == "first rate":
            rate, updates, at_this_rate = number_of(match[1]), 0, []
        elif what == "rate":
            if int(match[1]) < updates:  # another process began, with a rate of its own that it did not log
                for row in at_this_rate:
                    row["lr"] = math.nan
            rate, updates, at_this_rate = number_of(match[2]), int(match[1]), []
        else:
            epoch = int(match[1])
            if started:
                rows.restart(epoch)
                started = False
            if what == "batches":
                row = rows.batches[epoch, int(match[2])]
                values = _values("train", match[4])
                rate = values.get("lr", rate)
                row.update(values, images_per_s=number_of(match[3]))
            else:
                row = rows.epochs[epoch]
            if what == "time":
                row["seconds"] = number_of(match[3])
                if match[2]:
                    row["images_per_s"] = number_of(match[2])
            elif what == "rate after":
                row["lr after"] = number_of(match[2])
            elif what in ("train", "val"):
                row.update(_values(what, match[2]))
            if what in ("batches", "train"):
                row["lr"] = rate
                at_this_rate.append(row)
    _complete(rows)


def _found(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int | None, str, re.Match]]:
    """(number of the node or None, key of LOG_LINES, match) of each line about the training."""
    for _, line in lines:
        for what, pattern in LOG_LINES.items():
            if match := pattern.search(line):
                node = NODE.search(line)
                yield int(node[1]) if node else None, what, match
                break


def _complete(rows):
    """Fill in the throughput of epochs, from their equally large groups of batches, and missing rates."""
    speeds = defaultdict(list)
    for (epoch, _), row in rows.batches.items():
        if row["images_per_s"] > 0:
            speeds[epoch].append(row["images_per_s"])
    for epoch, row in rows.epochs.items():
        if speeds[epoch] and "images_per_s" not in row:
            row["images_per_s"] = harmonic_mean(speeds[epoch])
        if math.isnan(row.get("lr", math.nan)):
            row["lr"] = row.get("lr after", math.nan)


def _values(part, text):
    """{column: value} of the metrics in a line: accuracy, top_k_accuracy_5, cross-entropy, GluonCV's err-top1 or
    top1-err; others get columns that nobody asks for."""
    values = {}
    for metric, shown in METRIC.findall(text):
        top = TOP.fullmatch(metric)
        column = f"{{}}_top{top[1]}" if top else LOG_METRICS.get(metric, f"{{}}_{metric}")
        value = number_of(shown)
        values[column.format(part)] = 1 - value if top and "err" in metric else value
    return values

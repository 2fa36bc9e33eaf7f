"""Reading PREFIX-metrics.jsonl, which training writes."""
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

from common.base.errors import InputError
from common.curves.curves import LARGEST, Rows

TRAINING = {"loss": "train_loss", "lr": "lr", "images_per_s": "images_per_s", "seconds": "seconds"}
COLUMNS = {"batches": TRAINING, "epoch": TRAINING, "validation": {"loss": "val_loss", "ema-top-1": "ema_top1"}}
TOP = {"batches": "train_top", "epoch": "train_top", "validation": "val_top"}


def read_metrics(lines: Iterable[tuple[int, str]], rows: Rows, path: str | Path) -> None:
    """Fill `rows` from the lines of the file `path`. Raises InputError, with its number, for any other line."""
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
    """(file and line, event, entry) of each line, without those that a killed process cut short: only the start
    of the process that went on may follow one."""
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
        raise InputError(f'{where}: "{name}" is {_shown(value)}; give a whole number of 0 or more')
    return value


def _number(entry, name, where):
    value = entry[name]
    if value is None:
        return math.nan
    if type(value) not in (int, float) or not abs(value) < LARGEST:
        raise InputError(f'{where}: "{name}" is {_shown(value)}; give a finite number')
    return float(value)


def _shown(value):
    text = "missing" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "..."

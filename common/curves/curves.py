"""Columns of a run's numbers, and the rows from which they are made while a file is read."""
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.base.files import check_regular

BATCH_COLUMNS = ("epoch", "batch", "batches", "train_loss", "train_top1", "train_top5", "lr", "images_per_s")
EPOCH_COLUMNS = ("epoch", "train_loss", "train_top1", "train_top5", "val_loss", "val_top1", "val_top5", "ema_top1",
                 "lr", "images_per_s", "seconds")
LONGEST_LINE = 2 ** 20  # bytes; a file with longer ones is no log
LARGEST = 1e100  # greater numbers count as infinite
NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf))"


@dataclass
class Curves:
    """Columns of numbers by the names of EPOCH_COLUMNS and BATCH_COLUMNS, in order; a missing value is NaN.

    Epochs are counted from 0; `batch` batches of the epoch's `batches` are completed; accuracies are shares of 1;
    `lr` is the rate of the last update, or the one after the epoch if only that is logged; `train_*` of a group of
    batches is of those since the group before it; `top5` is the top-k accuracy, and `k` is 5, or the
    smallest k that the run has if it lacks 5. `note`: the part of the file that is left out, or "".
    """
    epochs: dict
    batches: dict
    k: int
    note: str = ""


class Rows:
    """Values by epoch, and by (epoch, batch), while a file is read. A repeated value replaces the earlier one."""

    def __init__(self) -> None:
        self.epochs, self.batches, self.note = defaultdict(dict), defaultdict(dict), ""

    def restart(self, epoch: int, batch: int = 0) -> None:
        """The run goes on from here: anything later, by a killed process, is not part of it."""
        for row in [row for row in self.epochs if row >= epoch]:
            del self.epochs[row]
        for row in [row for row in self.batches if row > (epoch, batch)]:
            del self.batches[row]

    def curves(self) -> Curves:
        epochs = [{"epoch": epoch, **row} for epoch, row in sorted(self.epochs.items())]
        batches = [{"epoch": epoch, "batch": batch, **row} for (epoch, batch), row in sorted(self.batches.items())]
        found = {int(match[1]) for row in epochs + batches for name in row
                 if (match := re.fullmatch(r"(?:train|val)_top(\d+)", name))} - {1}
        k = 5 if 5 in found or not found else min(found)
        return Curves(_columns(epochs, EPOCH_COLUMNS, k), _columns(batches, BATCH_COLUMNS, k), k, self.note)


def _columns(rows, names, k):
    return {name: np.array([row.get(name.replace("top5", f"top{k}"), math.nan) for row in rows], np.float64)
            for name in names}


def lines_of(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not blank. Raises InputError for a file that is not text."""
    check_regular(path)
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            if b"\0" in line or len(line) == LONGEST_LINE:
                raise InputError(f"{path}, line {number}: not a text file")
            if line.strip():
                yield number, line.decode("utf-8", "replace")


def number_of(text: str) -> float:
    """The value of a text that NUMBER matches; NaN if it is not finite."""
    value = float(text)
    return value if abs(value) < LARGEST else math.nan

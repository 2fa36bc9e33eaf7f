"""Reading curves: of a run, from any kind of file, and published ones."""
import math
import re
from itertools import chain
from pathlib import Path

from common.base.errors import InputError
from common.curves.curves import EPOCH_COLUMNS, NUMBER, Curves, Rows, lines_of, number_of
from common.curves.metrics import read_metrics
from common.curves.mxnet_log import read_log


def read_run(path: str | Path) -> Curves:
    """Read PREFIX-metrics.jsonl, or a log of MXNet's Module.fit or of Gluon's scripts; the content decides which.

    Epochs and batches that are repeated after a resume replace the earlier ones. Raises InputError for a file that is
    neither, and with the line's number for a line of metrics that cannot be read.
    """
    lines = lines_of(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: the file is empty")
    read = read_metrics if first[1].lstrip().startswith('{"') else read_log
    rows = Rows()
    read(chain([first], lines), rows, path)
    if not (rows.epochs or rows.batches):
        raise InputError(f"{path}: has no line about training; give PREFIX-metrics.jsonl or a log of MXNet's scripts")
    return rows.curves()


def read_published(path: str | Path) -> Curves:
    """Read a table as data/published/ has them: a row for each epoch, columns named as in EPOCH_COLUMNS, and `lr_end`.

    Its `lr` is the rate after the epoch's decay. Raises InputError, with the line's number, for what cannot be read.
    """
    rows, header = Rows(), None
    for number, line in lines_of(path):
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
                if not re.fullmatch(NUMBER, cell, re.ASCII | re.IGNORECASE) or math.isnan(number_of(cell)):
                    raise InputError(f"{path}, line {number}: {name} {cell[:40]!r} is not a finite number")
                values[name] = number_of(cell)
    if not rows.epochs:
        raise InputError(f"{path}: no epoch in it")
    return rows.curves()

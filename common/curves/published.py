"""Reading published curves."""
import math
import re
from pathlib import Path

from common.curves.curves import EPOCH_COLUMNS, NUMBER, Curves, Rows, lines_of, number_of
from common.errors import InputError


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

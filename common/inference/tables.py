"""The answers to many images as a table that other programs read: CSV or JSON, by the name of the file."""
import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.base.errors import Closed, InputError
from common.base.files import written_atomically

TOP = 5
COLUMNS = ("label", "class", "probability")  # with the rank: label_1, class_1, probability_1, label_2, ...


def table_file(text: str) -> str:
    """A type for the command line: the name of a file whose suffix says what table it is."""
    if Path(text).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r}: give a name that ends in {' or '.join(FORMATS)}")
    return text


@contextmanager
def answers_table(path: str | Path | None = None) -> Iterator[Callable]:
    """write(path, top, error) adds an image: `top` has (label, class name, probability) of its best classes, at most
    TOP. For an image that cannot be read it is empty, and `error` says why.

    The file appears, complete, when this block ends without an error. Without a `path`, rows of CSV are written to
    standard output as they come. Names of files that are not UTF-8 are written as they are in CSV, and with Python's
    lone surrogates in JSON. Raises InputError or OSError at once if it cannot be written.
    """
    if path is None:
        if isinstance(sys.stdout, Closed):
            raise InputError("standard output is closed: give the name of a file for the table")
        with _as_they_are(sys.stdout), _csv(sys.stdout) as write:
            yield write
        return
    with written_atomically(path) as partial, \
            open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file, \
            FORMATS[Path(path).suffix.lower()](file) as write:
        yield write


@contextmanager
def _as_they_are(file):
    """Names of files are written to `file` byte by byte, so that a program that reads the table can open them."""
    before = file.encoding, file.errors
    file.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        yield
    finally:
        file.reconfigure(encoding=before[0], errors=before[1])


@contextmanager
def _csv(file):
    usual, quoted = (csv.writer(file, quoting=quoting, lineterminator="\n")
                     for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    usual.writerow(["path", *(f"{name}_{rank}" for rank in range(1, TOP + 1) for name in COLUMNS), "error"])

    def write(path, top, error):
        cells = [cell for label, name, probability in top for cell in (label, name, _rounded(probability))]
        cells += [""] * (TOP * len(COLUMNS) - len(cells))
        # an unquoted carriage return would end the row, and csv quotes only its own end of a line
        (quoted if "\r" in path else usual).writerow([path, *cells, error or ""])
    yield write


@contextmanager
def _json(file):
    separator = "[\n"

    def write(path, top, error):
        nonlocal separator
        answers = [dict(zip(COLUMNS, (label, name, _rounded(probability)))) for label, name, probability in top]
        file.write(separator + json.dumps({"path": path, **({"error": error} if error else {"top": answers})}))
        separator = ",\n"
    yield write
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _rounded(probability):
    return float(f"{probability:.6g}")


FORMATS = {".csv": _csv, ".json": _json}

"""What every benchmark does with its results."""
import argparse
import csv
import os
import platform
from pathlib import Path

from common.base.errors import InputError
from common.base.files import make_folder, written_atomically
from common.base.machine import processor_identity, processor_name, usable_cores


def machine() -> dict:
    """The processor, its cores that may be used, and Python."""
    known = processor_identity()
    numbers = ", ".join(f"{name} {known[name]}" for name in ("cpu family", "model") if name in known)
    name = f"{processor_name()} ({numbers})" if numbers else processor_name()  # an "AMD EPYC" may be any of several
    return {"processor": name, "cores": usable_cores(), "python": platform.python_version()}


def output(path: str) -> str:
    """An argument: a file to write in the end, whose folder is made, or found to be none, at the start."""
    try:
        make_folder(Path(path).parent)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def whole_batches(images: int, batch_size: int) -> int:
    """How many of `images` fill batches. Raises InputError where that is none."""
    if images < batch_size:
        raise InputError(f"--images {images}: give as many as --batch-size has, {batch_size}, at least")
    return images - images % batch_size


def write_csv(path: str | os.PathLike, rows: list, append: bool = False) -> None:
    """Dictionaries with the same keys, a line each; to `append`, after those that the file has."""
    if append and Path(path).exists():
        with open(path, newline="") as file:
            rows = [*csv.DictReader(file), *rows]
    with written_atomically(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

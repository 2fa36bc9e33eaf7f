"""What every benchmark does with its results."""
import csv
import os
import platform

from common.files import written_atomically
from common.processor import processor_name, usable_processors


def machine() -> dict:
    """The processor, its cores that may be used, and Python."""
    return {"processor": processor_name(), "cores": usable_processors(), "python": platform.python_version()}


def write_csv(path: str | os.PathLike, rows: list) -> None:
    """Dictionaries with the same keys, a line each."""
    with written_atomically(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

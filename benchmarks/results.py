"""What every benchmark does with its results."""
import csv
import os
import platform
from pathlib import Path

from common.files import written_atomically


def machine() -> dict:
    """The processor, its cores that may be used, and Python."""
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]
    return {"processor": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version()}


def write_csv(path, rows: list) -> None:
    """Dictionaries with the same keys, a line each."""
    with written_atomically(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

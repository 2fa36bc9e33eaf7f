"""Processes that end with their parent, signals that are held back, and a process of its own for reading what may be
damaged.

The readers of HDF5 and SciPy crash, hang or fill the memory on damaged files. `confined` limits memory and processor
time, and gets arrays back in a file, which is read without unpickling.
"""
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.base.errors import InputError, missing_package
from common.base.files import check_regular

ROOT = Path(__file__).resolve().parents[2]
MEMORY, SECONDS = 3 << 30, 120  # bytes beside those of the imports; of one processor
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def confined(module: str, function: str, path: str | os.PathLike, memory: int = MEMORY,
             seconds: int = SECONDS) -> list[tuple[str, np.ndarray]]:
    """What `function` of `module` makes of the file at `path`: a list of (name, array), arrays of numbers or of texts.

    Raises the function's InputError, and an InputError if it takes more than `memory` bytes or `seconds` on a
    processor, or its process dies.
    """
    check_regular(path)
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        arguments = [module, function, os.fsencode(Path(path).absolute()).hex(), folder, memory, seconds, os.getpid()]
        process = subprocess.run([sys.executable, "-c", "import sys; sys.path[0] = sys.argv.pop(1); "
                                  "from common.base.processes import main; main(*sys.argv[1:])", ROOT,
                                  *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True)
        if process.returncode:
            raise InputError(f"{path}: is damaged: reading it takes too much time or memory, or crashes")
        answer = json.loads((Path(folder) / "answer.json").read_text(encoding="utf-8"))
        if "error" in answer:
            raise InputError(answer["error"])
        with np.load(Path(folder) / "arrays.npz", allow_pickle=False) as arrays:
            return [(name, arrays[str(i)]) for i, name in enumerate(answer["names"])]


def main(module: str, function: str, path: str, folder: str, memory: str, seconds: str, parent: str) -> None:
    dies_with(int(parent))
    answer: dict = {}
    try:
        read = getattr(importlib.import_module(module), function)
        _limit(int(memory), int(seconds))
        found = read(os.fsdecode(bytes.fromhex(path)))
        if any(array.dtype.hasobject for _, array in found):
            raise TypeError("an array of objects, which would be pickled")
        np.savez(Path(folder) / "arrays.npz", **{str(i): array for i, (_, array) in enumerate(found)})
        answer["names"] = [name for name, _ in found]
    except InputError as error:
        answer["error"] = str(error)
    except ModuleNotFoundError as error:
        answer["error"] = missing_package(error)
    (Path(folder) / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _limit(memory, seconds):
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {resource.RLIMIT_AS: taken + memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    for what, limit in limits.items():
        hard = resource.getrlimit(what)[1]  # it cannot be raised
        resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard),) * 2)


def dies_with(parent: int) -> None:
    """Have the kernel end this process when `parent`, which started it, ends in any way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class StopRequest:
    """Within this block SIGTERM and SIGINT only set `wish` to their number; a second one ends the program at once."""

    def __init__(self) -> None:
        self.wish, self._previous = 0, {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        if self.wish:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.wish = number


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGTERM and SIGINT that arrive within this block take effect after it."""
    stop = StopRequest()
    try:
        with stop:
            yield
    finally:
        if stop.wish:
            signal.raise_signal(stop.wish)

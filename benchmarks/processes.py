"""Python processes whose work is measured, or needed, as a whole."""
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.base.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def output_of(*arguments: str | Path | int, python: str = sys.executable, cwd: str | Path = ROOT,
              **options: Any) -> str:
    """What `python` prints, run with `arguments` (a script is named from the repository's root).

    Raises InputError with the last line of its errors where it fails; `options` are subprocess.run's.
    """
    done = subprocess.run([python, *map(str, arguments)], cwd=cwd, text=True, check=False,
                          **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})
    if done.returncode:
        *_, last = (done.stderr or done.stdout or "").splitlines() or [f"{arguments[0]} ended with {done.returncode}"]
        raise InputError(last.partition(" error: ")[2] or last)
    return done.stdout

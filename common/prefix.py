"""Whether checkpoints can be written under a prefix, and what is there already."""
import os
import re
from pathlib import Path

from common.errors import InputError

MAX_NAME = 190  # bytes; what is put before and behind it is less than the 65 that most file systems then leave


def check_prefix(prefix: str, what: str) -> None:
    """Raise InputError, which begins with `what` it is, for a prefix that nothing can be written under. Its folder is
    made."""
    if prefix.endswith("/") or Path(prefix).name in ("", "..") or "\0" in prefix:
        raise InputError(f"{what} {prefix}: give the beginning of the files' names too")
    folder = Path(prefix).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{what} {prefix}: {error.strerror}: {error.filename}") from None
    if len(os.fsencode(Path(prefix).name)) > MAX_NAME:
        raise InputError(f"{what} {prefix}: the name is too long; give {MAX_NAME} bytes at most")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{what} {prefix}: {folder} cannot be written to")


def files_under(prefix: str) -> list:
    """The files of checkpoints with that prefix, of whatever epochs."""
    pattern = re.compile(re.escape(Path(prefix).name) + r"-(symbol\.json|preprocess\.json|\d{4,}\.params)")
    return sorted(path for path in Path(prefix).parent.iterdir() if pattern.fullmatch(path.name))

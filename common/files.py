"""Folders that can be written, and files of which a reader never sees half."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import InputError


@contextmanager
def named_in_errors(path: str | Path) -> Iterator[None]:
    """An OSError in this block that names no file is one of `path`: that of a write names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def written_atomically(path: str | os.PathLike) -> Iterator[str]:
    """A temporary name beside `path`; what was written there is renamed to `path` when the block ends well.

    Raises InputError, before the block, where `path` is not the name of a file: a folder, or a device such as
    /dev/null, which root would replace.
    """
    path = Path(path)
    if not path.name or path.exists() and not path.is_file():
        raise InputError(f"{path}: cannot be written, not the name of a file")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield str(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


def make_folder(folder: str | Path) -> None:
    """Make the folder where it is not there. Raises InputError where files cannot be made in it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: root has them in /proc
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from None

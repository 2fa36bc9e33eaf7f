"""Reading files within bounds, TOML and JSON among them; writing files that a reader never sees half of; locks and
folders."""
import ctypes
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.base.errors import InputError, last_line

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
MOST_LINKS = 40  # that lead to each other
MOST_TEXT = 64 << 20  # bytes; the longest read here, a metrics file of many epochs, has a few MiB
MOST_WEIGHTS = 1 << 30  # bytes, of a file of weights and of its arrays; the widest MobileNetV2 here has 60 MB


def check_regular(path: str | os.PathLike) -> None:
    """Raise InputError for a pipe or a device, which would be read without end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # opening it says what is wrong
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe or a device; give the name of a file")


def check_size(path: str | os.PathLike, most: int) -> None:
    """Raise InputError for a file of more than `most` bytes, a pipe or a device."""
    check_regular(path)
    try:
        size = os.path.getsize(path)
    except (OSError, ValueError):
        return  # opening it says what is wrong
    if size > most:
        raise InputError(_too_large(path, most))


def _too_large(path, most):
    return f"{path}: has more than {most >> 20} MiB; another file, or a damaged one?"


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """The content of a file. Raises InputError if it has more than `most` bytes or is no file, OSError as `open`."""
    check_size(path, most)
    with open(path, "rb") as file:
        content = file.read()  # read(most + 1) would take that much memory for any file
    if len(content) > most:  # as in /proc, where files have no size
        raise InputError(_too_large(path, most))
    return content


def read_text(path: str | os.PathLike, most: int = MOST_TEXT) -> str:
    """The text of a UTF-8 file, line ends as they are. Raises UnicodeDecodeError too; the rest as `read_bytes`."""
    return read_bytes(path, most).decode("utf-8")


def listed(folder: str | Path) -> list[os.DirEntry]:
    """The entries of a folder, sorted by name, without hidden ones. Raises InputError if it cannot be read."""
    try:
        with os.scandir(str(folder)) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or last_line(error)}") from None


@contextmanager
def named_in_errors(path: str | Path) -> Iterator[None]:
    """Give an OSError in this block the name `path` if it has none, as that of a write."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def written_atomically(path: str | os.PathLike) -> Iterator[str]:
    """A temporary name beside `path`, or beside the file that it links to; when the block ends well, what was written
    there is renamed to it, with the permissions of the file before.

    Raises InputError, before the block, if `path` is not the name of a file but a folder, or a device such as
    /dev/null or /dev/stdout, which root would replace.
    """
    target = _followed(Path(path))
    if not target or os.fspath(path).endswith("/") or not target.name or target.exists() and not target.is_file():
        raise InputError(f"{path}: cannot be written, not the name of a file")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield str(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
        os.replace(partial, target)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def folder_written_atomically(folder: str | os.PathLike) -> Iterator[Path]:
    """An empty folder beside `folder`; when the block ends well, it takes the place of `folder` and of all in it.

    Raises InputError where no folder can be made."""
    folder = Path(folder).resolve()
    make_folder(folder.parent)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        yield partial
        _replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder, partial):
    """Put `partial` in the place of `folder`. Both swap names at once if the file system can do that. If not, neither
    is there for a moment; a process that is killed then leaves the old folder as .NAME.PID.old."""
    if _exchanged(folder, partial):
        return
    old = partial.with_suffix(".old")
    with suppress(FileNotFoundError):
        os.rename(folder, old)
    try:
        os.rename(partial, folder)
    except OSError:
        with suppress(FileNotFoundError):
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one, other):
    """Whether two names could be exchanged in one step."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library from before 2018
        return False
    return renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _followed(path):
    """What a link leads to, step by step; None for one of the system's own, such as /dev/stdout."""
    for _ in range(MOST_LINKS):
        if not path.is_symlink():
            return path
        folder = os.path.realpath(path.parent)
        if folder == "/dev" or folder.startswith("/proc/"):
            return None
        path = Path(folder, os.readlink(path))
    return None


def check_not_read(out: str | os.PathLike, *inputs: str | os.PathLike | None) -> None:
    """Raise InputError if `out`, a file to write or a folder to replace, is one of the `inputs` that are read, or holds
    one, by any path or link. Give the files in a folder that is read one by one."""
    if not os.path.exists(out):
        return
    for path in filter(os.path.exists, filter(None, inputs)):
        if os.path.samefile(out, path) or Path(path).resolve().is_relative_to(Path(out).resolve()):
            raise InputError(f"{out}: is read here, and would be overwritten; give another name to write to")


@contextmanager
def locked(path: Path, message: str, wait: bool = False) -> Iterator[None]:
    """Within this block no other process is in one with the same `path`, a file that is there only meanwhile. If one
    is, raise InputError(message), or with `wait` print the message and wait for it. A file that has something
    in it is no lock, and is refused."""
    if path.is_symlink() or path.exists() and path.stat().st_size:
        raise InputError(f"{path}: is in the place of a lock, and has something in it; move it away")
    from filelock import FileLock, Timeout  # here, since that takes as long as all of a script's `--help`
    lock = FileLock(path)
    try:
        with named_in_errors(path):
            lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise InputError(message) from None
        print(message, file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: a process that waits sees that it is gone, and makes its own
        lock.release()


def make_folder(folder: str | Path) -> None:
    """Make the folder unless it exists. Raises InputError if no files can be made in it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions are not enough: root has them in /proc
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from None


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: str | Path) -> dict:
    """The content of a TOML file. Raises InputError for another file, OSError if it cannot be read."""
    return _parsed(path, tomllib.loads, "TOML", MOST_TEXT)


def read_json(path: str | os.PathLike, what: str = "JSON", most: int = MOST_TEXT) -> Any:
    """The content of a JSON file of at most `most` bytes. Raises InputError ("PATH: not WHAT") for another file,
    OSError if it cannot be read."""
    return _parsed(path, json.loads, what, most)


def _parsed(path, parse, what, most):
    content = read_bytes(path, most)
    try:
        return parse(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also of numbers and dates
        raise InputError(f"{path}: not {what} ({error})") from None


def cache_folder() -> Path:
    """The folder of published weights, and of the folder of compiled networks: mxnet-mobilenet-v2 in XDG_CACHE_HOME if
    that is an absolute path, else in ~/.cache."""
    import platformdirs
    return platformdirs.user_cache_path("mxnet-mobilenet-v2")

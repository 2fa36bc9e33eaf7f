"""Get a file from the first URL that has it: verified, and in its place only when it is whole."""
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from common.base.errors import InputError
from common.base.files import make_folder
from common.zoo.hashes import Hash, fault
from common.zoo.transfer import MAX_SIZE, PAUSES, TIMEOUT, Refused, transfer


class DownloadError(InputError):
    """No URL gave the file. The message says for each of them why."""


def download(urls: Sequence[str], path: str | Path, expected: Hash | None = None, size: int | None = None,
             member: str | None = None, start: tuple[int, bytes] | None = None, pauses: Sequence[float] = PAUSES,
             timeout: float = TIMEOUT) -> Path:
    """`path`, once it holds the file that `urls` (tried in turn) lead to; at once where it does already.

    `expected`, `size` and `start` are those of the file, as `common.zoo.hashes.fault` takes them; `member` is its name
    in the zip archive that the URLs then lead to. What has come of a broken download stays beside `path`, and the next
    one goes on with it if `expected` can tell that the whole is right. One process at a time downloads; the next one
    waits and finds the file. `pauses`, `timeout`: see `transfer`.

    Raises DownloadError where no URL gives the file, InputError where `path` is another file, its folder cannot be
    written or a URL is not of http or https, and OSError where the disk is full.
    """
    path = Path(path)
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise InputError(f"{url}: only http and https are downloaded")
    make_folder(path.parent)
    with _lock(path):
        if path.exists():
            if reason := fault(path, expected, size, start):
                raise InputError(f"{path}: is not the file to be downloaded: {reason}")
            return path
        reasons = []
        for url in urls:
            try:
                _download(url, path, expected, size, member, start, pauses, timeout)
                return path
            except Refused as error:
                reasons.append(f"{url}: {error}")
    raise DownloadError("; ".join(reasons))


def extract_member(archive: str | Path, member: str, path: str | Path, max_size: int = MAX_SIZE) -> None:
    """Write one file of a zip archive to `path`. Raises InputError for what is none, lacks it or unpacks to more."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, open(path, "wb") as target:
            if opened.getinfo(member).file_size > max_size:
                raise InputError(f"{member} of the archive has more than {max_size:,} bytes")
            shutil.copyfileobj(source, target)  # file_size bytes at most, whatever the compressed data hold
    except KeyError:
        raise InputError(f"the archive has no {member}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"not a usable zip archive: {error}") from None


def _download(url: str, path: Path, expected: Hash | None, size: int | None, member: str | None,
              start: tuple[int, bytes] | None, pauses: Sequence[float], timeout: float) -> None:
    """Raises Refused. What was put together of several answers and is wrong is fetched once more, from the start."""
    partial, extracted = (path.with_name(f".{path.name}.{kind}") for kind in ("partial", "extracted"))
    for last in (False, True):
        try:
            joined = transfer(url, partial, size if member is None else None, expected is not None, pauses, timeout,
                              path.name)
            if member is not None:
                extract_member(partial, member, extracted, size or MAX_SIZE)
            file = extracted if member else partial
            if reason := fault(file, expected, size, start):
                raise InputError(reason)
            _place(file, path)
            partial.unlink(missing_ok=True)
            return
        except InputError as error:
            partial.unlink()
            if last or not joined:
                raise Refused(f"what came is not the file: {error}") from None
        except OSError as error:
            partial.unlink(missing_ok=True)  # a full disk keeps nothing of it
            error.filename = error.filename or str(path)
            raise
        finally:
            extracted.unlink(missing_ok=True)


def _place(file: Path, path: Path) -> None:
    with open(file, "rb") as content:
        os.fsync(content.fileno())
    os.replace(file, path)


@contextmanager
def _lock(path):
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process, which downloads {path.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

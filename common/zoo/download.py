"""Get a file from the first URL that has it: verified, and in its place only once it is complete."""
import os
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from common.base.errors import InputError
from common.base.files import locked, make_folder
from common.zoo.hashes import Hash, fault
from common.zoo.transfer import MAX_SIZE, RETRIES, TIMEOUT, Refused, transfer


class DownloadError(InputError):
    """No URL gave the file. The message says why, for each of them."""


def download(urls: Sequence[str], path: str | Path, expected: Hash | None = None, size: int | None = None,
             member: str | None = None, start: tuple[int, bytes] | None = None, retries: int = RETRIES,
             timeout: float = TIMEOUT) -> Path:
    """`path`, once it holds the file that `urls` (tried in turn) lead to; at once if it already does.

    `expected`, `size` and `start` are those of the file, as `common.zoo.hashes.fault` takes them; `member` is its name
    in the zip archive that the URLs then lead to. A download that breaks off stays beside `path`, and the next one
    goes on with it if `expected` is there to tell that the result is right. One process at a time downloads; the next
    one waits and finds the file. `retries` and `timeout` are those of `transfer`.

    Raises DownloadError if no URL gives the file, InputError if `path` is another file, its folder cannot be written
    or a URL is not of http or https, and OSError if the disk is full.
    """
    path = Path(path)
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url}: only http and https are downloaded")
    make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock"), f"waiting for another process, which downloads {path.name}",
                wait=True):
        if path.exists():
            if reason := fault(path, expected, size, start):
                raise InputError(f"{path}: is not the file to be downloaded: {reason}")
            return path
        reasons = []
        for url in urls:
            try:
                _download(url, path, expected, size, member, start, retries, timeout)
                return path
            except Refused as error:
                reasons.append(f"{url}: {error}")
    raise DownloadError("; ".join(reasons))


def extract_member(archive: str | Path, member: str, path: str | Path, max_size: int = MAX_SIZE) -> None:
    """Write one file of a zip archive to `path`. Raises InputError if it is no zip archive, lacks the file or
    unpacks to more than `max_size` bytes."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, open(path, "wb") as target:
            if opened.getinfo(member).file_size > max_size:
                raise InputError(f"{member} of the archive has more than {max_size:,} bytes")
            shutil.copyfileobj(source, target)  # no more than file_size bytes
    except KeyError:
        raise InputError(f"the archive has no {member}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"not a usable zip archive: {error}") from None


def _download(url, path, expected, size, member, start, retries, timeout):
    """Raises Refused. What was added to an earlier download and is wrong is fetched once more, from its beginning."""
    partial, extracted = (path.with_name(f".{path.name}.{kind}") for kind in ("partial", "extracted"))
    for resumed in (True, False) if partial.exists() else (False,):
        try:
            most = size or MAX_SIZE
            transfer(url, partial, MAX_SIZE if member else most, expected is not None, path.name, retries, timeout)
            if member:
                extract_member(partial, member, extracted, most)
            file = extracted if member else partial
            if reason := fault(file, expected, size, start):
                raise InputError(reason)
            _place(file, path)
            partial.unlink(missing_ok=True)
            return
        except InputError as error:
            partial.unlink()
            if not resumed:
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

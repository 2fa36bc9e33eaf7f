"""Compiled networks kept in a folder: an entry is complete or not there, however many processes use it or are killed.

    KEY/                  an entry; its manifest.json has the sizes and SHA-256 of its files
    .KEY.XXXX.partial/    one that a process is making or removing
    .KEY.lock             held by the process that makes the entry, while others wait for it

A process reads an entry at once, when it opens it, and needs its files no more. Entries go when the folder is full, the
least recently used first, but none within AGE of its last use. Other files in the folder are left alone, and what
another user may have put there is not loaded.
"""
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import cache_folder
from common.inference.owner import check_private, is_own

MANIFEST = "manifest.json"
# parts of an entry, though a damaged manifest lacks their names
COMPILED = {"network.so", "network.params", "network.json", "graph.json", "weights.json", "kernels"}
MAX_MANIFEST = 1 << 20  # bytes; it has a few hundred
MAX_MEGABYTES = 2048
AGE = 3600  # seconds; a process reads an entry in far fewer
KEY = "[0-9a-f]{32}"
ENTRY, OTHERS = re.compile(KEY), re.compile(rf"\.({KEY})\.(lock|\w{{8}}\.partial)")


class Cache:
    """A folder that only this user can write to or replace; it is made if it is not there. Raises OSError if it cannot
    be used.

    MOBILENETV2_CACHE names it (default: `compiled` in the `cache_folder`) and MOBILENETV2_CACHE_MB bounds it (2048).
    """

    def __init__(self) -> None:
        folder = Path(os.environ.get("MOBILENETV2_CACHE") or cache_folder() / "compiled")
        self.max_bytes = _megabytes(os.environ.get("MOBILENETV2_CACHE_MB", str(MAX_MEGABYTES))) * 2**20
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(folder)
        self.folder = folder.resolve()

    def entry(self, key: str, make: Callable[[Path], object]) -> Path:
        """The folder of `key`. If there is none, `make(folder)` fills an empty folder, in one process at a time.

        Raises what `make` raises, and OSError if the folder cannot be written to, or if a file that is not part of the
        entry would be lost.
        """
        if found := self._find(key):
            return found
        lock = FileLock(self.folder / f".{key}.lock", mode=0o600)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            print("another process is compiling the same: waiting for it", file=sys.stderr)
            held = lock.acquire()
        with held:
            entry = self._find(key) or self._made(key, make)
        self._shrink(self.max_bytes, AGE)
        return entry

    def clear(self) -> None:
        """Remove every entry. Networks that are open stay so."""
        self._shrink(0, age=0)

    def _find(self, key):
        folder = self.folder / key
        _check_all_made_here(folder)
        if not is_own(folder, stat.S_ISDIR):
            return None
        if not _is_whole(folder):
            if folder.exists():  # else another process has removed it
                print(f"warning: {folder} is damaged: compiling again", file=sys.stderr)
            return None
        with suppress(OSError):  # a cache that can only be read
            os.utime(folder / MANIFEST)
        return folder

    def _made(self, key, make):
        """A new entry; this process holds the lock of `key`."""
        partial = self._partial(key)
        try:
            make(partial)
            files = {path.name: [path.stat().st_size, digest(path, "sha256")] for path in sorted(partial.iterdir())}
            (partial / MANIFEST).write_text(json.dumps(files, indent=1) + "\n")
            self._remove(key)  # a damaged one
            os.rename(partial, self.folder / key)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return self.folder / key

    def _partial(self, key):
        return Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".partial", dir=self.folder))

    def _remove(self, key):
        """Remove the entry of `key`; other processes see it complete or not at all."""
        away = self._partial(key)
        with suppress(FileNotFoundError):
            os.rename(self.folder / key, away)
        shutil.rmtree(away, ignore_errors=True)

    def _shrink(self, max_bytes, age):
        """Remove what killed processes left, and entries that were not used for `age` seconds, the least recently used
        first, until the rest fits in `max_bytes`. Folders that hold anything but what their manifest lists stay."""
        entries, others = [], set()
        with suppress(OSError):  # a cache that can only be read
            for path in list(self.folder.iterdir()):
                with suppress(FileNotFoundError):  # another process has removed it
                    if ENTRY.fullmatch(path.name) and _has_only_parts(path):
                        size = sum(part.lstat().st_size for part in path.iterdir())
                        entries.append(((path / MANIFEST).lstat().st_mtime, size, path.name))
                    elif match := OTHERS.fullmatch(path.name):
                        others.add(match[1])
            total = sum(size for _, size, _ in entries)
            for used, size, key in sorted(entries):
                if total > max_bytes and used <= time.time() - age:
                    self._remove(key)
                    total -= size
            for key in others:
                self._sweep(key)

    def _sweep(self, key):
        """Remove the lock of `key` and what is half made, unless a process is making it."""
        path = self.folder / f".{key}.lock"
        if os.path.lexists(path) and not is_own(path, stat.S_ISREG):
            return
        with suppress(Timeout), FileLock(path, mode=0o600).acquire(timeout=0):
            for partial in list(self.folder.glob(f".{key}.*.partial")):
                if OTHERS.fullmatch(partial.name) and is_own(partial, stat.S_ISDIR):
                    shutil.rmtree(partial, ignore_errors=True)
            path.unlink()


def clear_cache() -> None:
    """Remove every compiled network."""
    Cache().clear()


def _megabytes(text):
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"MOBILENETV2_CACHE_MB={text!r}: give a whole number of megabytes")
    return int(text)


def _listed(folder: Path) -> dict:
    """{name: [bytes, SHA-256]} of the files that the manifest of an entry lists; {} if it has another form."""
    if not is_own(folder / MANIFEST, stat.S_ISREG):
        return {}
    try:
        with (folder / MANIFEST).open("rb") as file:
            files = json.loads(file.read(MAX_MANIFEST))
        good = all("/" not in name and name not in ("", ".", "..", MANIFEST) and type(size) is int
                   and re.fullmatch("[0-9a-f]{64}", digits) for name, (size, digits) in files.items())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return files if good else {}


def _has_only_parts(folder: Path) -> bool:
    files = _listed(folder)
    return bool(files) and is_own(folder, stat.S_ISDIR) and all(
        path.name in (MANIFEST, *files) and is_own(path, stat.S_ISREG) for path in folder.iterdir())


def _is_whole(folder: Path) -> bool:
    try:
        return _has_only_parts(folder) and all(
            (folder / name).lstat().st_size == size and digest(folder / name, "sha256") == digits
            for name, (size, digits) in _listed(folder).items())
    except OSError:
        return False


def _check_all_made_here(folder: Path) -> None:
    """Raise FileExistsError if a new entry in the place of `folder` would replace what is not part of an entry."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    listed = _listed(folder)
    if folder.is_symlink():
        raise FileExistsError(None, "is a link: move it away", str(folder))
    others = {*names} - {MANIFEST, *listed, *(COMPILED if listed else ())}
    if others and (listed or MANIFEST not in names):  # otherwise its manifest is damaged
        raise FileExistsError(None, f"has {min(others)!r}, which is no part of it: move that away", str(folder))

"""Compiled networks kept in a folder: an entry is complete or not there, however many processes use it or are killed.

    KEY/                  an entry; its manifest.json, with the sizes and SHA-256 of its files, is written last
    .KEY.XXXX.partial/    one that a process is making or removing; if it is killed, another removes this later
    .KEY.lock             held by the process that makes the entry; others wait for it

A process that uses an entry holds a shared lock on its manifest, and only entries that nobody uses are removed. Other
files in the folder are left alone, and what another user may have put there is not loaded.
"""
import fcntl
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import cache_folder
from common.inference.owner import check_private, is_own

MANIFEST = "manifest.json"
COMPILED = {"network.so", "network.params", "network.json", "graph.json", "kernels"}  # parts, listed or not
MAX_MANIFEST = 1 << 20  # bytes; it has a few hundred
MAX_MEGABYTES = 2048
KEY = "[0-9a-f]{32}"
ENTRY, LOCK, PARTIAL = (re.compile(name) for name in (KEY, rf"\.({KEY})\.lock", rf"\.({KEY})\.\w{{8}}\.partial"))


class Entry(NamedTuple):
    """A folder that stays what it is, and where it is, as long as `lock` is open."""
    folder: Path
    lock: BinaryIO


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

    def entry(self, key: str, make: Callable[[Path], object]) -> Entry:
        """The entry of `key`. If there is none, `make(folder)` fills an empty folder, in one process at a time.

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
        self._shrink(self.max_bytes)
        return entry

    def clear(self) -> int:
        """Remove every entry that no process uses; returns how many are left."""
        self._shrink(0)
        return len(self._entries())

    def _find(self, key):
        folder = self.folder / key
        _check_all_made_here(folder)
        try:
            lock = (folder / MANIFEST).open("rb")
        except OSError:
            return None
        with suppress(OSError):  # a file system without locks: nothing is removed there either
            fcntl.flock(lock, fcntl.LOCK_SH)
        if not (_is_still(lock, folder / MANIFEST) and is_own(folder, stat.S_ISDIR)):
            return None
        if not _is_whole(folder):
            print(f"warning: {folder} is damaged: compiling again", file=sys.stderr)
            return None
        with suppress(OSError):  # a cache that can only be read
            os.utime(folder / MANIFEST)
        return Entry(folder, lock)

    def _made(self, key, make):
        """A new entry; this process holds the lock of `key`."""
        self._sweep(key)
        partial = self._partial(key)
        try:
            make(partial)
            files = {path.name: [path.stat().st_size, digest(path, "sha256")] for path in sorted(partial.iterdir())}
            (partial / MANIFEST).write_text(json.dumps(files, indent=1) + "\n")
            lock = (partial / MANIFEST).open("rb")
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_SH)
            self._remove(key)  # a damaged one
            os.rename(partial, self.folder / key)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Entry(self.folder / key, lock)

    def _partial(self, key):
        return Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".partial", dir=self.folder))

    def _remove(self, key):
        """Remove the entry of `key`; other processes see it complete or not at all."""
        away = self._partial(key)
        with suppress(FileNotFoundError):
            os.rename(self.folder / key, away)
        shutil.rmtree(away, ignore_errors=True)

    def _entries(self):
        """(time of last use, bytes, key) of each entry, the least recently used first. Folders that hold anything but
        what their manifest lists are no entries."""
        found = []
        for folder in self.folder.iterdir():
            with suppress(OSError):  # removed meanwhile
                if ENTRY.fullmatch(folder.name) and _has_only_parts(folder):
                    size = sum(path.lstat().st_size for path in folder.iterdir())
                    found.append(((folder / MANIFEST).lstat().st_mtime, size, folder.name))
        return sorted(found)

    def _shrink(self, max_bytes):
        """Remove what killed processes left, and the least recently used entries until the rest fits in `max_bytes`."""
        with suppress(OSError):  # a cache that can only be read
            entries = self._entries()
            total = sum(size for _, size, _ in entries)
            for _, size, key in entries:
                if total <= max_bytes:
                    break
                total -= size * self._removed_unless_in_use(key)
            for lock in list(self.folder.iterdir()):
                if (name := LOCK.fullmatch(lock.name)) and is_own(lock, stat.S_ISREG):
                    with suppress(Timeout), FileLock(lock).acquire(timeout=0):
                        self._sweep(name[1])
                        if not os.path.lexists(self.folder / name[1]):
                            lock.unlink()

    def _removed_unless_in_use(self, key: str) -> bool:
        manifest = self.folder / key / MANIFEST
        with suppress(OSError), manifest.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(lock, manifest):
                self._remove(key)
                return True
        return False

    def _sweep(self, key):
        """Remove the folders that a killed process left; this process holds the lock of `key`."""
        for partial in list(self.folder.iterdir()):
            if (name := PARTIAL.fullmatch(partial.name)) and name[1] == key and is_own(partial, stat.S_ISDIR):
                shutil.rmtree(partial, ignore_errors=True)


def clear_cache() -> int:
    """Remove every compiled network that no process uses; returns how many are left."""
    return Cache().clear()


def _megabytes(text):
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"MOBILENETV2_CACHE_MB={text!r}: give a whole number of megabytes")
    return int(text)


def _is_still(file: IO, path: Path) -> bool:
    """Whether `path` is still the open `file`, and not another that replaced it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


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

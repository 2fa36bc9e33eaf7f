"""Compiled networks kept in a folder: an entry is whole or not there, however many processes use it, and end when.

    KEY/                  an entry; its manifest.json, with the sizes and SHA-256 of its files, is written last
    .KEY.XXXX.partial/    one being made, or removed, by a process; what a killed one leaves is removed later
    .KEY.lock             held by the process that makes the entry; others wait for it

Whoever uses an entry holds a shared lock on its manifest, and only what nobody uses is removed.
"""
import fcntl
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from common.cache_folder import cache_folder
from common.digest import digest
from common.errors import InputError

MANIFEST = "manifest.json"
MAX_MANIFEST = 1 << 20  # bytes; it has a few hundred
MAX_MEGABYTES = 2048


class Entry(NamedTuple):
    """A folder that stays what it is, and where it is, as long as `lock` is open."""
    folder: Path
    lock: BinaryIO


class Cache:
    """A folder that this user alone can write to, made where it is not there. Raises OSError where it cannot be used.

    MOBILENETV2_CACHE names it and MOBILENETV2_CACHE_MB bounds it (2048); else it is `compiled` in the `cache_folder`.
    """

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("MOBILENETV2_CACHE") or cache_folder() / "compiled").resolve()
        self.max_bytes = _megabytes(os.environ.get("MOBILENETV2_CACHE_MB", str(MAX_MEGABYTES))) * 2**20
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _ours(self.folder):
            raise PermissionError(None, "belongs to another user, or others can write to it", str(self.folder))

    def entry(self, key: str, make: Callable[[Path], object]) -> Entry:
        """The entry of `key`; where there is none, `make(folder)` fills an empty folder, in one process at a time.

        Raises what `make` raises, and OSError where the folder cannot be written to.
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
        try:
            lock = (folder / MANIFEST).open("rb")
        except OSError:
            return None
        with suppress(OSError):  # a file system without locks, where nothing is removed either
            fcntl.flock(lock, fcntl.LOCK_SH)
        if not (_is_still(lock, folder / MANIFEST) and _ours(folder)):
            return None
        if not _is_whole(folder, lock):
            print(f"warning: {folder} is damaged: compiling again", file=sys.stderr)
            return None
        with suppress(OSError):  # of a cache that can only be read
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
        """Take the entry of `key` away, in one step for whoever looks for it."""
        away = self._partial(key)
        with suppress(FileNotFoundError):
            os.rename(self.folder / key, away)
        shutil.rmtree(away, ignore_errors=True)

    def _entries(self):
        """(time of last use, bytes, key) of each entry, the one that was not used for longest first."""
        found = []
        for manifest in self.folder.glob(f"[!.]*/{MANIFEST}"):
            with suppress(OSError):  # removed meanwhile
                size = sum(path.stat().st_size for path in manifest.parent.iterdir())
                found.append((manifest.stat().st_mtime, size, manifest.parent.name))
        return sorted(found)

    def _shrink(self, max_bytes):
        """Remove the least recently used entries until the rest has no more than `max_bytes`, and killed processes'
        leavings."""
        with suppress(OSError):  # a cache that can only be read
            entries = self._entries()
            total = sum(size for _, size, _ in entries)
            for _, size, key in entries:
                if total <= max_bytes:
                    break
                total -= size * self._removed_unless_in_use(key)
            for lock in self.folder.glob(".*.lock"):
                key = lock.name[1:-len(".lock")]
                with suppress(Timeout), FileLock(lock).acquire(timeout=0):
                    self._sweep(key)
                    if not (self.folder / key).exists():
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
        for partial in self.folder.glob(f".{key}.*.partial"):
            shutil.rmtree(partial, ignore_errors=True)


def clear_cache() -> int:
    """Remove every compiled network that no process uses; returns how many are left."""
    return Cache().clear()


def _megabytes(text):
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"MOBILENETV2_CACHE_MB={text!r}: give a whole number of megabytes")
    return int(text)


def _ours(folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_still(file: IO, path: Path) -> bool:
    """Whether `path` is the open `file`, and no other that took its place."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _is_whole(folder: Path, manifest: IO) -> bool:
    try:
        files = json.loads(manifest.read(MAX_MANIFEST))
        return bool(files) and all((folder / name).stat().st_size == size and digest(folder / name, "sha256") == digits
                                   for name, (size, digits) in files.items())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False

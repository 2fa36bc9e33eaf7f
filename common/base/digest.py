"""The checksum of a file, also of one that is still being written."""
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

PIECE = 1 << 20


class FollowedDigest:
    """The digest of `path`, computed in a thread of its own, as far as `advance` says that the file is ready.

    The thread reads the file itself, right behind whoever reads or writes it, so that what it reads is still in memory;
    begun in the middle of the work, it starts at the beginning and catches up.
    """

    def __init__(self, path: str | Path, algorithm: str) -> None:
        self._path, self._hash = path, hashlib.new(algorithm, usedforsecurity=False)
        self._ready = self._done = 0
        self._size: int | None = None
        self._error, self._stopped = None, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __enter__(self) -> "FollowedDigest":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def advance(self, to: int) -> None:
        """The first `to` bytes are there."""
        if to - self._ready >= PIECE:
            with self._changed:
                self._ready = to
                self._changed.notify()

    def result(self, size: int, progress: Callable[[int], object] = lambda done: None) -> str:
        """Hexadecimal digest of the file, which has `size` bytes; meanwhile `progress` gets the number of bytes read.
        Raises OSError if they cannot be read."""
        with self._changed:
            self._ready = self._size = size
            self._changed.notify()
        while self._thread.is_alive():
            self._thread.join(0.2)
            progress(self._done)
        if self._error:
            raise self._error
        return self._hash.hexdigest()

    def _follow(self):
        try:
            with open(self._path, "rb", buffering=0) as file:
                while True:
                    with self._changed:
                        while self._ready <= self._done != self._size and not self._stopped:
                            self._changed.wait()
                        if self._done == self._size or self._stopped:
                            return
                        ready = self._ready
                    piece = file.read(min(PIECE, ready - self._done))
                    if not piece:
                        raise OSError(f"{self._path}: became shorter while it was read")
                    self._hash.update(piece)
                    self._done += len(piece)
        except OSError as error:
            self._error = error


def digest(path: str | Path, algorithm: str, progress: Callable[[int], object] = lambda done: None,
           before: bytes = b"") -> str:
    """Hexadecimal digest of `before` and a file; `progress` gets the number of its bytes read so far."""
    state, done = hashlib.new(algorithm, before, usedforsecurity=False), 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            state.update(piece)
            done += len(piece)
            progress(done)
    return state.hexdigest()

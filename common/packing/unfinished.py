"""What was done so far: files that grow, and a state.json beside them that says how long they were at the last commit.
A run that was killed goes on from there."""
import json
import os
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from common.base.errors import InputError
from common.base.files import read_text, written_atomically

STATE = "state.json"
BUFFER = 1 << 16  # bytes that a file may lack until they are flushed


@dataclass
class PartState:
    """How far a part is. `images`: packed, of each class; `skipped`: (path, reason) of those that cannot be; `files`:
    {name: {"bytes", "sha256"}}, once it is finished; `taken`: images of the order, or of the bucket, that are done.

    Of an archive: `md5`, once it is known; `position`: the byte to go on reading at; `sorted`: images in its `buckets`;
    `bucket`: the one that is being written, None while the archive is read.
    """
    images: list[int]
    skipped: list[list[str]] = field(default_factory=list)
    files: dict[str, dict] = field(default_factory=dict)
    taken: int = 0
    md5: str | None = None
    position: int = 0
    sorted: int = 0
    buckets: int = 0
    bucket: int | None = None


class Unfinished:
    """Files in a folder that grow, and `parts`, the state of each part, which are committed together."""

    def __init__(self, folder: Path, identity: dict, commit_seconds: float) -> None:
        self.folder, self._commit_seconds = folder, commit_seconds
        saved = self._saved() or {"identity": identity, "lengths": {}, "parts": {}}
        self.identity: dict = saved["identity"]
        self.parts: dict[str, PartState] = saved["parts"]
        self._lengths: dict[str, int] = saved["lengths"]
        self._files: dict[str, BinaryIO] = {}
        self._removed: list[str] = []
        self._saver = ThreadPoolExecutor(1)
        self._saving: Future | None = None
        self._committed = time.monotonic()

    def _saved(self):
        """What the last commit has saved; None if there was none."""
        try:
            crc32, _, text = read_text(self.folder / STATE).partition(" ")
            if crc32 != _crc32(text):
                raise self.damaged(STATE)
            saved = json.loads(text)
            return {**saved, "parts": {part: PartState(**state) for part, state in saved["parts"].items()}}
        except FileNotFoundError:
            return None
        except (UnicodeDecodeError, KeyError, TypeError):  # the last two: other fields
            raise self.damaged(STATE) from None

    def damaged(self, name: str) -> InputError:
        """The error that a file is not as it was written."""
        return InputError(f"{self.folder / name}: damaged, or of another version; remove {self.folder} to begin again")

    def append(self, name: str, data: bytes | bytearray) -> None:
        if name not in self._files:
            self._files[name] = self._opened(name)
        self._files[name].write(data)
        self._lengths[name] = self.length(name) + len(data)

    def _opened(self, name):
        """The file, without what was written after the last commit."""
        file = open(self.folder / name, "ab", buffering=BUFFER)  # noqa: SIM115 (closed in _close_files)
        if file.tell() < self.length(name):
            raise self.damaged(name)
        file.truncate(self.length(name))
        return file

    def length(self, name: str) -> int:
        return self._lengths.get(name, 0)

    def remove(self, name: str) -> None:
        """A file that is closed; it goes when the next commit has been made."""
        if self._lengths.pop(name, None) is not None:
            self._removed.append(name)

    def flush(self) -> None:
        """Let readers of the files see all that was appended."""
        for file in self._files.values():
            file.flush()

    def commit(self) -> None:
        """Make what is there so far durable, in the background; errors come with the next call."""
        self.wait()
        self.flush()
        state = json.dumps({"identity": self.identity, "lengths": self._lengths,
                            "parts": {part: asdict(state) for part, state in self.parts.items()}})
        self._saving = self._saver.submit(self._save, state, list(self._files.values()), self._removed)
        self._removed = []
        self._committed = time.monotonic()

    def commit_if_due(self) -> None:
        if time.monotonic() - self._committed >= self._commit_seconds and (not self._saving or self._saving.done()):
            self.commit()

    def wait(self) -> None:
        """Until the last commit has been made."""
        if self._saving:
            self._saving.result()

    def _save(self, state, files, removed):
        for file in files:
            os.fsync(file.fileno())
        with written_atomically(self.folder / STATE) as partial:
            Path(partial).write_text(f"{_crc32(state)} {state}", encoding="utf-8")
        for name in removed:
            (self.folder / name).unlink(missing_ok=True)

    def settle(self) -> None:
        """Commit, wait for that, and close the files."""
        self.commit()
        self.wait()
        self._close_files()

    def close(self) -> None:
        """What came after the last commit is lost."""
        self._saver.shutdown()
        self._close_files()

    def _close_files(self):
        for file in self._files.values():
            with suppress(OSError):  # a full disk; the next run cuts off what is half-written
                file.close()
        self._files = {}


def _crc32(text):
    return f"{zlib.crc32(text.encode()):08x}"

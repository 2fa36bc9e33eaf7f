"""Append-only files that survive being killed: what was committed stays, what came after it is cut off; and JSON files
that tell when they were damaged."""
import json
import os
import re
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.base.errors import InputError
from common.base.files import named_in_errors, read_text, written_atomically
from common.packing.progress import progress

STATE = "state.json"
BUFFER, PIECE = 1 << 16, 1 << 20
NAME = re.compile(r"[a-z]+([.-]\w+)?", re.ASCII)  # of its files: what is in no other folder
MOST = 1 << 53  # bytes, images, and all else that is counted


class Journal:
    """Files in `folder`, and a `state` that belongs to what they held at the last commit.

    `state` is {} at first. Opened again after a kill, each file is as long as it was then, and files that had not been
    committed, or had been removed, are gone. Raises InputError where they do not hold what was committed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state, self._written, self._kept = self._read_state()
        self._files, self._removed = {}, []
        self._pending: Future | None = None
        self._committer = ThreadPoolExecutor(1)
        for path in self.folder.iterdir():
            if path.name not in (STATE, *self._written, *self._kept):
                path.unlink()
        self._cut_off()

    def _read_state(self):
        """(state, {name: [length, CRC-32]} of the files, names of those that are kept)."""
        try:
            saved = read_sealed(self.folder / STATE, self.folder.parent)
        except FileNotFoundError:
            return {}, {}, []
        if not _is_saved(saved):
            raise self.damaged()
        return saved["state"], saved["files"], saved["kept"]

    def _cut_off(self):
        """What came after the last commit."""
        what, done = f"{self.folder.name}: checking what an earlier run wrote", 0
        with progress(what, sum(length for length, _ in self._written.values())) as show:
            for name, (length, crc32) in self._written.items():
                path = self.folder / name
                if not path.exists() or _crc32(path, length, lambda read, done=done: show(done + read)) != crc32:
                    raise self.damaged(name)
                os.truncate(path, length)
                done += length

    def damaged(self, name: str = STATE) -> InputError:
        """The error that a file is not as it was written."""
        return damaged(self.folder / name, self.folder.parent)

    def append(self, name: str, data: bytes) -> None:
        if name not in self._files:
            self._files[name] = open(self.folder / name, "ab", buffering=BUFFER)  # noqa: SIM115 (closed in close)
        with named_in_errors(self.folder / name):
            self._files[name].write(data)
        length, crc32 = self._written.get(name, (0, 0))
        self._written[name] = length + len(data), zlib.crc32(data, crc32)

    def length(self, name: str) -> int:
        return self._written.get(name, (0, 0))[0]

    def remove(self, name: str) -> None:
        """Forget the file; it goes when that has been committed."""
        if name in self._written:
            del self._written[name]
            self._removed.append((name, self._files.pop(name, None)))

    def keep(self, name: str) -> None:
        """The file is finished: once that has been committed it may be moved away."""
        del self._written[name]
        self._kept.append(name)

    def commit(self, state: dict) -> None:
        """Make what was appended so far durable, together with `state`: in the background, when the last commit has
        ended. `flush` waits for it; errors come with the next call."""
        self.flush()
        saved = sealed({"state": state, "files": self._written, "kept": self._kept})
        self._pending = self._committer.submit(self._save, saved, list(self._files.values()), self._removed)
        self._removed = []

    @property
    def committing(self) -> bool:
        return self._pending is not None and not self._pending.done()

    def flush(self) -> None:
        """Wait for the last commit, and let readers of the files see all that was appended."""
        if self._pending is not None:
            self._pending.result()
        for name, file in self._files.items():
            with named_in_errors(self.folder / name):
                file.flush()

    def _save(self, saved, files, removed):
        for file in files:
            os.fsync(file.fileno())
        with written_atomically(self.folder / STATE) as partial:
            Path(partial).write_text(saved, encoding="utf-8")
        for name, file in removed:
            if file:
                file.close()
            (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        self._committer.shutdown()
        for file in self._files.values():
            with suppress(OSError):  # a full disk: it has been reported, and the next run cuts off what is half-written
                file.close()
        self._files = {}


def _is_saved(saved):
    if not (isinstance(saved, dict) and saved.keys() == {"state", "files", "kept"} and isinstance(saved["state"], dict)
            and isinstance(saved["files"], dict) and isinstance(saved["kept"], list)):
        return False
    return (all(isinstance(name, str) and NAME.fullmatch(name) and name != STATE
                for name in (*saved["files"], *saved["kept"]))
            and all(isinstance(file, list) and len(file) == 2 and all(map(is_count, file))
                    for file in saved["files"].values()))


def _crc32(path, length, show):
    """That of the first `length` bytes; None where there are fewer."""
    crc32, read = 0, 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(min(PIECE, length - read)):
            crc32, read = zlib.crc32(piece, crc32), read + len(piece)
            show(read)
    return crc32 if read == length else None


def sealed(content: Any) -> str:
    """The text of such a file."""
    text = json.dumps(content)
    return f'{{"crc32": {zlib.crc32(text.encode())}, "content": {text}}}'


def read_sealed(path: Path, work: Path) -> Any:
    """The content of such a file, which is part of the unfinished work in the folder `work`. Raises InputError for one
    that is not as it was written, FileNotFoundError where there is none."""
    try:
        text = read_text(path)
        content = json.loads(text)["content"]
        if sealed(content) == text:
            return content
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise damaged(path, work)


def damaged(path: Path, work: Path) -> InputError:
    """The error that a file of the unfinished work in `work` is not as it was written."""
    return InputError(f"{path}: of another version or damaged; remove {work} to begin again")


def is_count(value: Any, most: int = MOST) -> bool:
    return type(value) is int and 0 <= value <= most  # true and false are of type bool

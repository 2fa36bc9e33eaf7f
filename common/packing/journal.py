"""Append-only files that survive being killed: what was committed stays, what came after it is cut off."""
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from common.errors import InputError
from common.files import written_atomically

STATE = "state.json"
BUFFER = 1 << 16


class Journal:
    """Files in `folder`, and a `state` that belongs to what they held at the last commit.

    `state` is {} at first. Opened again after a kill, each file is as long as it was then, and files that had not been
    committed, or had been removed, are gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state, self._lengths, self._kept = self._read_state()
        self._files, self._removed = {}, []
        self._pending: Future | None = None
        self._committer = ThreadPoolExecutor(1)
        for path in self.folder.iterdir():
            if path.name not in (STATE, *self._lengths, *self._kept):
                path.unlink()
        for name, length in self._lengths.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < length:
                raise InputError(f"{path}: shorter than {STATE} beside it says; remove {self.folder.parent} to begin "
                                 "again")
            os.truncate(path, length)

    def _read_state(self):
        try:
            saved = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            return saved["state"], saved["lengths"], saved["kept"]
        except FileNotFoundError:
            return {}, {}, []
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.folder / STATE}: damaged; remove {self.folder.parent} to begin again") from None

    def append(self, name: str, data: bytes) -> None:
        if name not in self._files:
            self._files[name] = open(self.folder / name, "ab", buffering=BUFFER)  # noqa: SIM115 (closed in close)
        self._files[name].write(data)
        self._lengths[name] = self._lengths.get(name, 0) + len(data)

    def length(self, name: str) -> int:
        return self._lengths.get(name, 0)

    def remove(self, name: str) -> None:
        """Forget the file; it goes when that has been committed."""
        if name in self._lengths:
            del self._lengths[name]
            self._removed.append((name, self._files.pop(name, None)))

    def keep(self, name: str) -> None:
        """The file is finished: once that has been committed it may be moved away."""
        del self._lengths[name]
        self._kept.append(name)

    def commit(self, state: dict) -> None:
        """Make what was appended so far durable, together with `state`: in the background, when the last commit has
        ended. `flush` waits for it; errors come with the next call."""
        self.flush()
        saved = json.dumps({"state": state, "lengths": self._lengths, "kept": self._kept})
        self._pending = self._committer.submit(self._save, saved, list(self._files.values()), self._removed)
        self._removed = []

    @property
    def committing(self) -> bool:
        return self._pending is not None and not self._pending.done()

    def flush(self) -> None:
        """Wait for the last commit, and let readers of the files see all that was appended."""
        if self._pending is not None:
            self._pending.result()
        for file in self._files.values():
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

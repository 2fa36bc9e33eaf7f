"""Is a file the one that was published? By its size, its hash and its first bytes, as far as these are known."""
import os
from pathlib import Path
from typing import NamedTuple

from common.base.digest import digest
from common.base.files import MOST_WEIGHTS

HEX_DIGITS = {"git-blob": 40, "sha1": 40, "sha256": 64}
PREFIX = "sha256-prefix"  # the first digits of a SHA-256, which torchvision and timm put in file names


class Hash(NamedTuple):
    """A published hash: one of HEX_DIGITS or PREFIX, and its digits."""
    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value}"

    def of(self, path: str | Path) -> "Hash":
        """The hash of a file by the same algorithm, with as many digits."""
        digits = file_hash(path, "sha256" if self.algorithm == PREFIX else self.algorithm)
        return Hash(self.algorithm, digits[:len(self.value)])


def file_hash(path: str | Path, algorithm: str) -> str:
    """The digits, in lower case, of a file by "git-blob", "sha1" or "sha256"."""
    return git_blob_id(path) if algorithm == "git-blob" else digest(path, algorithm)


def git_blob_id(path: str | Path) -> str:
    """The id under which git stores a file's content: the SHA-1 of "blob", its size, a null byte and the content."""
    return digest(path, "sha1", before=b"blob %d\0" % os.path.getsize(path))


def fault(path: str | Path, expected: Hash | None = None, size: int | None = None,
          start: tuple[int, bytes] | None = None) -> str | None:
    """Why a file is not the one of that hash, size in bytes and `start` (offset, bytes), as far as these are known.

    None if nothing speaks against it.
    """
    actual = os.path.getsize(path)
    if size is not None and actual != size:
        return f"{actual:,} bytes, expected {size:,}"
    if actual > MOST_WEIGHTS:
        return f"{actual:,} bytes, more than weights have"
    if expected is not None and (found := expected.of(path)) != expected:
        return f"{found}, expected {expected.value}"
    if start is not None:
        offset, signature = start
        with open(path, "rb") as file:
            file.seek(offset)
            if file.read(len(signature)) != signature:
                return "it does not begin as such a file does"
    return None

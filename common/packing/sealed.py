"""JSON files that tell when they were damaged: their content has its checksum beside it."""
import json
import zlib
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_text

MOST = 1 << 53  # bytes, images, and all else that is counted


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

"""Whether checkpoints can be written under a prefix, and which files are there already."""
import os
import re
from pathlib import Path

from common.base.errors import InputError
from common.base.files import make_folder
from common.checkpoint.foreign import converts

MAX_NAME = 190  # bytes; what is added to it fits in the 65 that most file systems then leave
EPOCH = r"-\d{4,}(-b\d{5,})?"  # follows the prefix, after an epoch and within one
PARAMS = EPOCH + r"\.params"
OTHERS = r"-symbol\.json|-preprocess\.json|-synset\.txt"


def check_prefix(prefix: str, what: str) -> None:
    """Raise InputError, which begins with `what`, for a prefix under which nothing can be written. Makes its
    folder."""
    if prefix.endswith("/") or Path(prefix).name in ("", "..") or "\0" in prefix:
        raise InputError(f"{what} {prefix}: give the beginning of the files' names as well")
    check_no_file_name(prefix, what)
    if len(os.fsencode(Path(prefix).name)) > MAX_NAME:
        raise InputError(f"{what} {prefix}: the name is too long; give {MAX_NAME} bytes at most")
    try:
        make_folder(Path(prefix).parent)
    except InputError as error:
        raise InputError(f"{what} {prefix}: {error}") from None


def check_no_file_name(prefix: str, what: str) -> None:
    """Raise InputError for the name of one of a checkpoint's files, or of another file of weights, in place of a
    prefix."""
    if match := re.search(rf"({PARAMS}|{OTHERS})$", prefix):
        raise InputError(f"{what} {prefix}: give the prefix alone, without {match[0]}")
    if (command := converts(prefix)) and not os.path.exists(f"{prefix}-symbol.json"):
        raise InputError(f"{what} {prefix}: is a file, not the prefix of a checkpoint{command}")


def prefix_of(params_file: str | Path) -> str | None:
    """PREFIX of PREFIX-0000.params; None of a file with another name."""
    match = re.fullmatch(rf"(.*){PARAMS}", str(params_file), re.DOTALL)
    return match[1] if match else None


def epochs_of(prefix: str | Path) -> list[int]:
    """The epochs of which there is a PREFIX-%04d.params, in order."""
    pattern = re.compile(re.escape(Path(prefix).name) + r"-(\d{4,})\.params")
    matches = [pattern.fullmatch(path.name) for path in Path(prefix).parent.glob("*.params")]
    return sorted(int(match[1]) for match in matches if match)


def files_under(prefix: str) -> list:
    """The files with that prefix: checkpoints of any epochs, their moving averages, the best, and training's own."""
    pattern = re.compile(rf"{re.escape(Path(prefix).name)}(-ema|-best)?({EPOCH}\.(params|optimizer|json)|{OTHERS}|"
                         r"-metrics\.jsonl)")
    return sorted(path for path in Path(prefix).parent.iterdir() if pattern.fullmatch(path.name))


def files_read(prefix: str, epoch: int) -> list:
    """The files that are read when a checkpoint is used; they need not exist."""
    return [f"{prefix}-{end}" for end in ("symbol.json", "preprocess.json", "synset.txt", f"{epoch:04d}.params",
                                          f"{epoch:04d}-int8.json")]

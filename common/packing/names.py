"""Names of classes and images that a .lst file can hold."""
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from common.base.errors import InputError

MAX_NAME = 4096  # bytes
UNLISTABLE = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode: controls, surrogates (no UTF-8), ends of lines


def check_listable(path: str) -> None:
    """Raise InputError, with the reason alone, for a path that cannot be in a .lst file, which has a line of UTF-8 for
    each image."""
    if Path(path).name in ("", ".."):
        raise InputError("its name is not that of a file")
    if any(unicodedata.category(character) in UNLISTABLE for character in path) or len(path.encode()) > MAX_NAME:
        raise InputError("its name has characters that a .lst file cannot hold or is too long")


def check_names(where: Path, classes: Iterable[str]) -> None:
    """Raise InputError if there are no classes, or if the name of one cannot be in a .lst file."""
    if not classes:
        raise InputError(f"{where}: no classes in it")
    for name in classes:
        try:
            check_listable(name)
            if "/" in name:
                raise InputError("its name is not that of a folder")
        except InputError as error:
            raise InputError(f"{where}: class {name!r}: {error}") from None

"""Names of the classes: one line each, in the order of the network's outputs."""
from collections.abc import Sequence
from pathlib import Path

from common.base.errors import InputError
from common.base.files import read_text, written_atomically
from common.checkpoint.symbol import load_symbol, num_classes_of
from common.images.recordio import folder_of

NAME = "synset.txt"  # beside records


def read_names(path: str | Path) -> list[str]:
    """The lines of a synset file (`n02088364 beagle`) that are not empty. Raises InputError if it cannot be read."""
    try:
        return [line.strip() for line in read_text(path).split("\n") if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file of class names") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def read_synset(path: str | Path, num_classes: int) -> list[str]:
    """As `read_names`. Raises InputError unless there are `num_classes` of them."""
    names = read_names(path)
    if len(names) != num_classes:
        raise InputError(f"{path}: names {len(names)} classes, the network has {num_classes}: give its own --synset")
    return names


def names_beside(records: str, num_classes: int) -> list[str] | None:
    """The names in synset.txt beside `records`, as `common.images.recordio.record_files` takes them; None if there is
    no such file, or if it names another number of classes."""
    path = folder_of(records) / NAME
    names = read_names(path) if path.is_file() else None
    return names if names and len(names) == num_classes else None


def synset_file(prefix: str | Path) -> Path:
    """PREFIX-synset.txt: the names of a checkpoint's classes, which training writes beside it."""
    return Path(f"{prefix}-{NAME}")


def names_file(given: str | None, prefix: str | Path) -> str | None:
    """`given`, or PREFIX-synset.txt if it is there; else None."""
    return given or (str(synset_file(prefix)) if synset_file(prefix).exists() else None)


def save_synset(prefix: str | Path, names: Sequence[str]) -> None:
    """Write PREFIX-synset.txt, atomically."""
    with written_atomically(synset_file(prefix)) as partial:
        Path(partial).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def check_synset(path: str | Path, prefix: str | Path) -> None:
    """Raise InputError if `read_synset` would, before PREFIX-symbol.json is compiled, which may tell the number of the
    classes."""
    num_classes = num_classes_of(load_symbol(f"{prefix}-symbol.json"))
    if num_classes is None:
        read_names(path)
    else:
        read_synset(path, num_classes)

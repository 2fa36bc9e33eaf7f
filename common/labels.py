"""Names of the classes: one line each, in the order of the network's outputs."""
from pathlib import Path

from common.errors import InputError
from common.files import read_text


def read_names(path: str | Path) -> list[str]:
    """The lines of a synset file (`n02088364 beagle`) that are not empty. Raises InputError for another file."""
    try:
        return [line.strip() for line in read_text(path).split("\n") if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file of class names") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def read_synset(path: str | Path, num_classes: int) -> list[str]:
    """As `read_names`. Raises InputError too unless there are `num_classes` of them."""
    names = read_names(path)
    if len(names) != num_classes:
        raise InputError(f"{path}: names {len(names)} classes, the network has {num_classes}: give its own --synset")
    return names

"""TOML of every Python, in a form that callers can refuse."""
import sys
from pathlib import Path

from common.errors import InputError
from common.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: str | Path) -> dict:
    """The content of a TOML file. Raises InputError for another file, OSError where it cannot be read."""
    try:
        return tomllib.loads(read_text(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # also of numbers and dates
        raise InputError(f"{path}: not TOML: {error}") from None

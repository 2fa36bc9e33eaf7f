"""Libraries of native/ that make reading training images faster, and which it does without."""
import ctypes
import logging
from collections.abc import Mapping
from pathlib import Path

from common.base.errors import last_line
from common.base.machine import load_library

BUILD = Path(__file__).resolve().parents[2] / "native" / "build"


def native_library(path: Path, arguments: Mapping[str, tuple], needs: str, without: str) -> ctypes.CDLL | None:
    """The library at `path`, its functions with the types of their `arguments`; None, and a warning that says what is
    done `without` it, if it is not built, which `needs` something, or cannot be loaded."""
    why = f"{path.name} is not built: make setup builds it, if there is {needs}"
    if path.exists():
        try:
            loaded = load_library(path)
            for function, types in arguments.items():
                getattr(loaded, function).argtypes = types
            return loaded
        except (OSError, AttributeError) as error:
            why = f"{path.name} cannot be loaded: {last_line(error)}"
    logging.warning("%s: %s", without, why)
    return None

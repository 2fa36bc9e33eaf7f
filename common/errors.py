"""How a user's mistake is reported: one line, and a non-zero exit."""
import sys
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what, which file or value, what to do."""


@contextmanager
def reported(program: str):
    """Within this block an InputError ends the program with `program: error: <message>` and exit status 1."""
    try:
        yield
    except InputError as error:
        sys.exit(f"{program}: error: {error}")

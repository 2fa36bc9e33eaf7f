"""How a user's mistake is reported: one line, and a non-zero exit."""
import sys
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what, which file or value, what to do."""


@contextmanager
def reported(program: str):
    """Within this block an InputError, or a package that is not there, ends the program with one line on standard
    error, `program: error: <message>`, and exit status 1; Ctrl-C with status 130."""
    try:
        yield
    except (InputError, ModuleNotFoundError) as error:
        sys.exit(f"{program}: error: {error}")
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)

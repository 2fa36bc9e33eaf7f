"""How a user's mistake is reported: one line, and a non-zero exit."""
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what, which file or value, what to do."""


class Stopped(Exception):
    """A signal asked the program to stop, and it did so in good order. The message is one line."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def reported(program: str) -> Iterator[None]:
    """End the program with `program: error: <message>` on standard error and exit status 1, where this block raises an
    InputError, or meets a file that cannot be used, a package that is not there, too little memory, or an error of
    MXNet's; with status 130 where it is interrupted, and 128 + the signal's number where it is Stopped."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files that it cannot encode
    try:
        yield
    except Stopped as stopped:
        print(f"{program}: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except (InputError, ModuleNotFoundError) as error:
        sys.exit(f"{program}: error: {error}")
    except OSError as error:
        where = error.filename2 or error.filename or "input or output"  # the second one of a copy: what it writes
        sys.exit(f"{program}: error: {where}: {error.strerror or last_line(error)}")
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if _is_of_memory(error):
            sys.exit(f"{program}: error: out of memory ({last_line(error)}): give it more, or less to do at a time, "
                     "such as smaller batches")
        if "mxnet" not in sys.modules or not isinstance(error, sys.modules["mxnet"].base.MXNetError):
            raise
        sys.exit(f"{program}: error: MXNet: {last_line(error)}")


def _is_of_memory(error):
    """As Python, NumPy and Pillow say it, OpenCV (StsNoMem), MXNet, and Python where a thread's stack has no room."""
    return (isinstance(error, MemoryError) or getattr(error, "code", None) == -4
            or any(said in str(error) for said in ("Failed to allocate", "out of memory", "start new thread")))


def last_line(error: Exception | str) -> str:
    """The line that says what happened, of an error that comes with a C++ trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

"""How a user's mistake is reported: one line and a non-zero exit."""
import errno
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MXNET = "MXNetError: "
# what installs a package, of the names that are imported; requirements.txt does all others
REQUIREMENTS = {
    **dict.fromkeys(("PIL", "cv2", "filelock", "ml_dtypes", "numpy", "platformdirs", "psutil", "pyopencl",
                     "requests", "simplejpeg", "tomli", "tqdm", "tvm"), "requirements-inference.txt"),
    **dict.fromkeys(("keras", "openvino", "tensorflow", "timm", "torch", "torchvision"),
                    "requirements-converters.txt"),
    "onnxruntime": "requirements-dev.txt", "skimage": "requirements-benchmarks.txt"}
CPP_LINE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # time and place of a line


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what, which file or value, what to do."""


class ImageError(InputError):
    """An image cannot be decoded. The message is the reason alone, such as "not an image"."""


class Stopped(Exception):
    """A signal asked the program to stop, and it did so in good order. The message is one line."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def reported(program: str) -> Iterator[None]:
    """End the program with `program: error: <message>` on standard error and exit status 1 if this block raises an
    InputError, meets a file that cannot be used, a missing package, too little memory or an error of MXNet's; with
    status 130 if it is interrupted, and 128 + the signal's number if it is Stopped."""
    _with_streams()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, so that a failure is reported
    except Stopped as stopped:
        _end(f"{program}: {stopped}", 128 + stopped.number)
    except InputError as error:
        _end(f"{program}: error: {error}")
    except ModuleNotFoundError as error:
        _end(f"{program}: error: {missing_package(error)}")
    except BrokenPipeError:  # the reader of the output has seen enough, as `head` does
        _end(None, 128 + signal.SIGPIPE)
    except OSError as error:
        # the second one of a copy: what it writes
        where = next((name for name in (error.filename2, error.filename) if name is not None), "input or output")
        _end(f"{program}: error: {where}: {error.strerror or last_line(error)}")
    except KeyboardInterrupt:
        _end(f"{program}: interrupted", 128 + signal.SIGINT)
    except Exception as error:
        if is_of_memory(error):
            _end(f"{program}: error: out of memory ({last_line(error)}): give it more, or less to do at a time, such "
                 "as smaller batches")
        if "mxnet" not in sys.modules or not isinstance(error, sys.modules["mxnet"].base.MXNetError):
            raise
        _end(f"{program}: error: MXNet: {last_line(error)}")


def log_to_stderr() -> None:
    """Have what is logged on standard error, with the time, unless the program has set up its log itself."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)


class Closed(io.TextIOBase):
    """Stands for a standard output that was closed: what is printed would be lost."""

    def write(self, _: str) -> int:
        raise OSError(errno.EBADF, "is closed", "standard output")


def _with_streams():
    """Standard streams that were closed lead nowhere: the next files to be opened would be taken for them. Names that
    a stream cannot encode are escaped."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(nowhere, True)
    os.close(nowhere)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (open to the end)
    if sys.stdout is None:
        sys.stdout = Closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(line, status=1):
    if line:
        print(printable(line), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try it again at exit, and fail aloud
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    sys.exit(status)


def is_of_memory(error: Exception) -> bool:
    """Whether memory ran out: as Python, NumPy and Pillow say it, OpenCV (StsNoMem), MXNet, or Python without room for
    a thread's stack."""
    return (isinstance(error, MemoryError) or getattr(error, "code", None) == -4
            or any(said in str(error) for said in ("Failed to allocate", "out of memory", "start new thread")))


def missing_package(error: ModuleNotFoundError) -> str:
    """What is not installed, and how to install it."""
    package = (error.name or "").partition(".")[0]
    if str(error) != f"No module named {error.name!r}" or (Path(__file__).parents[2] / package).exists():
        return str(error)  # it says so itself, or is one of this repository's own modules
    return f"{package} is not installed: pip install -r {REQUIREMENTS.get(package, 'requirements.txt')}"


def printable(text: str | os.PathLike) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(text))


def last_line(error: Exception | str) -> str:
    """The line that says what happened, of an error with a C++ trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    *_, last = type(error).__name__, *lines
    said = next((line for line in lines if line.startswith(MXNET)), last)  # after it, it may list what is allowed
    return CPP_LINE.sub("", said.removeprefix(MXNET)).removesuffix(", Possible Arguments:")


def with_kind(error: Exception) -> str:
    """`last_line` of any exception: `KeyError: 'x'` rather than `'x'`, but TVM's and ours as they are."""
    line, kind = last_line(error), type(error).__name__
    return line if kind in ("TVMError", "InternalError", "ImportError") or line == kind else f"{kind}: {line}"

"""Write files so that a reader never sees half of one."""
import os
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_atomically(path):
    """A temporary name beside `path`; what was written there is renamed to `path` when the block ends well."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield str(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink()

"""Libraries that are whole, and others."""
import _ctypes
from pathlib import Path

import pytest

from common.base.machine import load_library


def test_a_library_that_is_cut_short_is_refused(tmp_path):
    """Some of these would end the process otherwise (SIGBUS)."""
    content = Path(_ctypes.__file__).read_bytes()
    library = tmp_path / "x.so"
    for length in (0, 5, 63, 64, 1000, 5000, len(content) // 2, len(content) - 1):
        library.write_bytes(content[:length])
        with pytest.raises(OSError, match="x.so"):
            load_library(library)
    library.write_bytes(content)
    assert load_library(library)


def test_there_is_none(tmp_path):
    with pytest.raises(OSError):
        load_library(tmp_path / "none.so")

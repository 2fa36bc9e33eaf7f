"""A reader in a process of its own: what it gives, and that nothing it does on a damaged file does harm here."""
import os
import time

import numpy as np
import pytest

from common.base.errors import InputError
from common.base.processes import confined

READERS = """
import os, signal
import numpy as np
from common.base.errors import InputError
def arrays(path): return [("a/b", np.arange(6.0).reshape(2, 3)), ("é\\n", np.array(["n0", "n1"])), ("a/b", np.ones(1))]
def refuses(path): raise InputError(f"{path}: not of this kind")
def crashes(path): os.kill(os.getpid(), signal.SIGSEGV)
def fills(path): return [("", np.ones(2 ** 33, np.uint8))]
def hangs(path):
    while True: pass
def fails(path): return {}["x"]
def pickled(path): return [("", np.array([object()]))]
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """call(function of READERS, limits) on a file that is there."""
    (tmp_path / "readers_of_a_test.py").write_text(READERS)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda function, **limits: confined("readers_of_a_test", function, tmp_path / "file", **limits)


def test_arrays_in_their_order(call):
    (first, a), (second, texts), (third, b) = call("arrays")
    assert (first, second, third) == ("a/b", "é\n", "a/b") and list(texts) == ["n0", "n1"]
    np.testing.assert_array_equal(a, np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(b, [1])


def test_what_the_reader_refuses(call, tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}/file: not of this kind$"):
        call("refuses")


@pytest.mark.parametrize("function", ["crashes", "fills", "hangs", "fails", "pickled"])
def test_what_it_cannot_survive(function, call, tmp_path):
    start = time.monotonic()
    with pytest.raises(InputError, match=f"^{tmp_path}/file: is damaged: "):
        call(function, seconds=1)
    assert time.monotonic() - start < 60


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe or a device"):
        confined("no", "reader", tmp_path / "pipe")

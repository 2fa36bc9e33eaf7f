"""SIGTERM and Ctrl-C: the first is a wish, the second one ends the program; or they wait for a block's end."""
import signal
import subprocess
import sys

import pytest

from common.base.processes import StopRequest, uninterrupted
from tests.conftest import ROOT

TWICE = """
import signal, sys
from common.base.processes import StopRequest
with StopRequest() as stop:
    signal.raise_signal(int(sys.argv[1]))
    print("goes on", flush=True)
    signal.raise_signal(int(sys.argv[2]))
    print("goes on", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_is_a_wish(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.wish == 0
        signal.raise_signal(number)
        assert stop.wish == number
    assert signal.getsignal(number) is before


def test_the_second_ends_the_program():
    process = subprocess.run([sys.executable, "-c", TWICE, str(int(signal.SIGTERM)), str(int(signal.SIGINT))], cwd=ROOT,
                             stdout=subprocess.PIPE, text=True)
    assert (process.returncode, process.stdout) == (-signal.SIGINT, "goes on\n")


@pytest.mark.parametrize("error", [None, OSError("no space")])
def test_held_back_it_takes_effect_after_the_block_however_that_ends(error):
    reached = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        reached.append(True)
        if error:
            raise error
    assert reached and signal.getsignal(signal.SIGINT) is signal.default_int_handler

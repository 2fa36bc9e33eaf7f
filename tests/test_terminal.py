"""What people see who run a command at a terminal: bars in place of lines."""
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from contextlib import suppress

from tests.conftest import ROOT


def at_a_terminal(*command):
    """What it shows on standard error, which is a terminal of 120 columns."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    shown = b""
    with suppress(OSError):  # the other end is closed when the process ends
        while part := os.read(terminal, 65536):
            shown += part
    os.close(terminal)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_bar_for_each_epoch_and_its_validation(packed, tmp_path):
    shown = at_a_terminal("train_imagenet.py", "--data-train", f"{packed}.rec", "--data-val", f"{packed}.rec",
                          "--num-classes", 2, "--multiplier", 0.1, "--batch-size", 20, "--num-epochs", 2, "--lr", 0.01,
                          "--image-shape", "3,48,48", "--model-prefix", tmp_path / "x")
    for epoch in (1, 2):
        assert re.search(rf"epoch {epoch}/2 \|.+\| [1-6]/6, loss \d+\.\d+ top-1 [01]\.\d+ \d+ images/s data \d+% "
                         r"lr 0\.0\d+ \d\d:\d\d left", shown), shown
    assert re.search(r"Epoch\[1\] Validation-accuracy=", shown)


def test_a_bar_while_images_are_packed(photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "images" / "train")
    shown = at_a_terminal("tools/prepare_imagenet.py", tmp_path / "images", tmp_path / "x", "--any-count",
                          "--short-side", 60)
    assert re.search(r"\d+ % train: \w.*\|", shown), shown
    assert (tmp_path / "x" / "train.rec").exists()

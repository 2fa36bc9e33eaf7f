import os
import signal
import subprocess
import sys
import time

import pytest

from common.errors import InputError
from common.files import written_atomically
from tests.conftest import ROOT


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_atomically(path) as partial:
        with open(partial, "w") as file:
            file.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]
    with written_atomically(path) as partial, open(partial, "w") as file:
        file.write("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x"]


def test_what_is_not_a_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, "", tmp_path / "pipe"):
        with pytest.raises(InputError, match="cannot be written"), written_atomically(path):
            pytest.fail("opened")
    assert os.listdir(tmp_path) == ["pipe"]


FULL_DISK = """
import resource, signal, sys
from tests.checkpoints import save_checkpoint
from common.find_mxnet import mx
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
save_checkpoint(sys.argv[1], 0, mx.sym.Variable("data"), {"x": mx.nd.zeros((1000, 10))}, {})
"""


@pytest.mark.parametrize("room", [100, 20_000, 40_000])
def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path, room):
    (tmp_path / "x-0000.params").write_text("old")
    process = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "x"), str(room)], cwd=ROOT,
                             capture_output=True, text=True, check=False)
    assert process.returncode == 1, process.stderr
    assert (tmp_path / "x-0000.params").read_text() == "old"
    assert set(os.listdir(tmp_path)) <= {"x-0000.params", "x-symbol.json"}


WRITER = """
import sys
from tests.checkpoints import save_checkpoint
from common.find_mxnet import mx
symbol = mx.sym.Variable("data")
for i in range(10**6):
    save_checkpoint(sys.argv[1], 0, symbol, {"x": mx.nd.full((1000, 1000), i)}, {})
    print(i, flush=True)
"""


@pytest.mark.long
def test_a_checkpoint_survives_kills_whole(tmp_path):
    import numpy as np

    from common.params_file import load_params
    rng = np.random.RandomState(0)
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "x")], cwd=ROOT,
                                   stdout=subprocess.PIPE)
        process.stdout.readline()  # one is written
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        values = load_params(tmp_path / "x-0000.params")["arg:x"]
        assert values.shape == (1000, 1000) and (values == values[0, 0]).all()

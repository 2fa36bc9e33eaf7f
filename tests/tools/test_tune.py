"""tools/tune.py as a user runs it: from any folder, killed at any time."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from common.base.files import locked
from common.compiler import records
from common.inference.network import open_network
from tests.commands import refusal
from tests.conftest import ROOT
from tools import tune

LAYERS = 2  # of the network of one_convolution: its dense layer is a convolution too


def start(folder, checkpoint, *arguments, env=None):
    """tune.py for llvm, from `folder`, whose temporary files are in folder/tmp."""
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, ROOT / "tools" / "tune.py", "--target", "llvm", "--model-prefix", checkpoint,
               "--image-shape", "3,32,32", "--trials", "2", "--output", "found.json", *arguments]
    return subprocess.Popen(list(map(str, command)), cwd=folder, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "TMPDIR": str(folder / "tmp"), **(env or {})})


def finish(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return out


def until_the_first_layer_is_done(process):
    next(line for line in process.stdout if line.startswith(f"[1/{LAYERS}]"))


def of_session(leader) -> list:
    """Processes of the session that `leader` began, which those that it starts stay in."""
    def belongs(process):
        try:
            return os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
    return [process for process in psutil.process_iter() if belongs(process)]


def gone(leader, seconds=100) -> bool:
    until = time.monotonic() + seconds
    while of_session(leader) and time.monotonic() < until:
        time.sleep(0.1)
    return not of_session(leader)


@pytest.mark.long
def test_killed_in_the_middle_it_is_gone_on_with_and_then_compiled_with(one_convolution, tmp_path):
    """It leaves complete records and no process; from another folder, where PYTHONPATH is set already. The answers are
    those of the network without records."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sitecustomize.py").write_text(
        f"open({str(tmp_path / 'seen')!r}, 'a').write('x')")
    process = start(tmp_path, one_convolution, env={"PYTHONPATH": str(tmp_path / "elsewhere")})
    until_the_first_layer_is_done(process)
    assert len(of_session(process.pid)) > 1
    assert len((tmp_path / "seen").read_text()) > 2  # processes that tune.py started
    process.kill()
    assert gone(process.pid), of_session(process.pid)
    process.communicate()
    assert len(records.load(tmp_path / "found.json").records) == 1

    shutil.rmtree(tmp_path / "tmp")  # what was killed could not
    out = finish(start(tmp_path, one_convolution, "--resume"))
    assert f"1 layers are there, {LAYERS - 1} to tune" in out
    assert out.count(" GFLOP/s, ") == LAYERS - 1 and "no schedule ran" not in out, out
    assert not list((tmp_path / "tmp").iterdir())
    data = np.random.RandomState(0).rand(1, 3, 32, 32).astype(np.float32)
    plain = open_network(one_convolution, 0, data.shape, "llvm", records=None)
    tuned = open_network(one_convolution, 0, data.shape, "llvm", records=tmp_path / "found.json")
    assert (plain.tuned, tuned.tuned, tuned.untuned) == (0, LAYERS, 0)
    np.testing.assert_allclose(tuned.predict(data), plain.predict(data), atol=1e-5)


def test_two_do_not_write_the_same_records(one_convolution, tmp_path):
    with locked(tmp_path / ".found.json.lock", "not here"):
        second = start(tmp_path, one_convolution, "--resume")
        _, err = second.communicate()
    line, = err.splitlines()
    assert line.startswith("tune.py: error: found.json: ") and "--output" in line
    assert second.returncode == 1 and os.listdir(tmp_path) == ["tmp"]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGINT])
def test_stopped_it_says_so_in_a_line_and_cleans_up(number, one_convolution, tmp_path):
    process = start(tmp_path, one_convolution)
    until_the_first_layer_is_done(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.communicate(timeout=100)[1].splitlines() == ["tune.py: interrupted"]
    assert process.returncode == 130 and gone(process.pid)
    assert not list((tmp_path / "tmp").iterdir())
    assert len(records.load(tmp_path / "found.json").records) == 1


@pytest.mark.long
def test_killed_again_and_again_it_comes_to_an_end(one_convolution, tmp_path):
    found = tmp_path / "found.json"
    for moment in np.linspace(0.5, 20, 12):
        process = start(tmp_path, one_convolution, "--resume")
        time.sleep(moment)
        process.kill()
        process.communicate()
        assert gone(process.pid), of_session(process.pid)
        if found.exists():
            assert len(records.load(found).records) <= LAYERS
    finish(start(tmp_path, one_convolution, "--resume"))
    assert len(records.load(found).records) == LAYERS
    assert json.loads(found.read_text())["kind"] == "llvm"


def test_refuses_in_one_line(one_convolution, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        free = listening.getsockname()[1]
    for arguments, words in [
        (["--rpc", "foo", "--key", "board"], ["--rpc", "'foo'", "HOST:PORT"]),
        (["--rpc", "127.0.0.1:9190"], ["--rpc and --key"]),
        (["--multiplier", "1.4"], ["--multiplier", "--model-prefix"]),
        (["--rpc", f"127.0.0.1:{free}", "--key", "board"], [f"127.0.0.1:{free}", "no RPC tracker", "refused"]),
        (["--target", "fpga"], ["fpga"]),
    ]:
        line = refusal(capsys, tune, "--target", "llvm", "--model-prefix", one_convolution, "--image-shape", "3,32,32",
                       "--output", tmp_path / "found.json", *arguments)
        assert all(word in line for word in words), line
    assert not list(tmp_path.glob("*.json"))

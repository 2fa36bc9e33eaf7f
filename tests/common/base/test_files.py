import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from common.base.errors import InputError
from common.base.files import check_not_read, locked, read_bytes, read_json, read_toml, written_atomically
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


def test_what_is_read_is_bounded_and_takes_the_memory_that_it_has(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 1 << 50) == b"12345" == read_bytes(tmp_path / "x", 5)
    for path in (tmp_path / "x", "/proc/self/maps"):  # whose size is said to be 0
        with pytest.raises(InputError, match=f"{path}: has more than 0 MiB"):
            read_bytes(path, 4)


def test_what_is_not_a_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, "", tmp_path / "pipe", f"{tmp_path}/new/"):
        with pytest.raises(InputError, match="cannot be written"), written_atomically(path):
            pytest.fail("opened")
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays_and_the_file_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x").write_text("old")
    (tmp_path / "disk" / "x").chmod(0o600)
    (tmp_path / "link").symlink_to("disk/x")
    (tmp_path / "other").symlink_to(tmp_path / "link")
    with written_atomically(tmp_path / "other") as partial:
        assert os.path.dirname(partial) == str(tmp_path / "disk")
        with open(partial, "w") as file:
            file.write("new")
    assert (tmp_path / "disk" / "x").read_text() == "new" and os.readlink(tmp_path / "link") == "disk/x"
    assert (tmp_path / "disk" / "x").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("target", ["/proc/self/fd/1", "loop", "/dev/null"])
def test_links_to_what_is_no_file_stay(target, tmp_path):
    (tmp_path / "loop").symlink_to(target)
    with pytest.raises(InputError, match="loop: cannot be written"), written_atomically(tmp_path / "loop"):
        pytest.fail("opened")
    assert os.readlink(tmp_path / "loop") == target


def test_what_is_read_is_not_written(tmp_path):
    (tmp_path / "x").touch()
    (tmp_path / "link").symlink_to("x")
    check_not_read(tmp_path / "new", tmp_path / "x", None, "", tmp_path / "nowhere")
    for name in ("x", "link", "./x"):
        with pytest.raises(InputError, match=f"{name}: is read here, and would be overwritten"):
            check_not_read(f"{tmp_path}/{name}", tmp_path / "x")


def test_one_at_a_time_has_a_lock_and_its_file_goes_away(tmp_path, capfd):
    path, order = tmp_path / "lock", []

    def second():
        with locked(path, "waiting", wait=True):
            order.append("second")
    thread = threading.Thread(target=second)
    with locked(path, "taken"):
        with pytest.raises(InputError, match="^taken$"), locked(path, "taken"):
            pytest.fail("locked")
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and capfd.readouterr().err == "waiting\n" and os.listdir(tmp_path) == []


def test_a_file_of_others_in_the_place_of_a_lock_stays(tmp_path):
    """Whether it is there or behind a link."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lock").symlink_to("precious")
    for name in ("lock", "precious"):
        with pytest.raises(InputError, match=f"{name}: is in the place of a lock"), locked(tmp_path / name, ""):
            pytest.fail("locked")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("content", [b'{"x": ', b"\xff", b"[" * 100_000, b"\0"], ids=["cut", "bytes", "nested", "zero"])
@pytest.mark.parametrize("read, what", [(read_json, "JSON"), (read_toml, "TOML")])
def test_what_is_none_is_one_line(tmp_path, content, read, what):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: not {what}") as raised:
        read(path)
    assert len(str(raised.value).splitlines()) == 1


def test_json_is_read_within_bounds(tmp_path):
    (tmp_path / "x").write_text('{"x": [1, "\u00e9"]}', encoding="utf-8")
    assert read_json(tmp_path / "x") == {"x": [1, "\u00e9"]}
    with pytest.raises(InputError, match="another file"):
        read_json(tmp_path / "x", most=5)


FULL_DISK = """
import resource, signal, sys
from tests.checkpoints import save_checkpoint
from common.find_mxnet import mx
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
save_checkpoint(sys.argv[1], 0, mx.sym.Variable("data"), {"x": mx.nd.zeros((1000, 10))}, {})
"""


@pytest.mark.parametrize("room", [
    20_000, *(pytest.param(room, marks=pytest.mark.long) for room in (100, 40_000))])
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

    from common.checkpoint.params import load_params
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

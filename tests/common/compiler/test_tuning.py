"""How schedules are built for a device, and how it is reached."""
import concurrent.futures
import gc
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tvm import rpc
from tvm.autotvm.measure import MeasureInput

from common.base.errors import InputError
from common.compiler import processor
from common.compiler.blocked import block_of
from common.compiler.measuring import reached
from common.compiler.relay_network import load_network
from common.compiler.targets import resolve_target
from common.compiler.tuning import NoneRan, builder_for, measurement, tasks_of, tune
from common.inference import boards, rpc_server
from common.inference.boards import board, boards_at
from common.inference.runtime import Device
from tests.conftest import ROOT

AARCH64 = 183  # of elf.h


def first_task(prefix, target):
    return tasks_of(load_network(prefix, 0, (1, 3, 8, 8), block_of(target)), target)[0]


def test_without_a_cross_compiler_a_boards_schedules_are_archives(one_convolution, monkeypatch):
    monkeypatch.setattr(processor.shutil, "which", lambda _: None)
    target = resolve_target("llvm -mtriple=aarch64-linux-gnu")
    task = first_task(one_convolution, target)
    with reached(("127.0.0.1", 1), "board", target):
        builder = builder_for(target)
        builder.set_task(task, {})
        built, = builder.build([MeasureInput(target, task, task.config_space.get(0))])
        assert built.error is None, built.error
        with tarfile.open(built.filename) as archive:
            heads = [archive.extractfile(member).read(20) for member in archive if member.name.endswith(".o")]
    assert heads and all(head[:4] == b"\x7fELF" and head[18] == AARCH64 for head in heads)
    assert not Path(built.filename).exists()


def test_if_no_schedule_runs_the_first_error_is_reported(one_convolution, tmp_path, monkeypatch):
    (tmp_path / "g++").write_text("#!/bin/sh\necho cannot link today\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    target = resolve_target("llvm")
    with reached(None, None, target) as address, pytest.raises(NoneRan, match="^cannot link today$"):
        tune(first_task(one_convolution, target), 1, measurement(target, address), lambda *_: None)


def test_ctrl_c_while_the_pools_are_made_waits_for_them(monkeypatch):
    made, untold = [], []

    def pool(*arguments, **options):
        if not made:
            signal.raise_signal(signal.SIGINT)
        made.append(ThreadPoolExecutor(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(sys, "unraisablehook", untold.append)
    with pytest.raises(KeyboardInterrupt):
        measurement(resolve_target("llvm"), ("127.0.0.1", 1, "nothing"))
    gc.collect()
    assert made and not untold


def test_a_board_that_is_not_there_is_reported_at_once():
    target = resolve_target("llvm")
    with reached(None, None, target) as (host, port, key):
        wait_for(key, host, port)
        assert board(host, port, key, "llvm") == Device(key, 0, ())
        with pytest.raises(InputError, match=f"'board'.*{key}"):
            board(host, port, "board", "llvm")
        with pytest.raises(InputError, match="vulkan"):
            board(host, port, key, "vulkan")
    with pytest.raises(InputError, match="no RPC tracker answers"):
        boards_at(host, port, "--rpc")


def wait_for(key, host, port):
    """The server makes itself known to the tracker once it has begun to serve."""
    while not boards_at(host, port, "--rpc").get(key):
        time.sleep(0.01)


def test_what_crashes_while_it_is_measured_takes_nothing_else_with_it():
    with reached(None, None, resolve_target("llvm")) as (host, port, key):
        for _ in range(3):
            wait_for(key, host, port)
            session = rpc.connect_tracker(host, port).request(key)
            server = next(child for child in psutil.Process().children() if child.children())
            for measuring_process in server.children():
                measuring_process.kill()
            del session
            psutil.wait_procs([measuring_process])
        wait_for(key, host, port)
        assert board(host, port, key, "llvm") == Device(key, 0, ())


def test_what_is_no_tracker_is_reported(monkeypatch):
    monkeypatch.setattr(boards, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(InputError, match="no RPC tracker answers"):
        boards_at(*listening.getsockname(), "--rpc")  # which says nothing


def test_the_server_opens_no_driver_before_it_forks():
    """And it loads no compiler: neither goes with what measures in its children."""
    code = "import sys, common.inference.rpc_server; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                             env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"})
    loaded = process.stdout.split()
    assert "tvm" in loaded and not {"pyopencl", "common.inference.drivers", "common.compiler"} & set(loaded)


def test_a_board_says_that_no_tracker_listens(capsys):
    """In one line, and at once: its server would try again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    parser = rpc_server.get_args_parser()
    with pytest.raises(InputError, match=f"^127.0.0.1 {port}: no RPC tracker answers "):
        rpc_server.main(parser.parse_args(["127.0.0.1", str(port), "board"]))
    with pytest.raises(SystemExit):
        parser.parse_args(["127.0.0.1", "99999", "board"])
    out, error = capsys.readouterr()
    assert out == "" and "99999" in error and error.count("\n") == 1

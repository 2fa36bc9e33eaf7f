"""This machine as a board on which schedules are measured: a kernel that crashes or hangs is then just one that failed.

Other boards: `common.inference.boards`. The server on either: `common.inference.rpc_server`.
"""
import asyncio
import os
import secrets
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import tvm
from tvm._ffi.libinfo import find_lib_path
from tvm.contrib.popen_pool import PopenWorker
from tvm.rpc.tracker import TrackerServerHandler

from common.base.errors import InputError, last_line
from common.base.machine import usable_cores
from common.base.processes import uninterrupted
from common.inference.rpc_server import serve

ROOT = str(Path(__file__).resolve().parent.parent.parent)


@contextmanager
def reached(rpc: tuple | None, key: str, target: tvm.target.Target) -> Iterator[tuple]:
    """(host, port, key) of the RPC tracker to measure at: that of `rpc`, or one that this process runs for the block.

    Within the block, child processes find this repository's modules, and temporary files go into a folder that is
    removed afterwards.
    """
    with _temporary_files(), environment(PYTHONPATH=_before(ROOT, os.environ.get("PYTHONPATH"))):
        if rpc:
            yield *rpc, key
            return
        name = f"here-{secrets.token_hex(8)}"  # so that nothing else that runs here measures with it
        with _tracker() as port, _server(target.kind.name, port, name):
            yield "127.0.0.1", port, name


@contextmanager
def _server(kind, tracker_port, key):
    process = PopenWorker(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        threads = os.environ.get("TVM_NUM_THREADS") or str(usable_cores())
        # if interrupted, TVM would not know which process to end
        with environment(TVM_NUM_THREADS=threads, **_runtime_alone()), uninterrupted():
            process.send(serve, [os.getpid(), kind == "opencl", "127.0.0.1", ("127.0.0.1", tracker_port), key])
        try:
            process.recv()
        except (InputError, OSError, ValueError) as error:  # its message is the traceback in that process
            raise InputError(last_line(error).removeprefix("common.base.errors.InputError: ")) from None
        yield
    finally:
        process.kill()


def end_processes() -> None:
    """End all processes that this one has started, among them those that build and measure, but for Python's tracker of
    semaphores: it ends with this process, which from Python 3.14 on would warn if it were gone before."""
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    for process in psutil.Process().children(recursive=True):
        if process.pid != tracker:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def _tracker():
    """The port of an RPC tracker in a thread, which ends with this process, however that ends."""
    listening, loop = socket.create_server(("127.0.0.1", 0)), asyncio.new_event_loop()

    def track():
        asyncio.set_event_loop(loop)
        handler = TrackerServerHandler(listening, secrets.token_hex())
        handler.run()
        handler.stop()

    thread = threading.Thread(target=track, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _runtime_alone() -> dict:
    """OpenCL's drivers bring an LLVM that conflicts with that of TVM's compiler. Some TVMs lack the library."""
    return {"TVM_USE_RUNTIME_LIB": "1"} if find_lib_path("libtvm_runtime.so", optional=True) else {}


@contextmanager
def _temporary_files():
    """TVM's builders and servers leave theirs behind when they are killed."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="tune-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            with environment(TMPDIR=folder):
                yield
        finally:
            tempfile.tempdir = before


def _before(folder: str, paths: str | None) -> str:
    return os.pathsep.join(filter(None, (folder, paths)))


@contextmanager
def environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

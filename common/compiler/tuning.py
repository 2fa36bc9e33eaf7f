"""Tune a network's convolutions by AutoTVM: build each schedule of each, run it on the device, keep the fastest.

The device is reached over TVM's RPC, be it this machine's, so that a kernel which crashes or hangs is
one that failed, or a board's.
"""
import os
from contextlib import contextmanager
from pathlib import Path

import tvm
from tvm import autotvm
from tvm.contrib import cc
from tvm.rpc.server import Server
from tvm.rpc.tracker import Tracker

from common.compiler import opencl_vectors  # noqa: F401 (TVM calls it)
from common.compiler.blocked import PASS_CONFIG, lay_out
from common.errors import InputError, last_line
from common.inference.device import Device, describe
from common.inference.plugin import load_plugin
from common.inference.runtime import usable_cores

ROOT = str(Path(__file__).resolve().parent.parent.parent)
KEY = "here"
SMALL = 128  # schedules of one convolution that are all tried; of more, those that a genetic search comes to


def link(output, objects, **options):
    """Make a shared library of a schedule's objects. A worker that is sent this imports our templates with it."""
    cc.create_shared(output, objects, **options)


link.output_format = "so"


def tasks_of(network, target) -> list:
    """AutoTVM's tasks for `network` (common.compiler.checkpoint.Network): a convolution each, alike ones once."""
    module = lay_out(network.module, target)
    return autotvm.task.extract_from_program(module["main"], network.params, target)


def tune(task, trials: int, address, on_trials):
    """(autotvm.MeasureInput, autotvm.MeasureResult) of the fastest of at most `trials` schedules; None if all failed.

    `address`: (host, port, key) of an RPC tracker. `on_trials(number, seconds)` is called after some trials, with the
    best so far, None at first.
    """
    host, port, key = address
    fastest = []

    def keep(_, inputs, results):
        for record in zip(inputs, results, strict=True):
            if record[1].error_no == 0 and (not fastest or min(record[1].costs) < min(fastest[0][1].costs)):
                fastest[:] = [record]
        on_trials(len(inputs), min(fastest[0][1].costs) if fastest else None)

    builder = autotvm.LocalBuilder(timeout=60, build_func=link, build_kwargs={"build_option": PASS_CONFIG})
    runner = autotvm.RPCRunner(key, host, port, timeout=60, number=3, repeat=5, min_repeat_ms=10, cooldown_interval=0)
    tuner = (autotvm.tuner.GridSearchTuner(task) if len(task.config_space) <= SMALL
             else autotvm.tuner.GATuner(task))
    tuner.tune(min(trials, len(task.config_space)), measure_option=autotvm.measure_option(builder, runner),
               callbacks=[keep], si_prefix="G")
    return fastest[0] if fastest else None


def this_machine(target: str) -> Device:
    return describe(target)


def board(host, port, key, target: str) -> Device:
    """The board called `key` at an RPC tracker. Raises InputError where it is not reached."""
    try:
        session = tvm.rpc.connect_tracker(host, port).request(key, session_timeout=60, max_retry=1)
        device = session.device(target.split()[0] if target.split()[:1] != ["llvm"] else "cpu")
        if not device.exist:
            raise InputError(f"{key} has no {target.split()[0]} device, or its TVM was built without")
        return Device(key if target.split()[0] == "llvm" else device.device_name, 0, ())
    except (tvm.error.TVMError, OSError, RuntimeError) as error:
        raise InputError(f"--rpc {host}:{port} --key {key}: {last_line(error)}") from None


@contextmanager
def reached(rpc, key, target):
    """(host, port, key) of the RPC tracker to measure at: that of `rpc`, or one of this machine's own for the block."""
    if rpc:
        yield *rpc, key
        return
    tracker = Tracker(host="127.0.0.1", port=9190, port_end=9999, silent=True)
    with environment(PYTHONPATH=ROOT, TVM_USE_RUNTIME_LIB="1", TVM_NUM_THREADS=str(usable_cores())):
        server = Server("127.0.0.1", port=9000, port_end=9189, key=KEY, tracker_addr=("127.0.0.1", tracker.port),
                        server_init_callback=load_plugin if target.kind.name == "opencl" else None, silent=True)
    try:
        yield "127.0.0.1", tracker.port, KEY
    finally:
        server.terminate()
        tracker.terminate()


@contextmanager
def environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

"""Tune a network's convolutions by AutoTVM: build each schedule of each, run it on the device, keep the fastest."""
import os
import subprocess
from collections.abc import Callable
from functools import partial

import tvm
from tvm import autotvm
from tvm.contrib import cc, tar
from tvm.contrib.popen_pool import PopenPoolExecutor

from common.base.errors import last_line
from common.base.processes import dies_with, uninterrupted
from common.compiler import opencl_vectors  # noqa: F401 (TVM calls it)
from common.compiler.blocked import lay_out
from common.compiler.processor import export_options
from common.compiler.relay_network import Network

SMALL = 128  # schedules at most that are all tried, in any order; if a layer has more, a genetic search chooses
TIMEOUT = 60  # seconds to build a schedule, or to measure it


class NoneRan(Exception):
    """No schedule of a layer could be built and run. The message is the error of the first, in one line."""


def tasks_of(network: Network, target: tvm.target.Target) -> list:
    """AutoTVM's tasks for `network`, one for each convolution; equal ones once."""
    module = lay_out(network.module, target)
    return autotvm.task.extract_from_program(module["main"], {}, target)


def measurement(target: tvm.target.Target, address: tuple) -> dict:
    """How `tune` builds schedules for `target` and runs them, by processes that serve one layer after another.

    `address`: (host, port, key) of an RPC tracker.
    """
    host, port, key = address
    with uninterrupted():  # a pool that is half made ends in a traceback
        runner = _Runner(key, host, port, timeout=TIMEOUT, number=3, repeat=5, min_repeat_ms=10, cooldown_interval=0)
        runner.executor = _workers(TIMEOUT * (runner.n_parallel + 1))
        return autotvm.measure_option(builder_for(target), runner)


def let_go(measured: dict) -> None:
    """End the threads of its pools, after their processes have ended.

    TVM's pool has no public way to do so. Its destructor would start the processes again for what is still queued, and
    if Python is about to end, fail with a traceback.
    """
    for part in measured.values():
        part.executor._threadpool.shutdown(cancel_futures=True)
        part.executor._worker_map.clear()


def tune(task: autotvm.task.Task, trials: int, measured: dict, on_trials: Callable) -> tuple:
    """(autotvm.MeasureInput, autotvm.MeasureResult) of the fastest of at most `trials` schedules. Raises NoneRan.

    `measured`: see `measurement`. `on_trials(number, seconds)` is called after each batch of trials, with their number
    and the best time so far (None if none ran).
    """
    fastest, errors = [], []

    def keep(_, inputs, results):
        for record in zip(inputs, results, strict=True):
            if record[1].error_no:
                errors.append(record[1].costs)
            elif not fastest or min(record[1].costs) < min(fastest[0][1].costs):
                fastest[:] = [record]
        on_trials(len(inputs), min(fastest[0][1].costs) if fastest else None)

    tuner = autotvm.tuner.RandomTuner(task) if len(task.config_space) <= SMALL else autotvm.tuner.GATuner(task)
    tuner.tune(min(trials, len(task.config_space)), measure_option=measured, callbacks=[keep], si_prefix="G")
    if not fastest:
        raise NoneRan(_reason(*errors[0]) if errors else "there are none")
    return fastest[0]


class _Runner(autotvm.RPCRunner):
    """TVM's, without its search for the device, in a thread that ends only if the device is found."""

    def set_task(self, task: autotvm.task.Task) -> None:
        self.task = task


def builder_for(target: tvm.target.Target) -> autotvm.LocalBuilder:
    """AutoTVM's builder, with a linker for `target`."""
    builder = autotvm.LocalBuilder(timeout=TIMEOUT, build_func=_linker(target))
    builder.executor = _workers(TIMEOUT)
    return builder


def link(output: str, objects: list[str], **options: object) -> None:
    """Make a shared library of a schedule's objects. A worker that is sent this function imports our templates with
    it."""
    cc.create_shared(output, objects, **options)


def pack(output: str, objects: list[str], **_: object) -> None:
    """Make an archive of a schedule's objects, which TVM's RPC server links on its machine. See `link`."""
    tar.tar(output, objects)


def _linker(target):
    options = export_options(target)
    linker = partial(pack if "fcompile" in options else link, **options)
    linker.output_format = "tar" if "fcompile" in options else "so"
    return linker


def _workers(timeout):
    """TVM's pool of processes, which print nothing, and end with this one."""
    return PopenPoolExecutor(timeout=timeout, initializer=_begin, initargs=(os.getpid(),),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _begin(parent):
    dies_with(parent)
    autotvm.GLOBAL_SCOPE.in_tuning = True  # as it is in this process while it tunes: schedules of TVM's ask


def _reason(trace: str, error: Exception | str) -> str:
    lines = [line for line in str(trace).splitlines() if not line.startswith("Command line:")]  # the linker's
    return last_line("\n".join(lines) or error)

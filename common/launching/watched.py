#!/usr/bin/env python
"""Run a command, and end it with everything that it started when this process's standard input ends.

    python watched.py SECONDS COMMAND...

launch.py starts every role through this, here or at the far end of ssh, to which it sends this file's text: the host
needs Python 3.6 or newer and nothing of this repository. The end of a pipe is the one sign that arrives whatever
happens to launch.py, even SIGKILL. Each byte read is the number of a signal for the command's process group; 0 is only
a sign of life, and SECONDS without any byte (0: no limit) count as the end.

The exit status is the command's, or 128 + the signal that killed it. Linux only.
"""
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from glob import glob

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(silence: float, command: "list[str]") -> int:
    """The exit status of the command, after it and all its descendants have ended. SIGINT, SIGTERM and SIGHUP to this
    process count as the end of its input."""
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)  # the number arrives through the pipe
    try:
        process = start(command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    ended = {}
    watch(process.pid, ended, wake, silence)
    end_the_rest(ended)
    process.returncode = ended.get(process.pid, 128 + signal.SIGKILL)
    return process.returncode


def start(command: "list[str]") -> subprocess.Popen:
    """The running command, leader of a session of its own: a terminal's Ctrl-C reaches launch.py alone."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans among its descendants become children of this process
    parent = os.getpid()

    def tied():  # in case this process is killed
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=tied,
                            env=environment())


def environment() -> "dict[str, str]":
    """The environment without PORT, which ps-lite would take for a port of each of its processes; with this machine's
    address on the way to the scheduler: ps-lite's own choice, the first interface, may be a bridge of containers."""
    env = {name: value for name, value in os.environ.items() if name != "PORT"}
    if "DMLC_PS_ROOT_URI" in env and "DMLC_INTERFACE" not in env:
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((env["DMLC_PS_ROOT_URI"], int(env["DMLC_PS_ROOT_PORT"])))  # sends nothing
            env.setdefault("DMLC_NODE_HOST", way.getsockname()[0])
    return env


def watch(pid: int, ended: "dict[int, int]", wake: int, silence: float) -> None:
    """Pass signals on until the command has ended, or this process's input has. After a signal the rest of its
    group may take its time, too: a shell ends before the program that it runs."""
    heard, signalled = time.monotonic(), False
    while True:
        reap(ended)
        if pid in ended and not (signalled and group_lives(pid)):
            return
        timeout = max(0, heard + silence - time.monotonic()) if silence else None
        ready = select.select([0, wake], [], [], timeout)[0]
        if not ready or wake in ready and set(os.read(wake, 4096)) != {signal.SIGCHLD}:
            return
        if 0 in ready:
            numbers = os.read(0, 4096)
            if not numbers:
                return
            heard = time.monotonic()
            for number in filter(None, numbers):
                signalled = True
                if pid not in ended:
                    os.killpg(pid, number)


def group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def reap(ended: "dict[int, int]") -> bool:
    """Collect the children that have ended as {process id: exit status}; whether any is left."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
            ended[pid] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    return False


def end_the_rest(ended: "dict[int, int]") -> None:
    """Kill all descendants: children first, whose own children then become this process's."""
    give_up = time.monotonic() + 10  # a process that waits for a broken disk, or belongs to another user
    while reap(ended) and time.monotonic() < give_up:
        for child in children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def children() -> "Iterator[int]":
    for stat in glob("/proc/[0-9]*/stat"):
        with suppress(OSError), open(stat, errors="replace") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                yield int(stat.split("/")[2])


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

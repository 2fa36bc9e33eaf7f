"""The processes of a distributed run, from their start to the end of the last, whichever ends first."""
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

SHORT = 5           # seconds for the workers after another process died: one that waits for it in MXNet is deaf
SIGN_OF_LIFE = 10   # seconds between the bytes that show a host that this process is alive
LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Process:
    """One role, run through watched.py, which ends when its standard input does."""

    def __init__(self, role: str, number: int, host: str | None, line: list[str], env: dict[str, str],
                 before: Callable[[], None]) -> None:
        self.role, self.host = role, host
        self.name = f"{role} {number}" if role != "scheduler" else role
        self._popen = subprocess.Popen(line, stdin=subprocess.PIPE, bufsize=0, env={**os.environ, **env},
                                       start_new_session=True, preexec_fn=before)

    @property
    def status(self) -> int | None:
        """The exit status as a shell has it, None while it runs."""
        code = self._popen.poll()
        return code if code is None or code >= 0 else 128 - code

    def how(self) -> str:
        place = f" on {self.host}" if self.host else ""
        if self.status == 255 and self.host:
            return f"{place}: ssh ended with exit status 255, as it does if the connection breaks".lstrip()
        try:
            return f"was killed by {signal.Signals(self.status - 128).name}{place}"
        except ValueError:
            return f"ended with exit status {self.status}{place}"

    def send(self, number: int) -> None:
        """A signal for the command; 0 is a sign of life."""
        with suppress(BrokenPipeError):
            self._popen.stdin.write(bytes([number]))

    def let_go(self) -> None:
        self._popen.stdin.close()

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()


class Signals:
    """Blocked while the block runs, and taken one by one, so that no handler interrupts anything."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers, self._mask = [*numbers, signal.SIGCHLD], set()

    def __enter__(self) -> "Signals":
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:  # a Ctrl-C that comes after the end is no error
            while signal.sigtimedwait([number], 0):
                pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def before(self) -> None:
        """For a new process, before it runs its program."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def next(self, processes: list[Process], seconds: float = SIGN_OF_LIFE) -> int | None:
        """The next of SIGINT, SIGTERM (SIGHUP counts as one); None when a process has ended, or after a while."""
        for process in processes:
            process.send(0)
        info = signal.sigtimedwait(self._numbers, max(0, min(seconds, SIGN_OF_LIFE)))
        number = info and info.si_signo
        if number == signal.SIGHUP:
            return signal.SIGTERM
        return number if number in LEAVE else None

    def wait(self, processes: list[Process], seconds: float) -> None:
        """Wait until all of them have ended, the time is over, or Ctrl-C cuts it short."""
        start = time.monotonic()
        while any(process.status is None for process in processes) and time.monotonic() < start + seconds:
            number = self.next(processes, start + seconds - time.monotonic())
            if number == signal.SIGINT and time.monotonic() > start + 0.5:  # sooner it is the same Ctrl-C, passed on by
                return                                                      # the program that started this one


def supervise(processes: list[Process], grace: float, signals: Signals) -> int:
    """Wait for the workers, then for the rest. Returns the exit status of the run."""
    workers = [process for process in processes if process.role == "worker"]
    number = failed = None
    while not number and not failed and any(worker.status is None for worker in workers):
        number = signals.next(processes)
        failed = next((process for process in processes if process.status), None)
    if failed:
        say(f"{failed.name} {failed.how()}; ending the others")
        send(workers, signal.SIGTERM)
        signals.wait(workers, SHORT)
        return failed.status
    if number:
        say(f"{signal.Signals(number).name} is passed on to the workers, which have {grace:g} s to end")
        send(workers, number)
        signals.wait(workers, grace)
        left = warn_of(workers)
        return next((worker.status for worker in workers if worker.status), 128 + number if left else 0)
    signals.wait(processes, grace)
    warn_of(processes)
    for process in processes:
        if process.status:
            say(f"warning: {process.name} {process.how()}, after all workers had succeeded")
    return 0


def send(processes: list[Process], number: int) -> None:
    for process in processes:
        process.send(number)


def warn_of(processes: list[Process]) -> list[str]:
    """The names of those that have not ended, with a warning."""
    left = [process.name for process in processes if process.status is None]
    if left:
        say(f"warning: did not end, killed: {', '.join(left)}")
    return left


def end(processes: list[Process]) -> None:
    """Kill what is left, with all its descendants."""
    for process in processes:
        process.let_go()
    give_up = time.monotonic() + 5
    while any(process.status is None for process in processes) and time.monotonic() < give_up:
        time.sleep(0.02)
    for process in processes:
        if process.status is None:
            process.kill()


def say(message: str) -> None:
    print(f"launch.py: {message}", file=sys.stderr, flush=True)

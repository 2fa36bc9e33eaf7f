"""The processes that a benchmark measures, from outside: their times, memory and rest."""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT
from common.base.errors import InputError

REST = 0.1  # seconds without work after which a process is at rest: threads wait for more by spinning at first


class Contender:
    """A process `python -m module name`, whose end is benchmarks.serving: it had its first result after `first_result`
    seconds."""

    def __init__(self, module: str, name: str, python: str, request: dict, scratch: str | os.PathLike) -> None:
        threads = {variable: str(request["cores"]) for variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS")}
        self.name, self._errors = name, Path(scratch) / f"{name}.txt"
        start = time.perf_counter()
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, "-m", module, name], cwd=ROOT, env=os.environ | threads, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            self.ask(request)
        except BaseException:
            self.close()
            raise
        self.first_result = time.perf_counter() - start

    def ask(self, request: dict) -> Any:
        """The answer to `request`. Raises InputError where the process has ended."""
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        if line := self._process.stdout.readline():
            return json.loads(line)
        *_, last = self.errors().splitlines() or ["no message"]
        raise InputError(f"{self.name} ended with {self._process.wait()}: {last}")

    def errors(self) -> str:
        """What it has written to its standard error."""
        return self._errors.read_text(errors="replace")

    def turn(self, warm_up: float, seconds: float) -> tuple:
        """(seconds of each run, processor ticks that other processes took meanwhile, ticks that there were): of runs
        that begin within `seconds`, after some that begin within `warm_up`."""
        busy, ticks, own = *machine_ticks(), self.ticks()
        times = self.ask({"do": "turn", "warm_up": warm_up, "seconds": seconds})
        own, (busy_after, ticks_after) = self.ticks() - own, machine_ticks()
        return times, max(busy_after - busy - own, 0), ticks_after - ticks

    def wait_for_rest(self) -> None:
        for _ in range(100):
            before = self.ticks()
            time.sleep(REST)
            if self.ticks() == before:
                return
        raise InputError(f"{self.name} never rests between its turns: it would disturb the others")

    def ticks(self) -> int:
        """Processor time that it took, in the system's clock ticks."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def peak_mib(self) -> float:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def add_contender_args(parser: argparse.ArgumentParser, runners: dict, default: Iterable[str] | None = None) -> None:
    parser.add_argument("--contenders", nargs="+", choices=runners, metavar="NAME",
                        default=list(runners if default is None else default), help=f"of {', '.join(runners)}")
    parser.add_argument("--frameworks", metavar="PYTHON", default=str(ROOT / ".venv-converters" / "bin" / "python"),
                        help="the Python that has what requirements-converters.txt lists")


def pythons(args: argparse.Namespace, runners: dict) -> dict[str, str]:
    """{name: the Python of a contender}, in the order of `runners`. Raises InputError where there is none."""
    elsewhere = [name for name in args.contenders if runners[name].elsewhere]
    python = shutil.which(args.frameworks)
    if elsewhere and not python:
        raise InputError(f"--frameworks {args.frameworks}: no such Python, which {', '.join(elsewhere)} "
                         "need: install requirements-converters.txt in a virtual environment")
    # absolute: processes start in another folder
    return {name: os.path.abspath(python) if name in elsewhere else sys.executable
            for name in runners if name in args.contenders}


def turns(contenders: list[Contender], rounds: int, seed: int, what: str) -> Iterator[Contender]:
    """Each of them once in every round, in random order, when the one before it rests; tells the rounds of `what`."""
    order = random.Random(seed)
    for contender in contenders:
        contender.wait_for_rest()
    for number in range(rounds):
        print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for contender in order.sample(contenders, len(contenders)):
            yield contender
            contender.wait_for_rest()


def machine_ticks() -> tuple:
    """(clock ticks in which a core was busy, all ticks), of all cores."""
    user, nice, system, idle, waiting, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + waiting

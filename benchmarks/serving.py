"""A contender of a benchmark as a process of its own, from inside; from outside it is `benchmarks.contender`.

It reads requests from standard input and answers each on standard output, JSON in a line. The first one opens what is
measured and runs it once; then it waits, asleep, for "turn" and "answer". Its end is that of its input.
"""
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import NamedTuple


class Runner(NamedTuple):
    """A contender. `open(request)` gives what `serve` wants of it, or what its module makes that of. `elsewhere`: its
    framework is not installed beside MXNet."""
    label: str
    packages: tuple
    open: Callable
    elsewhere: bool = False


def serve(open_it: Callable[[dict], tuple[Callable[[], object], str, Callable[[dict], object]]],
          packages: Iterable[str]) -> None:
    """`open_it(request)` gives (run, setting, answer): a function that runs once, a line on how it was set up, and a
    function that an "answer" request is given to. `packages`: whose versions are told."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the frameworks print is no answer

    def answer(content):
        print(json.dumps(content), file=answers, flush=True)

    run, setting, answer_request = open_it(json.loads(sys.stdin.readline()))
    run()
    answer("first result")
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "turn":
            timed(run, request["warm_up"])
            answer(timed(run, request["seconds"]))
        else:
            found = answer_request(request)
            answer({"setting": setting, "found": found, "versions": ", ".join(
                [*(f"{package} {version(package)}" for package in packages),
                 f"numpy {version('numpy')}", f"Python {platform.python_version()}"])})


def timed(run: Callable[[], object], seconds: float) -> list:
    """Seconds of each of the runs that begin within `seconds`; of one at least."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times

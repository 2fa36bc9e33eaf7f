"""SIGTERM and Ctrl-C, held back until a good moment: training finishes the batch, saves, goes."""
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Within this block SIGTERM and SIGINT only set `wish` to their number; a second one ends the program at once."""

    def __init__(self) -> None:
        self.wish, self._previous = 0, {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        if self.wish:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.wish = number


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGTERM and SIGINT that come within this block take effect after it."""
    stop = StopRequest()
    try:
        with stop:
            yield
    finally:
        if stop.wish:
            signal.raise_signal(stop.wish)

"""Work in parallel whose results come in order."""
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

AHEAD = 6  # items on their way, for each worker: what they hold (an image, at most 256 MiB) is held in memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(pool: Executor, workers: int, function: Callable[[Item], Result],
             items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) of all `items`, in their order, computed in `pool`, a few ahead of the one that is due."""
    ahead = deque()
    for item in items:
        ahead.append((item, pool.submit(function, item)))
        if len(ahead) >= AHEAD * workers:
            item, future = ahead.popleft()
            yield item, future.result()
    for item, future in ahead:
        yield item, future.result()

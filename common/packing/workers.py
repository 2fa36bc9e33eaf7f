"""Work in parallel whose results come in order."""
import os
from collections import deque

AHEAD = 6  # items on their way, for each worker: what they hold (an image, at most 256 MiB) is held in memory


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(pool, workers, function, items):
    """(item, function(item)) of all `items`, in their order, computed in `pool`, a few ahead of the one that is due."""
    ahead = deque()
    for item in items:
        ahead.append((item, pool.submit(function, item)))
        if len(ahead) >= AHEAD * workers:
            item, future = ahead.popleft()
            yield item, future.result()
    for item, future in ahead:
        yield item, future.result()

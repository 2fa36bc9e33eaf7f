"""Parallel work whose results come in order, and how far long work has come, on standard error."""
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

LOG_SECONDS = 60
AHEAD = 6  # items that each worker may be ahead; they are in memory (an image has at most 256 MiB)

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def progress(what: str, size: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Within this block show(done, images) tells how much of `size` is done, images/s and the time left: in a bar on a
    terminal, elsewhere in a line every minute."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else LOG_SECONDS
    start, first_done, first_images = time.monotonic(), done, None
    last = 0 if terminal else start
    with tqdm(total=size, initial=done, disable=not terminal, dynamic_ncols=True, mininterval=0,
              bar_format="{percentage:3.0f} % {desc} |{bar}|") as bar:
        def show(done, images=None):
            nonlocal first_images, last
            now = time.monotonic()
            if now - last < interval:
                return
            last = now
            text = what
            if images is not None:
                first_images = images if first_images is None else first_images
                text += f": {images} images, {(images - first_images) / max(now - start, 1e-3):.0f}/s"
            if done > first_done:
                left = tqdm.format_interval((now - start) * (size - done) / (done - first_done))
                text += f", {left} left"
            if terminal:
                bar.n = done
                bar.set_description_str(text)
            else:
                print(f"{100 * done // max(size, 1)} % {text}", file=sys.stderr, flush=True)

        yield show
        bar.n = size
        bar.refresh()


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

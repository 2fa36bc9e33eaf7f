"""How many pixels may be decoded: a bound on the memory that images take, which their headers cannot change."""
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from common.base.errors import ImageError
from common.base.machine import PIXELS, check_environment

MOST_PIXELS = 89_478_485  # as Pillow has it; a pixel takes up to 12 bytes: 1 GB
VARIABLE = "MOBILENETV2_MAX_PIXELS"
check_environment({VARIABLE: PIXELS})
MAX_PIXELS = int(os.environ.get(VARIABLE, MOST_PIXELS))
_held, _freed = 0, threading.Condition()  # pixels of the images that are being decoded


def check_pixels(width: int, height: int, weight: int = 1) -> None:
    """Raise ImageError for a size, as a header says it, that is not decoded. `weight`: how many times 12 bytes the
    format's decoder takes for a pixel."""
    if width * height * weight > MAX_PIXELS:
        counted = f" (of this format each counts as {weight})" if weight > 1 else ""
        raise ImageError(f"{width}x{height} pixels{counted}, more than {MAX_PIXELS}: set {VARIABLE} to decode it")


@contextmanager
def room_for(pixels: int) -> Iterator[None]:
    """Within this block a thread decodes an image of `pixels`, each counted with its weight. It waits until the images
    that are decoded at the same time have no more than MAX_PIXELS together."""
    global _held
    with _freed:
        while _held + pixels > MAX_PIXELS:
            _freed.wait()
        _held += pixels
    try:
        yield
    finally:
        with _freed:
            _held -= pixels
            _freed.notify_all()

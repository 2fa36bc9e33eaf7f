"""How many pixels may be decoded: what bounds the memory that images take, whatever their headers claim."""
import os
import threading

from common.base.errors import ImageError
from common.base.machine import PIXELS, check_environment

MOST_PIXELS = 89_478_485  # as Pillow has it; a pixel takes up to 12 bytes: 1 GB
VARIABLE = "MOBILENETV2_MAX_PIXELS"
check_environment({VARIABLE: PIXELS})
MAX_PIXELS = int(os.environ.get(VARIABLE, MOST_PIXELS))


def check_pixels(width: int, height: int, weight: int = 1) -> None:
    """Raise ImageError for a size, as a header says it, that is not decoded. `weight`: how many times 12 bytes the
    format's decoder takes for a pixel."""
    if width * height * weight > MAX_PIXELS:
        counted = f" (of this format each counts as {weight})" if weight > 1 else ""
        raise ImageError(f"{width}x{height} pixels{counted}, more than {MAX_PIXELS}: set {VARIABLE} to decode it")


class room_for:
    """Within this block a thread decodes an image of `pixels`, each counted with its weight. It begins when all that
    are decoded at the same time have no more than MAX_PIXELS together."""
    _lock = threading.Lock()
    _freed = threading.Condition(_lock)
    _held = _waiting = 0

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels

    def __enter__(self) -> None:
        with self._lock:
            while room_for._held + self._pixels > MAX_PIXELS:
                room_for._waiting += 1
                self._freed.wait()
                room_for._waiting -= 1
            room_for._held += self._pixels

    def __exit__(self, *_: object) -> None:
        with self._lock:
            room_for._held -= self._pixels
            if room_for._waiting:
                self._freed.notify_all()

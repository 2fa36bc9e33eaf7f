"""Part of an encoded image: of a JPEG no more is decoded than is wanted, where `make setup` could build
native/jpeg_box.cc."""
import ctypes
import logging
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg

from common.base.errors import last_line
from common.base.machine import load_library
from common.images.decoding import decode
from common.images.pixel_limit import check_pixels, room_for

LIBRARY = Path(__file__).resolve().parents[2] / "native" / "build" / "libjpeg_box.so"


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL | None:
    """What decodes parts of JPEGs; None, and a warning, where it is not built or cannot be loaded."""
    why = f"{path.name} is not built: make setup builds it, where there is g++ and libjpeg-turbo's header"
    if path.exists():
        try:
            loaded = load_library(path)
            loaded.decode_box.argtypes = (ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_uint] * 4, ctypes.c_void_p)
            return loaded
        except (OSError, AttributeError) as error:
            why = f"{path.name} cannot be loaded: {last_line(error)}"
    logging.warning("Whole images are decoded for parts of them, which is slower: %s", why)
    return None


def open_image(content: bytes) -> tuple:
    """(height, width, box) of an encoded image; box(top, left, height, width) are the pixels of a rectangle within it,
    uint8 (height, width, 3), BGR, not turned. Both raise ImageError for what is damaged, too large or no image.

    Of a JPEG the pixels are those of the whole image, to the bit, whether the library is there or not. With it, damage
    to what need not be read for the rectangle is not noticed.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
    except (ValueError, KeyError):  # KeyError: a subsampling that it does not know
        image = decode(content, upright=False)
        return *image.shape[:2], lambda *rectangle: _cut(image, *rectangle)
    check_pixels(width, height)
    return height, width, lambda *rectangle: _box_of_jpeg(content, width * height, *rectangle)


def _box_of_jpeg(content, size, top, left, height, width):
    if native := library():
        pixels = np.empty((height, width, 3), np.uint8)
        with room_for(size):
            if not native.decode_box(content, len(content), top, left, height, width, pixels.ctypes.data):
                return pixels
    return _cut(decode(content, upright=False), top, left, height, width)


def _cut(image, top, left, height, width):
    return image[top:top + height, left:left + width]

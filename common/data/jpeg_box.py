"""Part of an encoded image: of a JPEG no more is decoded than is wanted, where `make setup` could build
native/jpeg_box.cc."""
import ctypes
import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from common.errors import last_line
from common.preprocess import decode
from common.shared_library import load_library

LIBRARY = Path(__file__).resolve().parents[2] / "native" / "build" / "libjpeg_box.so"
UPRIGHT = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # as ImageRecordIter, which does not turn images either


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


def open_image(content: bytes) -> tuple | None:
    """(height, width, box) of an encoded image; box(top, left, height, width) are the pixels of a rectangle within it,
    uint8 (height, width, 3), BGR. None for what is not an image.

    Of a JPEG the pixels are those of simplejpeg, to the bit, whether the library is there or not.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
        return height, width, lambda *rectangle: _box_of_jpeg(content, *rectangle)
    except (ValueError, KeyError):  # KeyError: colours or a subsampling that it does not know
        image = decode(content, UPRIGHT)
        return None if image is None else (*image.shape[:2], lambda *rectangle: _cut(image, *rectangle))


def _box_of_jpeg(content, top, left, height, width):
    if native := library():
        pixels = np.empty((height, width, 3), np.uint8)
        if not native.decode_box(content, len(content), top, left, height, width, pixels.ctypes.data):
            return pixels
    try:
        image = simplejpeg.decode_jpeg(content, "BGR", strict=False)  # of a truncated one what there is
    except ValueError:  # of other colours
        image = decode(content, UPRIGHT)
    return None if image is None else _cut(image, top, left, height, width)


def _cut(image, top, left, height, width):
    return image[top:top + height, left:left + width]

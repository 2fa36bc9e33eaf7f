"""Part of an encoded image: of a JPEG no more is decoded than is wanted, if `make setup` could build
native/jpeg_box.cc."""
import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg

from common.data.native_library import BUILD, native_library
from common.images.decoding import decode
from common.images.pixel_limit import check_pixels, room_for

LIBRARY = BUILD / "libjpeg_box.so"
ARGUMENTS = {"decode_box": (ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_uint] * 4, ctypes.c_void_p)}


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL | None:
    """The library that decodes parts of JPEGs; None, and a warning, if it is not built or cannot be loaded."""
    return native_library(path, ARGUMENTS, "g++ and libjpeg-turbo's header",
                          "Whole images are decoded for parts of them, which is slower")


@dataclass(frozen=True)
class EncodedImage:
    """An image of which parts can be decoded. `pixels`: all of them if it is decoded already, None of a JPEG."""
    content: bytes
    height: int
    width: int
    pixels: np.ndarray | None = None

    def box(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The pixels of a rectangle within the image, uint8 (height, width, 3), BGR, not turned. Raises ImageError for
        a damaged one.

        Of a JPEG they are those of the complete image, to the bit, with or without the library. With it, damage to what
        need not be read for the rectangle is not noticed.
        """
        pixels = self.pixels
        if pixels is None:
            if native := library():
                box = np.empty((height, width, 3), np.uint8)
                with room_for(self.width * self.height):
                    if not native.decode_box(self.content, len(self.content), top, left, height, width,
                                             box.ctypes.data):
                        return box
            pixels = decode(self.content, upright=False)
        return pixels[top:top + height, left:left + width]


def open_image(content: bytes) -> EncodedImage:
    """Raises ImageError for what is damaged, too large or no image."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
    except (ValueError, KeyError):  # KeyError: a subsampling that it does not know
        pixels = decode(content, upright=False)
        height, width, _ = pixels.shape
        return EncodedImage(content, height, width, pixels)
    check_pixels(width, height)
    return EncodedImage(content, height, width)

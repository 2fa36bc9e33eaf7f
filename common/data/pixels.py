"""What is done to every pixel of a training image beside decoding it: by native/pixels.cc if `make setup` could build
it, to the bit as by OpenCV and NumPy."""
import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from common.data.native_library import BUILD, native_library
from common.images import preprocess

LIBRARY = BUILD / "libpixels.so"
ARGUMENTS = {"scale": (ctypes.c_void_p, *[ctypes.c_size_t] * 3, *[ctypes.c_void_p] * 2, *[ctypes.c_size_t] * 2,
                       ctypes.c_ubyte, ctypes.c_void_p),
             "change_hls": (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_float] * 3),
             "normalise": (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_void_p] * 3)}
WITHOUT = "Training images are scaled and their colours changed by OpenCV, which is slower"
HLS_LIMITS = (180, 255, 255)  # of 8-bit hue, lightness and saturation in OpenCV
IN_VECTORS = 16  # OpenCV computes so many pixels of a row at once at most, and rounds those that are left otherwise
COMPARED = (512, 512, 3)  # where OpenCV rounds otherwise, one pixel of 10,000 is another


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL | None:
    """The library that computes pixels; None, and a warning, if it is not built or cannot be loaded, or if OpenCV gives
    others on this processor."""
    native = native_library(path, ARGUMENTS, "g++", WITHOUT)
    if native and not _same_as_opencv(native):
        logging.warning("%s: its colours are not those of %s on this processor", WITHOUT, path.name)
        return None
    return native


def warp(pixels: np.ndarray, matrix: np.ndarray, height: int, width: int, fill: int) -> np.ndarray:
    """uint8 (height, width, 3): `pixels`, uint8 (rows, columns, 3), moved from (x, y) to `matrix` (x, y, 1), float64;
    what lies between pixels is interpolated, what is outside is `fill`."""
    native = library() if not matrix[0, 1] and not matrix[1, 0] and pixels.strides[1:] == (3, 1) else None
    return _scaled(native, pixels, matrix, height, width, fill) if native else cv2.warpAffine(
        pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 3)


def change_hls(crop: np.ndarray, hue: int, lightness: int, saturation: int) -> None:
    """Add to hue (0 to 180, two degrees each), lightness and saturation (0 to 255) of uint8 (height, width, 3), BGR,
    contiguous, in place; what goes beyond an end stays there, hue too."""
    native = library() if crop.shape[1] % IN_VECTORS == 0 else None
    if native:
        native.change_hls(crop.ctypes.data, crop.size // 3, hue, lightness, saturation)
    else:
        _change_hls_by_opencv(crop, hue, lightness, saturation)


def normalise(crop: np.ndarray, mean: Sequence[float], std: Sequence[float], data: np.ndarray) -> None:
    """uint8 (height, width, 3), BGR, to float32 (3, height, width), RGB, written to `data`; both are contiguous."""
    if native := library():
        colours = np.array((mean, std), np.float32)
        native.normalise(crop.ctypes.data, crop.size // 3, colours[0].ctypes.data, colours[1].ctypes.data,
                         data.ctypes.data)
    else:
        preprocess.normalise(crop, mean, std, data)


def _scaled(native, pixels, matrix, height, width, fill):
    scales = matrix.diagonal()
    change = scales[::-1] * (1 / scales.prod())  # as OpenCV inverts
    first = -change * matrix[:, 2]
    scaled = np.empty((height, width, 3), np.uint8)
    native.scale(pixels.ctypes.data, pixels.strides[0], *pixels.shape[:2], change.ctypes.data, first.ctypes.data,
                 height, width, fill, scaled.ctypes.data)
    return scaled


def _change_hls_by_opencv(crop, hue, lightness, saturation):
    cv2.cvtColor(crop, cv2.COLOR_BGR2HLS, dst=crop)
    pixels = crop.reshape(len(crop), -1)
    low, high, change = np.empty((3, crop.shape[1], 3), np.uint8)
    for channel, (amount, limit) in enumerate(zip((hue, lightness, saturation), HLS_LIMITS)):
        amount = min(max(amount, -limit), limit)
        low[:, channel], high[:, channel] = max(-amount, 0), min(limit - amount, 255)
        change[:, channel] = amount % 256
    # clipped before, so that bytes do not overflow: several times as fast as a table
    np.maximum(pixels, low.ravel(), out=pixels)
    np.minimum(pixels, high.ravel(), out=pixels)
    np.add(pixels, change.ravel(), out=pixels)
    cv2.cvtColor(crop, cv2.COLOR_HLS2BGR, dst=crop)


def _same_as_opencv(native):
    ours = np.random.RandomState(0).randint(0, 256, COMPARED).astype(np.uint8)
    theirs = ours.copy()
    native.change_hls(ours.ctypes.data, ours.size // 3, 0, 0, 0)
    _change_hls_by_opencv(theirs, 0, 0, 0)
    return bool((ours == theirs).all())

"""From a photograph to the network's input, alike for from_mxnet.py and evaluation.

Shorter side to 256, centre crop to 224, RGB, mean subtracted, NCHW float32; or as the checkpoint says
(common/checkpoint/preprocessing.py).
"""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from common.base.errors import ImageError, InputError
from common.base.files import read_bytes
from common.checkpoint.preprocessing import Preprocessing
from common.images.decoding import MAX_BYTES, decode
from common.images.pixel_limit import MOST_PIXELS

USUAL = Preprocessing()


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 (height, width, 3), BGR, turned upright as its EXIF data say.

    Raises InputError for a file that is missing, truncated, too large or no image.
    """
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        return decode(content, upright=True)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Within this block OpenCV starts no threads of its own: a thread for each core works on images already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def size_for_shorter_side(height: int, width: int, length: int) -> tuple:
    """(width, height) in proportion whose shorter side has `length` pixels; rounded as MXNet rounds it."""
    return (length, length * height // width) if height > width else (length * width // height, length)


def preprocess(image: np.ndarray, data_shape: Sequence[int] | None = None,
               preprocessing: Preprocessing = USUAL) -> np.ndarray:
    """uint8 (height, width, 3) BGR to float32 (1, *data_shape), normalised RGB.

    `data_shape`: (3, height, width), by default (3, crop, crop). For another one the shorter side is resized in
    proportion to its longer side. Raises ImageError as `resized_crop`.
    """
    _, height, width = data_shape or (3, preprocessing.crop, preprocessing.crop)
    cropped = resized_crop(image, preprocessing.resize_for(max(height, width)), height, width)
    data = np.empty((1, 3, height, width), np.float32)
    normalise(cropped, preprocessing.mean, preprocessing.std, data[0])
    return data


def normalise(image: np.ndarray, mean: Sequence[float], std: Sequence[float], data: np.ndarray) -> None:
    """uint8 (height, width, 3), BGR, to float32 (3, height, width), RGB, written to `data`."""
    for channel, plane in enumerate(reversed(cv2.split(image))):
        np.subtract(plane, np.float32(mean[channel]), out=data[channel])
        if std[channel] != 1:
            data[channel] /= np.float32(std[channel])


def resized_crop(image: np.ndarray, length: int, height: int, width: int) -> np.ndarray:
    """The centre, of `height` and `width` pixels, of `image` (H, W, C) resized so that its shorter side has `length`.

    To the bit ImageRecordIter(resize=length, inter_method=3), OpenCV's INTER_AREA, for an image that is shrunk; one
    that is enlarged is as by inter_method=1, linear, since INTER_AREA then repeats pixels. Sizes are rounded as MXNet
    rounds them. Pixels right of the crop and below it are not computed. Raises ImageError for a strip that would need
    gigabytes.
    """
    resized_width, resized_height = size_for_shorter_side(image.shape[0], image.shape[1], length)
    if resized_width * resized_height > MOST_PIXELS:
        raise ImageError(f"{image.shape[1]}x{image.shape[0]} pixels: too many when the shorter side has {length}")
    top, left = (resized_height - height) // 2, (resized_width - width) // 2
    scale_y, scale_x = resized_height / image.shape[0], resized_width / image.shape[1]
    # a little more than the crop covers; OpenCV gives it the size that the scale says, rounded
    seen = image[:int((top + height) / scale_y) + 3, :int((left + width) / scale_x) + 3]
    resized = cv2.resize(seen, None, fx=scale_x, fy=scale_y,
                         interpolation=cv2.INTER_LINEAR if length > min(image.shape[:2]) else cv2.INTER_AREA)
    return resized[top:top + height, left:left + width]

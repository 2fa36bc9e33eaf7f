"""From a photograph to what the network sees: the same for from_mxnet.py as for evaluation.

Shorter side to 256, centre crop to 224, RGB, mean subtracted, NCHW float32; or as the checkpoint says (common/
preprocessing_file.py).
"""
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import InputError, last_line
from common.files import read_bytes
from common.preprocessing_file import Preprocessing

USUAL = Preprocessing()
MAX_BYTES = 256 << 20  # of a file; a photograph has 1 to 20 MB
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")  # Pillow opens EPS with Ghostscript, say


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 (height, width, 3), BGR, turned upright as its EXIF data say.

    Raises InputError for a file that is missing, truncated, too large or no image.
    """
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        with without_pillow_warnings():
            return decode_whole(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


@contextmanager
def without_pillow_warnings() -> Iterator[None]:
    """Of broken EXIF data, say, which do not matter here. Not within a thread: what is ignored is one for all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Within this block OpenCV starts no threads of its own: there are as many images as cores at a time already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def decode_whole(content: bytes) -> np.ndarray:
    """An encoded image as `read_image` gives it; the InputError for one that is not whole says no more than why.

    OpenCV alone would hand out the upper half of a truncated JPEG, so Pillow decodes it first.
    """
    if not content:
        raise InputError("empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            if image.mode in ("F", "I"):
                raise InputError("pixels of more than 16 bits")
            # OpenCV does not turn WebP as its EXIF data say, and knows no GIF
            decoded = decode(content) if image.format != "WEBP" else None
            if decoded is None:
                decoded = np.ascontiguousarray(np.asarray(_upright(image).convert("RGB"))[..., ::-1])
            return decoded
    except UnidentifiedImageError:
        raise InputError("not an image") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for damaged content, from a list without an end
        raise InputError(f"damaged or truncated image ({last_line(error)})") from None


def _upright(image):
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data, of whatever kind, say nothing about the image
        return image


def decode(content: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """An encoded image as uint8 (height, width, 3), BGR; None where OpenCV cannot decode it."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def size_for_shorter_side(height: int, width: int, length: int) -> tuple:
    """(width, height) in proportion whose shorter side has `length` pixels; rounded as MXNet rounds it."""
    return (length, length * height // width) if height > width else (length * width // height, length)


def preprocess(image: np.ndarray, data_shape: Sequence[int] | None = None,
               preprocessing: Preprocessing = USUAL) -> np.ndarray:
    """uint8 (height, width, 3) BGR to float32 (1, *data_shape), normalised RGB.

    `data_shape`: (3, height, width), by default that of the crop. For another one the shorter side is resized in
    proportion to its longer side. Raises InputError as `resized_crop`.
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

    To the bit ImageRecordIter(resize=length, inter_method=3): OpenCV's INTER_AREA, with MXNet's rounding. What is
    right of the crop and below it is not computed. Raises InputError for a strip that would need gigabytes.
    """
    resized_width, resized_height = size_for_shorter_side(image.shape[0], image.shape[1], length)
    if resized_width * resized_height > Image.MAX_IMAGE_PIXELS:
        raise InputError(f"has {image.shape[1]}x{image.shape[0]} pixels: too many when the shorter side has {length}")
    top, left = (resized_height - height) // 2, (resized_width - width) // 2
    scale_y, scale_x = resized_height / image.shape[0], resized_width / image.shape[1]
    # a little more than the crop covers; what OpenCV makes of it has the size that the scale gives, rounded
    seen = image[:int((top + height) / scale_y) + 3, :int((left + width) / scale_x) + 3]
    resized = cv2.resize(seen, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_AREA)
    return resized[top:top + height, left:left + width]

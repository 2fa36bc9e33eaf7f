"""An image of any usual format into the JPEG that is packed."""
from contextlib import suppress

import cv2
import simplejpeg

from common.base.errors import ImageError
from common.images.decoding import decode
from common.images.jpeg_header import END, START, jpeg_header
from common.images.pixel_limit import MOST_PIXELS
from common.images.preprocess import size_for_shorter_side

MAX_SIDE = 65500  # pixels, of a JPEG by libjpeg


QUALITY = 95


def to_jpeg(content: bytes, short_side: int, quality: int | None, enlarge: bool = False) -> bytes:
    """`content` as a JPEG of `quality`, upright, in colour, with a shorter side of `short_side` pixels; smaller images
    keep their size unless `enlarge`. Without a quality it is QUALITY, and what is such a JPEG already stays as it is:
    to encode it again would blur it and take more bytes.

    Raises ImageError for content that is no image or a damaged one.
    """
    image = decode(content, upright=True)
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter > short_side or enlarge and shorter < short_side:
        width, height = size_for_shorter_side(height, width, short_side)
    if max(height, width) > MAX_SIDE or not 0 < height * width <= MOST_PIXELS:
        raise ImageError(f"{width}x{height} pixels cannot be packed")
    if (height, width) != image.shape[:2]:
        # linear as in im2rec.py, and several times faster than the area average, but it passes over pixels if the image
        # is more than twice as large
        interpolation = cv2.INTER_LINEAR if shorter <= 2 * short_side else cv2.INTER_AREA
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    elif quality is None and not enlarge and _is_usual(content):
        return content
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality or QUALITY])[1].tobytes()


def _is_usual(content):
    """Whether an image is a JPEG that every reader of records takes for the same pixels: whole, in colour, in one scan,
    without EXIF data that may turn it."""
    if not content.startswith(START) or not content.endswith(END):
        return False
    header = jpeg_header(content)
    with suppress(ValueError):  # a subsampling that simplejpeg does not know
        return not header.scans and not header.has_exif and simplejpeg.decode_jpeg_header(content)[2] == "YCbCr"
    return False

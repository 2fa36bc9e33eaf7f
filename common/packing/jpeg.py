"""An image of any usual format into the JPEG that is packed."""
import cv2

from common.base.errors import ImageError
from common.images.decoding import decode
from common.images.pixel_limit import MOST_PIXELS
from common.images.preprocess import size_for_shorter_side

MAX_SIDE = 65500  # pixels, of a JPEG by libjpeg


def to_jpeg(content: bytes, short_side: int, quality: int, enlarge: bool = False) -> bytes:
    """`content` as a JPEG of `quality`, upright, in colour, with a shorter side of `short_side` pixels; smaller images
    keep their size unless `enlarge`.

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
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

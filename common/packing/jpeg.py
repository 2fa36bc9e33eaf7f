"""One image, as it is found, into the JPEG that is packed."""
import cv2
from PIL import Image

from common.errors import InputError
from common.preprocess import size_for_shorter_side
from common.strict_jpeg import decode_strictly

MAX_SIDE = 65500  # pixels, of a JPEG by libjpeg


def to_jpeg(content: bytes, short_side: int, quality: int, enlarge: bool = False) -> bytes:
    """`content`, an image of any usual format, as a JPEG of `quality`, upright, BGR or grey made BGR, with a shorter
    side of `short_side` pixels; smaller images keep their size unless `enlarge`.

    Raises InputError, whose message is the reason alone, for content that is no image or not a whole one.
    """
    image = decode_strictly(content)
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter > short_side or enlarge and shorter < short_side:
        width, height = size_for_shorter_side(height, width, short_side)
    if max(height, width) > MAX_SIDE or not 0 < height * width <= Image.MAX_IMAGE_PIXELS:
        raise InputError(f"{width}x{height} pixels are not what can be packed")
    if (height, width) != image.shape[:2]:
        # linear as im2rec.py's, and several times faster than the area average, but it passes over pixels where the
        # image is more than twice as large
        interpolation = cv2.INTER_LINEAR if shorter <= 2 * short_side else cv2.INTER_AREA
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

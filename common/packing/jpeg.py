"""One image, as it is found, into the JPEG that is packed."""
import cv2
import numpy as np
import simplejpeg
from PIL import Image

from common.errors import InputError
from common.preprocess import decode_whole, size_for_shorter_side

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


def decode_strictly(content: bytes) -> np.ndarray:
    """`decode_whole`, faster: simplejpeg, which notices a truncated JPEG while it decodes it, takes the usual ones;
    what it does not like, or has EXIF data, goes the longer way."""
    if content.startswith(b"\xff\xd8") and not _has_exif(content):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
            if height * width <= Image.MAX_IMAGE_PIXELS:
                return simplejpeg.decode_jpeg(content, "BGR", strict=True)
        except (ValueError, KeyError):  # KeyError: colours or a subsampling that it does not know
            pass
    return decode_whole(content)


def _has_exif(jpeg):
    """Whether one of the segments before the image is of EXIF data."""
    at = 2
    while jpeg[at:at + 1] == b"\xff" and (kind := jpeg[at + 1:at + 2]) != b"\xda":
        if kind == b"\xff":  # bytes of 255 may precede a marker
            at += 1
            continue
        if kind == b"\xe1" and jpeg[at + 4:at + 9] == b"Exif\0":
            return True
        at += 2 + int.from_bytes(jpeg[at + 2:at + 4], "big")
    return False

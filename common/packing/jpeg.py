"""One image, as it is found, into the JPEG that is packed."""
import cv2
import numpy as np
import simplejpeg
from PIL import Image

from common.errors import InputError
from common.preprocess import decode_whole, resize_shorter_side


def to_jpeg(content: bytes, short_side: int, quality: int, enlarge: bool = False) -> bytes:
    """`content`, an image of any usual format, as a JPEG of `quality`, upright, BGR or grey made BGR, with a shorter
    side of `short_side` pixels; smaller images keep their size unless `enlarge`.

    Raises InputError, whose message is the reason alone, for content that is no image or not a whole one.
    """
    image = decode_strictly(content)
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter > short_side or enlarge and shorter < short_side:
        image = resize_shorter_side(image, short_side)
    try:
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    except cv2.error:
        raise InputError(f"{image.shape[1]}x{image.shape[0]} pixels cannot be stored as a JPEG") from None


def decode_strictly(content: bytes) -> np.ndarray:
    """`decode_whole`, faster: simplejpeg, which notices a truncated JPEG while it decodes it, takes the usual ones;
    what it does not like, or has EXIF data, goes the longer way."""
    if content.startswith(b"\xff\xd8") and b"Exif\0" not in content:
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
            if height * width <= Image.MAX_IMAGE_PIXELS:
                return simplejpeg.decode_jpeg(content, "BGR", strict=True)
        except (ValueError, KeyError):  # KeyError: colours or a subsampling that it does not know
            pass
    return decode_whole(content)

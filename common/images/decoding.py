"""An encoded image into pixels. All that read images decode them here, so that the same ones count as damaged.

An image is complete if a library decodes it to the last pixel without a complaint. The size that its header claims is
checked before anything is decoded, against the limit in common/images/pixel_limit.py.
"""
import io
import re
import warnings
from contextlib import contextmanager, suppress

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from common.base.errors import ImageError, last_line
from common.images.jpeg_header import END, START, check_scans, jpeg_header
from common.images.pixel_limit import check_pixels, room_for
from common.images.png_chunks import SIGNATURE, needed_chunks, png_size

MAX_BYTES = 256 << 20  # of a file; a photograph has 1 to 20 MB
FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")  # and JPEG; Pillow would open EPS with Ghostscript
WEIGHTS = {"WEBP": 2, "JPEG2000": 2}  # these take up to 24 bytes for a pixel, others up to 12
BY_PILLOW = ("PNG", "WEBP", "GIF")  # the same pixels as OpenCV's, which knows no GIF and is too lenient with WebP
NOT_READ = ((re.compile(rb".{4}ftyp(?:he[iv]|mif1|msf1)", re.DOTALL), "HEIC"),
            (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "AVIF"), (re.compile(rb"\0\0\x01\0"), "ICO"))

# their warnings name no file, and are either in the errors below or do not matter
warnings.filterwarnings("ignore", module=r"PIL\.")
cv2.setLogLevel(0)
Image.MAX_IMAGE_PIXELS = None  # check_pixels comes first


def decode(content: bytes, *, upright: bool) -> np.ndarray:
    """An encoded image as uint8 (height, width, 3), BGR. `upright`: turned as its EXIF data say, which is right for a
    photograph in a file; images in records are upright already. Raises ImageError for a damaged or too large one.
    """
    if len(content) > MAX_BYTES:
        raise ImageError(f"more than {MAX_BYTES >> 20} MiB")
    return (_decode_jpeg if content.startswith(START) else _decode_other)(content, upright)


def image_size(content: bytes) -> tuple[int, int]:
    """(width, height) that the header of an encoded image claims, before it is turned; `content` may be its beginning.
    Raises ImageError if `decode` would refuse it for its header."""
    if content.startswith(START):
        header = jpeg_header(content)
        check_pixels(header.width, header.height)
        return header.width, header.height
    kind, (width, height) = _format_and_size(content)
    check_pixels(width, height, WEIGHTS.get(kind, 1))
    return width, height


def _decode_jpeg(content, upright):
    header = jpeg_header(content)
    check_pixels(header.width, header.height)
    with room_for(header.width * header.height):
        if header.scans:
            check_scans(content, header)
        turned = upright and header.has_exif
        try:
            return _strictly(content, turned)
        except ValueError as error:
            if "subsampling" in str(error):  # one that simplejpeg does not know
                return _decode_odd_jpeg(content, turned)
        try:
            return _strictly(_mended(content), turned)
        except ValueError as error:
            raise ImageError(f"damaged or truncated image ({last_line(error)})") from None


def _strictly(jpeg, turned):
    """Raises ValueError if libjpeg warns: it goes on then, and makes up what is missing."""
    try:
        pixels = simplejpeg.decode_jpeg(jpeg, "BGR", strict=True)
    except ValueError as error:
        if "nsufficient memory" in str(error):
            raise MemoryError(str(error)) from None
        raise
    if turned:
        del pixels
        pixels = _by_opencv(jpeg, upright=True)
        if pixels is None:
            raise ValueError("OpenCV cannot read it")
    return pixels


def _mended(jpeg):
    """Without two faults that libjpeg warns of although all pixels are there: a missing end, as in many files, and
    another version of JFIF than 1."""
    if jpeg[6:11] == b"JFIF\0":
        jpeg = jpeg[:11] + b"\1" + jpeg[12:]
    return jpeg if jpeg.endswith(END) else jpeg + END


def _decode_odd_jpeg(jpeg, turned):
    """By Pillow, which notices that data are missing at the end, but not all damage."""
    with _opened(jpeg, ("JPEG",)) as image:
        image.load()
        return _pixels_of(image, turned)


def _decode_other(content, upright):
    kind, (width, height) = _format_and_size(content)
    weight = WEIGHTS.get(kind, 1)
    check_pixels(width, height, weight)
    with room_for(width * height * weight), _opened(needed_chunks(content) if kind == "PNG" else content) as image:
        if image.mode in ("F", "I"):
            raise ImageError("pixels of more than 16 bits")
        image.load()
        pixels = None if kind in BY_PILLOW else _by_opencv(content, upright)
        return _pixels_of(image, upright) if pixels is None else pixels


def _format_and_size(content):
    """(name, (width, height)), read before anything is allocated for them."""
    if content.startswith(SIGNATURE):
        return "PNG", png_size(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP", _webp_size(content)
    with _opened(content) as image:
        return image.format, image.size


def _webp_size(content):
    """Of an animation's canvas."""
    kind, body = content[12:16], content[20:30]
    if len(body) == 10 and kind == b"VP8X":
        return tuple(1 + int.from_bytes(body[at:at + 3], "little") for at in (4, 7))
    if len(body) == 10 and kind == b"VP8L":
        return tuple(1 + (int.from_bytes(body[1:5], "little") >> shift & 0x3FFF) for shift in (0, 14))
    if len(body) == 10 and kind == b"VP8 ":
        return tuple(int.from_bytes(body[at:at + 2], "little") & 0x3FFF for at in (6, 8))
    raise ImageError("damaged or truncated image (its header is not complete)")


@contextmanager
def _opened(content, formats=FORMATS):
    """A Pillow image. Damaged content raises many kinds of errors in this block; all become an ImageError."""
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            yield image
    except UnidentifiedImageError:
        raise ImageError(_what_it_is(content)) from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"damaged or truncated image ({last_line(error)})") from None


def _what_it_is(content):
    """What to say of content that Pillow does not know."""
    if not content:
        return "empty file"
    if content.startswith((SIGNATURE, START, b"RIFF")):
        return "damaged or truncated image (its header is not complete)"
    return next((f"{kind} is not read; convert it to JPEG" for pattern, kind in NOT_READ if pattern.match(content)),
                "not an image")


def _by_opencv(content, upright):
    """None if OpenCV cannot decode it."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8),
                            cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION))
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(last_line(error)) from None
        return None


def _pixels_of(image, upright):
    """As OpenCV makes them: the upper 8 of 16 bits, and the colour behind transparent pixels."""
    if upright:
        with suppress(Exception):  # broken EXIF data say nothing about the image
            ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "I;16":
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGB")
    return np.frombuffer(image.tobytes("raw", "BGR"), np.uint8).reshape(image.height, image.width, 3)

"""What a JPEG says of itself before it is decoded: its size, and whether its scans hold all of it."""
import re
from typing import NamedTuple

from common.base.errors import ImageError

START, END = b"\xff\xd8", b"\xff\xd9"
# what begins a segment after a byte of 255: not a zero, which means the byte itself, nor a marker without a length
SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
EXIF, SCAN = 0xE1, 0xDA
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
MAX_SCANS = 500  # as -maxscans of libjpeg-turbo's programs; each costs the time of a pass over the image
COEFFICIENTS = 64  # of a block


class JpegHeader(NamedTuple):
    """Size in pixels; `components`: the number of each; `has_exif`: before the first scan; `scans`: where that begins,
    or 0 if it holds everything."""
    width: int
    height: int
    components: bytes
    has_exif: bool
    scans: int


def jpeg_header(content: bytes) -> JpegHeader:
    """Of a JPEG, or of the beginning of one. Raises ImageError if the header is not complete."""
    at, frame, progressive, has_exif = len(START), b"", False, False
    while marker := SEGMENT.search(content, at):
        kind, at = marker[1][0], marker.end()
        segment = content[at:at + int.from_bytes(content[at:at + 2], "big")]
        at += len(segment)
        if kind in FRAMES:
            frame, progressive = segment, kind in PROGRESSIVE
        elif kind == EXIF:
            has_exif |= segment[2:7] == b"Exif\0"
        elif kind == END[1]:
            break
        elif kind == SCAN and len(frame) > 8 and len(segment) > 2:
            whole = segment[2] == frame[7] and not progressive
            return JpegHeader(int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[3:5], "big"), frame[8::3],
                              has_exif, 0 if whole else marker.start())
    raise ImageError("damaged or truncated image (its header is not complete)")


def check_scans(content: bytes, header: JpegHeader) -> None:
    """Raise ImageError unless the scans of a JPEG hold every bit of every coefficient: libjpeg makes an image of those
    there are, and does not warn."""
    lacking = {component: bytearray(b"\xff" * COEFFICIENTS) for component in header.components}  # how many bits of each
    at, scans = header.scans, 0
    while (marker := SEGMENT.search(content, at)) and marker[1] != END[1:]:
        at = marker.end()
        segment = content[at:at + int.from_bytes(content[at:at + 2], "big")]
        at += len(segment)
        if marker[1][0] == SCAN and len(segment) > 5:
            scans += 1
            first, last, bits = segment[-3], min(segment[-2], COEFFICIENTS - 1), segment[-1] & 15
            for component in segment[3:-3:2]:
                if component in lacking and first <= last:
                    lacking[component][first:last + 1] = bytes([bits]) * (last + 1 - first)
    if scans > MAX_SCANS:
        raise ImageError(f"a JPEG of {scans} scans, more than {MAX_SCANS}")
    if any(map(any, lacking.values())):
        raise ImageError("damaged or truncated image (scans are missing)")

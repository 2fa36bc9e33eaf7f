"""The chunks of a PNG, looked at before a library allocates what they claim to hold."""
import struct
import zlib

from common.base.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf")  # for the pixels, and to turn them upright
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
# of each pass over an interlaced image: first column and row, and steps to the next
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
AT_A_TIME = 1 << 20  # bytes


def png_size(content: bytes) -> tuple[int, int]:
    """(width, height) of a PNG, or of the beginning of one. Raises ImageError if its header is not complete."""
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise ImageError("damaged or truncated image (its header is not complete)")
    return struct.unpack_from(">II", content, 16)


def needed_chunks(png: bytes) -> bytes:
    """`png` without the chunks that its pixels do not depend on, such as profiles, texts and further frames, which
    may be damaged. Raises ImageError if a chunk would end behind the file, or if pixels are missing, which Pillow does
    not notice."""
    chunks, at = [], len(SIGNATURE)
    while at < len(png) and (not chunks or chunks[-1][4:8] != b"IEND"):
        end = at + 12 + int.from_bytes(png[at:at + 4], "big")
        if end > len(png):
            raise ImageError("damaged or truncated image (a chunk would end behind it)")
        if png[at + 4:at + 8] in NEEDED:
            chunks.append(memoryview(png)[at:end])
        at = end
    left, inflater = _bytes_of_pixels(png), zlib.decompressobj()
    for chunk in chunks:
        data = chunk[8:-4] if chunk[4:8] == b"IDAT" else b""
        while data and left >= 0 and not inflater.eof:
            try:
                left -= len(inflater.decompress(data, AT_A_TIME))
            except zlib.error as error:
                raise ImageError(f"damaged or truncated image ({error})") from None
            data = inflater.unconsumed_tail
    if left > 0 or not left and not inflater.eof:
        raise ImageError("damaged or truncated image (pixels are missing)")
    return SIGNATURE + b"".join(chunks)


def _bytes_of_pixels(png):
    """The size of the decompressed pixels, in bytes."""
    width, height = png_size(png)
    depth, colours, _, _, interlaced = png[24:29]
    bits = depth * CHANNELS.get(colours, 0)
    total = 0
    for column, row, right, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(width - column, 0) // right), -(-max(height - row, 0) // down)
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total

"""Images that are whole, that are not, and that claim to be what they are not."""
import re
import struct
import zlib

import cv2
from PIL import Image

from tests.archives import encoded, photograph

HEIGHT, WIDTH = 40, 60
EOI, SCAN = b"\xff\xd9", b"\xff\xda"
IMAGE = photograph(3, HEIGHT, WIDTH)


def resized_header(jpeg, width, height):
    """A JPEG whose header claims another size."""
    at = re.search(rb"\xff[\xc0-\xc2]\x00", jpeg).start() + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4:]


def without_last_scan(jpeg):
    """With an end: libjpeg decodes it without a warning."""
    return jpeg[:jpeg.rindex(SCAN)] + EOI


def scan_for_each_component(rgb, sampling=(1, 1, 1)):
    """A JPEG of one scan after the other, from grey ones: `sampling` is how often each component is, from left to
    right."""
    planes = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    scans = []
    for number, (plane, often) in enumerate(zip((planes[0], planes[2], planes[1]), sampling), 1):
        plane = cv2.resize(plane, (-(-rgb.shape[1] * often // max(sampling)), rgb.shape[0]))
        grey = cv2.imencode(".jpg", plane)[1].tobytes()
        data = grey.index(SCAN) + 10
        scans.append(SCAN + bytes((0, 8, 1, number, 0, 0, 63, 0)) + grey[data:-2])
    frame = grey.index(b"\xff\xc0")
    tables = grey[frame + 13:data - 10]  # after the frame of one component
    components = b"".join(bytes((number, often << 4 | 1, 0)) for number, often in enumerate(sampling, 1))
    sizes = struct.pack(">HBHHB", 17, 8, *rgb.shape[:2], 3)
    return grey[:frame] + b"\xff\xc0" + sizes + components + tables + b"".join(scans) + EOI


def chunk(kind, data, claimed=None):
    return struct.pack(">I", len(data) if claimed is None else claimed) + kind + data + struct.pack(
        ">I", zlib.crc32(kind + data))


def png(pixels, width, height, depth=8, colours=2, before=(), compressed=zlib.compress):
    """`pixels`: each row with its filter. `before`: chunks that come before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(before) + chunk(b"IDAT", compressed(pixels))
            + chunk(b"IEND", b""))


def webp(claimed=None, **options):
    """An animation, whose canvas has the size `claimed`."""
    content = encoded(IMAGE, "WEBP", save_all=True, append_images=[Image.fromarray(255 - IMAGE)], **options)
    if claimed:
        canvas = b"".join((side - 1).to_bytes(3, "little") for side in claimed)
        content = content[:24] + canvas + content[30:]
    return content


def images():
    """{name: (content, None, or of what is refused a part of the reason)}; those of pixels are HEIGHT x WIDTH."""
    usual, progressive = encoded(IMAGE), encoded(IMAGE, progressive=True)
    odd = scan_for_each_component(IMAGE, (3, 1, 1))
    rows = b"".join(b"\0" + row.tobytes() for row in IMAGE)
    half = len(usual) // 2
    scan = progressive.index(SCAN)
    first_scan = progressive[scan:progressive.index(b"\xff\xc4", scan)]
    profile = chunk(b"iCCP", b"name\0\0x")[:-4] + b"\0\0\0\0"
    gif = encoded(IMAGE, "GIF")
    damaged, too_large = "damaged or truncated image", "pixels.*, more than 89478485: set MOBILENETV2_MAX_PIXELS"
    return {
        "usual.jpg": (usual, None),
        "grey.jpg": (encoded(IMAGE, mode="L"), None),
        "cmyk.jpg": (encoded(IMAGE, mode="CMYK"), None),
        "progressive.jpg": (progressive, None),
        "scan-for-each-component.jpg": (scan_for_each_component(IMAGE), None),
        "odd-sampling.jpg": (odd, None),
        "without-eoi.jpg": (usual[:-2], None),
        "progressive-without-eoi.jpg": (progressive[:-2], None),
        "half-an-eoi.jpg": (usual[:-1], None),
        "garbage-behind.jpg": (usual + b"garbage", None),
        "jfif-0.jpg": (usual.replace(b"JFIF\0\1", b"JFIF\0\0"), None),
        "half.jpg": (usual[:half], r"damaged or truncated image \(Corrupt JPEG data: premature end"),
        "half-then-eoi.jpg": (usual[:half] + EOI, damaged),
        "second-half-zeros.jpg": (usual[:half] + bytes(len(usual) - half - 2) + EOI, damaged),
        "zeros-before-eoi.jpg": (usual[:-2] + bytes(40) + EOI, damaged),
        "header-alone.jpg": (usual[:300], damaged),
        "progressive-without-last-scan.jpg": (without_last_scan(progressive), "scans are missing"),
        "progressive-cut-between-scans.jpg": (without_last_scan(progressive)[:-2], "scans are missing"),
        "first-scan-alone.jpg": (progressive[:scan] + first_scan + EOI, "scans are missing"),
        "without-last-component.jpg": (without_last_scan(scan_for_each_component(IMAGE)), "scans are missing"),
        "odd-sampling-cut.jpg": (odd[:-40], r"damaged or truncated image \(image file is truncated"),
        "odd-sampling-without-last-component.jpg": (without_last_scan(odd), "scans are missing"),
        "many-scans.jpg": (progressive[:scan] + first_scan * 600 + progressive[scan:], "a JPEG of 6.. scans"),
        "without-scans.jpg": (progressive[:scan] + EOI, "header is not complete"),
        "claims-much-progressive.jpg": (resized_header(without_last_scan(progressive), 13300, 13300), too_large),
        "claims-most-usual.jpg": (resized_header(usual, 65500, 65500), too_large),
        "usual.png": (encoded(IMAGE, "PNG"), None),
        "bad-profile.png": (png(rows, WIDTH, HEIGHT, before=(profile,)), None),
        "without-iend.png": (png(rows, WIDTH, HEIGHT)[:-12], None),
        "half.png": (png(rows[:len(rows) // 2], WIDTH, HEIGHT), "pixels are missing"),
        "cut.png": (png(rows, WIDTH, HEIGHT)[:200], "a chunk would end behind it"),
        "flipped.png": (png(rows, WIDTH, HEIGHT, compressed=lambda data: zlib.compress(data)[:-1] + b"\0"), damaged),
        "chunk-claims-2gb.png": (png(rows, WIDTH, HEIGHT, before=(chunk(b"IDAT", b"", 2 ** 31 - 1),)),
                                 "a chunk would end behind it"),
        "claims-much.png": (png(rows, 20_000, 20_000), too_large),
        "usual.webp": (encoded(IMAGE, "WEBP"), None),
        "lossless.webp": (encoded(IMAGE, "WEBP", lossless=True), None),
        "animated.webp": (webp(), None),
        "cut.webp": (encoded(IMAGE, "WEBP")[:-40], damaged),
        "animated-canvas.webp": (webp((60, 2_097_192)), too_large),
        "usual.gif": (gif, None),
        "claims-much.gif": (gif[:6] + struct.pack("<HH", 60_000, 60_000) + gif[10:], too_large),
        "usual.bmp": (encoded(IMAGE, "BMP"), None),
        "usual.tif": (encoded(IMAGE, "TIFF"), None),
        "usual.jp2": (encoded(IMAGE, "JPEG2000"), None),
        "usual.ppm": (encoded(IMAGE, "PPM"), None),
        "cut.bmp": (encoded(IMAGE, "BMP")[:-400], damaged),
        "apple.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC is not read; convert it to JPEG"),
        "some.avif": (b"\0\0\0\x18ftypavif" + bytes(40), "AVIF is not read; convert it to JPEG"),
        "fav.ico": (encoded(IMAGE, "ICO"), "ICO is not read; convert it to JPEG"),
        "text.jpg": (b"404 not found\n", "not an image"),
        "empty.jpg": (b"", "empty file"),
    }

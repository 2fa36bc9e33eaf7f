"""Parts of JPEGs, against the whole images."""
import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from common.base.errors import ImageError
from common.data import jpeg_box
from common.data.jpeg_box import open_image
from common.images.decoding import decode
from tests.archives import ycck


def picture(height=97, width=131, seed=0):
    noise = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 1.5))


def encoded(image, kind):
    if kind in ("444", "422", "420", "440", "411"):
        return simplejpeg.encode_jpeg(image, 90, "BGR", kind)
    if kind == "grey":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image[..., :1]), 90, "GRAY")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", progressive=True, quality=90)
    return file.getvalue()


@pytest.fixture(params=["library", "without"])
def library(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(jpeg_box, "library", lambda: None)
    elif jpeg_box.library() is None:
        pytest.skip("native/jpeg_box.cc is not built: libjpeg-turbo's header is missing")
    return request.param


@pytest.mark.parametrize("kind", ["444", "422", "420", "440", "411", "grey", "progressive"])
def test_a_part_is_that_of_the_whole_image_to_the_bit(library, kind):
    rng = np.random.RandomState(1)
    for height, width in ((97, 131), (64, 64), (9, 200), (1, 1)):
        content = encoded(picture(height, width), kind)
        whole = simplejpeg.decode_jpeg(content, "BGR")
        image = open_image(content)
        assert (image.height, image.width) == (height, width)
        for _ in range(60):
            rows, columns = rng.randint(1, height + 1), rng.randint(1, width + 1)
            top, left = rng.randint(height - rows + 1), rng.randint(width - columns + 1)
            assert (image.box(top, left, rows, columns) == whole[top:top + rows, left:left + columns]).all()


def test_what_is_no_usual_jpeg_is_decoded_by_opencv(library):
    for content in (cv2.imencode(".png", picture())[1].tobytes(), ycck(picture())):
        image = open_image(content)
        whole = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        assert (image.box(5, 6, 30, 20) == whole[5:35, 6:26]).all()
        assert (image.height, image.width) == (97, 131)


def test_what_a_rectangle_shows_is_whole(library):
    """Without the library the whole image is; with it a progressive one, of which all is read."""
    content = encoded(picture(), "420")
    half = content[:len(content) // 2] + b"\xff\xd9"
    box = open_image(half).box
    with pytest.raises(ImageError, match="damaged or truncated image"):
        box(60, 6, 37, 20)
    if library == "library":
        assert (box(0, 6, 20, 20) == decode(content, upright=False)[:20, 6:26]).all()
    else:
        with pytest.raises(ImageError, match="damaged or truncated image"):
            box(0, 6, 20, 20)
    progressive = encoded(picture(), "progressive")
    box = open_image(progressive[:progressive.rindex(b"\xff\xda")] + b"\xff\xd9").box
    with pytest.raises(ImageError, match="scans are missing"):
        box(0, 6, 20, 20)
    box = open_image(content[:-2]).box
    assert (box(60, 6, 37, 20) == decode(content, upright=False)[60:, 6:26]).all()


def test_what_is_not_an_image(library):
    for content in (b"", b"x" * 100, b"\xff\xd8"):
        with pytest.raises(ImageError):
            open_image(content)


def test_a_rectangle_that_is_not_in_the_image_is_refused():
    if (native := jpeg_box.library()) is None:
        pytest.skip("not built")
    content, pixels = encoded(picture(), "420"), np.zeros((200, 200, 3), np.uint8)
    for rectangle in ((0, 0, 98, 10), (0, 0, 10, 132), (97, 0, 1, 1), (2**32 - 1, 0, 2, 1), (0, 0, 0, 1)):
        assert native.decode_box(content, len(content), *rectangle, pixels.ctypes.data)
    assert not pixels.any()


def test_a_library_that_cannot_be_loaded_is_done_without_and_told_of(tmp_path, caplog):
    (tmp_path / "x.so").write_text("no library")
    assert jpeg_box.library(tmp_path / "x.so") is None and "x.so cannot be loaded: " in caplog.text
    assert jpeg_box.library(tmp_path / "none.so") is None and "none.so is not built: make setup" in caplog.text
    assert len(caplog.messages) == 2 and not any("\n" in message for message in caplog.messages)

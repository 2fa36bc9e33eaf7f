"""Scale and colours of training images by native/pixels.cc, against OpenCV and NumPy."""
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from common.data import pixels
from common.data.pixels import change_hls, normalise, warp

CHANGES = [(400, 0, 0), (-400, 300, -300), (7, -9, 255), (0, 0, 0), (180, -255, 11), (-36, 50, -50)]
OTHER_ROUNDING = """
import cv2
from common.data import pixels
assert "AVX2?" in cv2.getCPUFeaturesLine()
assert pixels.library() is None
"""


@pytest.fixture(params=["library", "without"])
def library(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(pixels, "library", lambda: None)
    elif pixels.library() is None:
        pytest.skip("native/pixels.cc is not built")


def test_images_are_scaled_as_by_opencv_to_the_bit(library):
    """From smaller and larger ones, of which a part is seen, or nothing."""
    rng = np.random.default_rng(0)
    for number in range(500):
        (rows, columns), (height, width) = rng.integers(1, 60, 2), rng.integers(1, 80, 2).tolist()
        pixels = rng.integers(0, 256, (rows, columns + 3, 3)).astype(np.uint8)[:, 1:columns + 1]
        scales, moved = rng.uniform(0.3, 3, 2), rng.uniform(-90, 90, 2)
        if number % 3 == 0:
            moved = moved.round()  # what is seen may then lie in the middle between two places
        if number % 5 == 0:
            scales = np.ones(2)
        matrix = np.array([[scales[0], 0, moved[0]], [-0.0, scales[1], moved[1]]])
        expected = cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR,
                                  borderMode=cv2.BORDER_CONSTANT, borderValue=(99, 99, 99))
        np.testing.assert_array_equal(warp(pixels, matrix, height, width, 99), expected)


def changed(crop, change):
    hls = cv2.cvtColor(crop, cv2.COLOR_BGR2HLS).astype(np.int16) + np.array(change, np.int16)
    return cv2.cvtColor(np.clip(hls, 0, (180, 255, 255)).astype(np.uint8), cv2.COLOR_HLS2BGR)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("width", [48, 50, 224])  # 50 is none that OpenCV computes in vectors alone
def test_hue_lightness_and_saturation_stop_at_their_ends(library, change, width):
    crop = np.random.RandomState(0).randint(0, 256, (31, width, 3)).astype(np.uint8)
    expected = changed(crop, change)
    change_hls(crop, *change)
    assert (crop == expected).all()


@pytest.mark.parametrize("change", [(0, 0, 0), (11, -23, 42)])
def test_all_colours_change_as_by_opencv_to_the_bit(change):
    if pixels.library() is None:
        pytest.skip("native/pixels.cc is not built")
    green, red = np.indices((256, 256), np.uint8)
    for blue in range(256):
        colours = np.dstack([np.full_like(green, blue), green, red])
        expected = changed(colours, change)
        change_hls(colours, *change)
        assert (colours == expected).all(), blue


@pytest.mark.parametrize(("mean", "std"), [((123.68, 116.78, 103.94), (1, 1, 1)), ((0, 12.5, 255), (58.395, 1, 0.25))])
@pytest.mark.parametrize("shape", [(32, 64), (31, 53), (1, 7)])
def test_pixels_are_normalised_as_by_numpy_to_the_bit(library, shape, mean, std):
    crop = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    data = np.full((3, *shape), np.nan, np.float32)
    normalise(crop, mean, std, data)
    expected = (crop[..., ::-1] - np.array(mean, np.float32)) / np.array(std, np.float32)
    assert expected.dtype == np.float32 and (data == expected.transpose(2, 0, 1)).all()


@pytest.mark.skipif("*AVX2 " not in cv2.getCPUFeaturesLine() + " ", reason="OpenCV rounds products on this processor")
def test_a_library_that_rounds_otherwise_than_opencv_is_done_without_and_told_of():
    """OpenCV without AVX2 rounds products before it adds to them."""
    done = subprocess.run([sys.executable, "-c", OTHER_ROUNDING], capture_output=True, text=True, check=True,
                          env={**os.environ, "OPENCV_CPU_DISABLE": "AVX2,AVX512-SKX"})
    assert "libpixels.so" in done.stderr


def test_a_library_that_cannot_be_loaded_is_done_without_and_told_of(tmp_path, caplog):
    (tmp_path / "x.so").write_text("no library")
    assert pixels.library(tmp_path / "x.so") is None and "x.so cannot be loaded: " in caplog.text
    assert pixels.library(tmp_path / "none.so") is None and "none.so is not built: make setup" in caplog.text
    assert len(caplog.messages) == 2 and not any("\n" in message for message in caplog.messages)

"""TrivialAugment (Mueller and Hutter, 2021) and RandAugment (Cubuk et al., 2020), with the operations and magnitudes of
torchvision's TrivialAugmentWide and RandAugment. An operation computes what Pillow's does, which torchvision calls.

Images are uint8 (height, width, 3), BGR, contiguous; none is changed in place.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from common.data.draws import Draw, whole

STRENGTHS = 31  # steps from the weakest magnitude to the strongest
DRAWS = 3  # random numbers that one operation needs at most
LEVELS = np.arange(256)
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's ImageFilter.SMOOTH
TRUNCATED = -0.4999  # makes of OpenCV's rounding Pillow's truncation, but for what is just below a whole number


class Operation(NamedTuple):
    """`apply(image, magnitude, fill)`; `fill`: the grey level of what comes in from outside. `wide` and `rand`: the
    weakest and the strongest magnitude of TrivialAugment and of RandAugment, the latter's times the length of the
    image's axis `of_axis`, if that is given. `signed`: half of the magnitudes are negative."""
    apply: Callable[[np.ndarray, float, int], np.ndarray]
    wide: tuple[float, float] = (0, 0)
    rand: tuple[float, float] = (0, 0)
    signed: bool = False
    of_axis: int | None = None


def shear_x(image: np.ndarray, magnitude: float, fill: int) -> np.ndarray:
    return _affine(image, ((1, magnitude, 0), (0, 1, 0)), fill)


def shear_y(image: np.ndarray, magnitude: float, fill: int) -> np.ndarray:
    return _affine(image, ((1, 0, 0), (magnitude, 1, 0)), fill)


def translate_x(image: np.ndarray, pixels: float, fill: int) -> np.ndarray:
    return _shifted(image, int(pixels), 1, fill)


def translate_y(image: np.ndarray, pixels: float, fill: int) -> np.ndarray:
    return _shifted(image, int(pixels), 0, fill)


def rotate(image: np.ndarray, degrees: float, fill: int) -> np.ndarray:
    """Counter-clockwise about the centre."""
    x, y = image.shape[1] / 2, image.shape[0] / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _affine(image, ((cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y)), fill)


def brightness(image: np.ndarray, change: float, _: int) -> np.ndarray:
    return cv2.LUT(image, _blended(0, change))


def contrast(image: np.ndarray, change: float, _: int) -> np.ndarray:
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[0] + 0.5)
    return cv2.LUT(image, _blended(mean, change))


def color(image: np.ndarray, change: float, _: int) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(image, 1 + change, grey, -change, TRUNCATED)


def sharpness(image: np.ndarray, change: float, _: int) -> np.ndarray:
    smooth = cv2.filter2D(image, -1, SMOOTH)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):  # which Pillow does not smooth
        smooth[edge] = image[edge]
    return cv2.addWeighted(image, 1 + change, smooth, -change, TRUNCATED)


def posterize(image: np.ndarray, bits: float, _: int) -> np.ndarray:
    return image & np.uint8(256 - 2 ** (8 - round(bits)))


def solarize(image: np.ndarray, threshold: float, _: int) -> np.ndarray:
    inverted = (image >= math.ceil(threshold)).view(np.uint8)
    return image ^ -inverted  # 255 - x is x ^ 255


def auto_contrast(image: np.ndarray, *_: float) -> np.ndarray:
    return _each_channel(image, _stretched)


def equalize(image: np.ndarray, *_: float) -> np.ndarray:
    return _each_channel(image, _equalized)


OPERATIONS = {
    "Identity": Operation(lambda image, *_: image),
    "ShearX": Operation(shear_x, (0, 0.99), (0, 0.3), signed=True),
    "ShearY": Operation(shear_y, (0, 0.99), (0, 0.3), signed=True),
    "TranslateX": Operation(translate_x, (0, 32), (0, 150 / 331), signed=True, of_axis=1),
    "TranslateY": Operation(translate_y, (0, 32), (0, 150 / 331), signed=True, of_axis=0),
    "Rotate": Operation(rotate, (0, 135), (0, 30), signed=True),
    "Brightness": Operation(brightness, (0, 0.99), (0, 0.9), signed=True),
    "Color": Operation(color, (0, 0.99), (0, 0.9), signed=True),
    "Contrast": Operation(contrast, (0, 0.99), (0, 0.9), signed=True),
    "Sharpness": Operation(sharpness, (0, 0.99), (0, 0.9), signed=True),
    "Posterize": Operation(posterize, (8, 2), (8, 4)),
    "Solarize": Operation(solarize, (255, 0), (255, 0)),
    "AutoContrast": Operation(auto_contrast),
    "Equalize": Operation(equalize),
}


def trivial_augment_wide(image: np.ndarray, fill: int, draw: Draw) -> np.ndarray:
    """`image` after one operation of any strength."""
    operation = _drawn(draw)
    return _applied(operation, image, operation.wide, whole(0, STRENGTHS - 1, draw), fill, draw)


def rand_augment(image: np.ndarray, magnitude: int, num_ops: int, fill: int, draw: Draw) -> np.ndarray:
    """`image` after `num_ops` operations, one after the other, of the strength `magnitude`, from 0 to 30."""
    for _ in range(num_ops):
        operation = _drawn(draw)
        length = 1 if operation.of_axis is None else image.shape[operation.of_axis]
        weakest, strongest = operation.rand
        image = _applied(operation, image, (weakest * length, strongest * length), magnitude, fill, draw)
    return image


def _drawn(draw):
    return tuple(OPERATIONS.values())[whole(0, len(OPERATIONS) - 1, draw)]


def _applied(operation, image, magnitudes, strength, fill, draw):
    weakest, strongest = magnitudes
    magnitude = weakest + (strongest - weakest) * strength / (STRENGTHS - 1)
    if operation.signed and draw() < 0.5:
        magnitude = -magnitude
    return operation.apply(image, magnitude, fill)


def _affine(image, matrix, fill):
    """What is at (x, y) comes from `matrix` (x, y, 1). Pillow measures from the corner of the first pixel, OpenCV from
    its centre."""
    moved = [(x, y, offset + (x + y - 1) / 2) for x, y, offset in matrix]
    return cv2.warpAffine(image, np.array(moved), image.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=(fill,) * 3)


def _shifted(image, pixels, axis, fill):
    shifted = np.full_like(image, fill)
    if (left := image.shape[axis] - abs(pixels)) > 0:
        source, place = image.swapaxes(0, axis)[max(-pixels, 0):], shifted.swapaxes(0, axis)[max(pixels, 0):]
        place[:left] = source[:left]
    return shifted


def _blended(level, change):
    """What each level becomes as it goes away from `level`, or towards it; in float32, as Pillow computes it."""
    blended = level + np.float32(1 + change) * (LEVELS - level).astype(np.float32)
    return np.clip(blended, 0, 255).astype(np.uint8)


def _each_channel(image, levels_of):
    """Each channel by a table of its own, `levels_of(histogram)`."""
    histograms = [cv2.calcHist([plane], [0], None, [256], [0, 256])[:, 0].astype(int) for plane in cv2.split(image)]
    tables = np.clip([levels_of(histogram) for histogram in histograms], 0, 255)
    return cv2.LUT(image, tables.T.astype(np.uint8)[np.newaxis])


def _stretched(histogram):
    """Darkest to 0, lightest to 255."""
    present = np.flatnonzero(histogram)
    darkest, lightest = present[0], present[-1]
    if darkest == lightest:
        return LEVELS
    scale = 255 / (lightest - darkest)
    return LEVELS * scale + -darkest * scale


def _equalized(histogram):
    """Such that all levels come about as often, by Pillow's whole numbers."""
    present = np.flatnonzero(histogram)
    step = (histogram.sum() - histogram[present[-1]]) // 255
    return (step // 2 + np.cumsum(histogram) - histogram) // step if step else LEVELS

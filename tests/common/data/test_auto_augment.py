"""TrivialAugment and RandAugment against Pillow, whose operations torchvision calls, at torchvision's magnitudes."""
import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from common.data.auto_augment import OPERATIONS, rand_augment, trivial_augment_wide

HEIGHT, WIDTH, FILL = 90, 118, 127
STRENGTHS = (7, 22, 30)


def affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR,
                                         fillcolor=(FILL,) * 3)


def enhanced(kind):
    return lambda change: lambda image: kind(image).enhance(1 + change)


PILLOW = {
    "Identity": lambda _: lambda image: image,
    "ShearX": lambda m: affine(1, m, 0, 0, 1, 0),
    "ShearY": lambda m: affine(1, 0, 0, m, 1, 0),
    "TranslateX": lambda m: affine(1, 0, -int(m), 0, 1, 0),
    "TranslateY": lambda m: affine(1, 0, 0, 0, 1, -int(m)),
    "Rotate": lambda m: lambda image: image.rotate(m, Image.Resampling.BILINEAR, fillcolor=(FILL,) * 3),
    "Brightness": enhanced(ImageEnhance.Brightness),
    "Color": enhanced(ImageEnhance.Color),
    "Contrast": enhanced(ImageEnhance.Contrast),
    "Sharpness": enhanced(ImageEnhance.Sharpness),
    "Posterize": lambda m: lambda image: ImageOps.posterize(image, int(m)),
    "Solarize": lambda m: lambda image: ImageOps.solarize(image, m),
    "AutoContrast": lambda _: ImageOps.autocontrast,
    "Equalize": lambda _: ImageOps.equalize,
}
# of STRENGTHS, of TrivialAugmentWide and RandAugment in torchvision 0.28, for images of 90x118
COLOUR = (0.231, 0.726, 0.99), (0.21, 0.66, 0.9)
MAGNITUDES = {
    "ShearX": ((0.231, 0.726, 0.99), (0.07, 0.22, 0.3)), "ShearY": ((0.231, 0.726, 0.99), (0.07, 0.22, 0.3)),
    "TranslateX": ((7.4667, 23.4667, 32), (12.4773, 39.2145, 53.4743)),
    "TranslateY": ((7.4667, 23.4667, 32), (9.5166, 29.9094, 40.7855)),
    "Rotate": ((31.5, 99, 135), (7, 22, 30)), "Brightness": COLOUR, "Color": COLOUR, "Contrast": COLOUR,
    "Sharpness": COLOUR, "Posterize": ((7, 4, 2), (7, 5, 4)), "Solarize": ((195.5, 68, 0), (195.5, 68, 0)),
}
SIGNED = {*MAGNITUDES} - {"Posterize", "Solarize"}
INTERPOLATED = {"ShearX", "ShearY", "Rotate"}


def photograph(seed):
    """Smooth colours, not of all levels; uint8, RGB."""
    noise = np.random.RandomState(seed).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 9, 240, cv2.NORM_MINMAX).astype(np.uint8)


IMAGES = {
    "smooth": photograph(0), "noise": np.random.RandomState(1).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8),
    "one colour": np.full((HEIGHT, WIDTH, 3), (3, 200, 77), np.uint8), "dark": photograph(2) // 9,
    "two levels": np.where(photograph(3) > 130, 255, 100).astype(np.uint8),
}


def augmented(policy, image, name, strength, negative):
    """By the numbers with which the policy draws this operation."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    operation, sign = (list(OPERATIONS).index(name) + 0.5) / len(OPERATIONS), 0.2 if negative else 0.8
    if policy == "ta_wide":
        result = trivial_augment_wide(bgr, FILL, iter([operation, (strength + 0.5) / 31, sign]).__next__)
    else:
        result = rand_augment(bgr, strength, 1, FILL, iter([operation, sign]).__next__)
    assert (bgr[..., ::-1] == image).all() and result.flags["C_CONTIGUOUS"]
    return result[..., ::-1].astype(int)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_pillows_at_the_magnitudes_of_torchvision(name, kind):
    """To the bit, but for Color, whose grey OpenCV rounds otherwise, and for what is interpolated, where Pillow
    truncates and OpenCV takes places in steps of 1 / 32."""
    image = IMAGES[kind]
    for number, policy in enumerate(("ta_wide", "ra")):
        for strength, magnitude in zip(STRENGTHS, MAGNITUDES.get(name, ((0,) * 3,) * 2)[number]):
            for negative in (False, True):
                signed = -magnitude if negative and name in SIGNED else magnitude
                theirs = np.asarray(PILLOW[name](signed)(Image.fromarray(image))).astype(int)
                off = np.abs(augmented(policy, image, name, strength, negative) - theirs)
                if name in INTERPOLATED:
                    inside = np.asarray(PILLOW[name](signed)(Image.new("RGB", (WIDTH, HEIGHT), (255,) * 3)))[..., 0]
                    inside = cv2.erode((inside == 255).astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
                    assert off[inside].mean() < (1.1 if kind == "noise" else 0.7)
                    assert off[inside].max() <= {"smooth": 2, "dark": 2, "one colour": 0}.get(kind, 8)
                elif name == "Color":
                    assert off.max() <= 1 and off.mean() < 0.02
                else:
                    assert not off.any()


def test_rand_augment_applies_one_operation_after_the_other():
    image = np.ascontiguousarray(photograph(5)[..., ::-1])
    solarize = (list(OPERATIONS).index("Solarize") + 0.5) / len(OPERATIONS)  # which at strength 30 inverts
    assert (rand_augment(image, 30, 1, FILL, lambda: solarize) == 255 - image).all()
    assert (rand_augment(image, 30, 2, FILL, lambda: solarize) == image).all()

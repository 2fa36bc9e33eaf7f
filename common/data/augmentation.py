"""Random crops of training images, as ImageRecordIter makes them (MXNet 1.9.1, src/io/image_aug_default.cc), of which
only the pixels that the crop shows are computed, from those that are stored.

What is drawn has the distribution of ImageRecordIter's, with the names of its options; the numbers drawn are others.
"""
import math
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np

from common.base.errors import InputError
from common.data import auto_augment, random_erasing
from common.data.draws import Draw, between, towards_the_middle, whole
from common.data.jpeg_box import EncodedImage
from common.data.pixels import change_hls, warp
from common.images.preprocess import size_for_shorter_side

DRAWS = 64  # random numbers that one image needs at most, with ImageRecordIter's options
ATTEMPTS = 10  # to place a crop of random area
AROUND = 3  # pixels around those that a crop shows, which interpolation may look at
# ImageNet's principal components, in RGB, each times its standard deviation (Krizhevsky et al., 2012)
COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]) * (
    55.46, 4.794, 1.148)


@dataclass(frozen=True)
class Augmentation:
    """Crops of `height` x `width` pixels; the rest are options of ImageRecordIter, with its defaults, but for the last
    four, which it lacks."""
    height: int
    width: int
    pad: int = 0
    fill_value: int = 255
    resize: int = -1
    rand_crop: int = 0
    rand_mirror: int = 0
    min_random_scale: float = 1.0
    max_random_scale: float = 1.0
    random_h: float = 0
    random_s: float = 0
    random_l: float = 0
    min_aspect_ratio: float | None = None
    max_aspect_ratio: float = 0.0
    max_rotate_angle: float = 0
    max_shear_ratio: float = 0.0
    random_resized_crop: int = 0
    min_random_area: float = 1.0
    max_random_area: float = 1.0
    min_crop_size: int = -1
    max_crop_size: int = -1
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    pca_noise: float = 0.0
    auto_augment: str = "none"
    ra_magnitude: int = 9
    ra_num_ops: int = 2
    random_erase: float = 0.0

    def check(self) -> None:
        """Raise InputError for options that do not go together, as MXNet does, image by image."""
        if (self.min_crop_size, self.max_crop_size) != (-1, -1) and not 0 < self.min_crop_size <= self.max_crop_size:
            raise InputError(f"--min-crop-size {self.min_crop_size} and --max-crop-size {self.max_crop_size}: give "
                             "both, the smaller one first")
        if not 0 < self.min_random_scale <= self.max_random_scale:
            raise InputError(f"--min-random-scale {self.min_random_scale:g} and --max-random-scale "
                             f"{self.max_random_scale:g}: give scales above 0, the smaller one first")
        if self.pad >= min(self.height, self.width):
            raise InputError(f"--pad-size {self.pad}: a crop of {self.height}x{self.width} could be of nothing else; "
                             "give less")
        least, most = self._aspect_ratios()
        if not 0 < least <= most:
            raise InputError(f"the aspect ratios go from {least:g} to {most:g}; give --min-random-aspect-ratio, above "
                             "0 and not above --max-random-aspect-ratio")
        if self.random_resized_crop and not 0 < self.min_random_area <= self.max_random_area:
            raise InputError(f"--min-random-area {self.min_random_area:g} and --max-random-area "
                             f"{self.max_random_area:g}: give areas above 0, the smaller one first")

    def __call__(self, image: EncodedImage, draw: Draw) -> np.ndarray:
        """A crop, uint8 (height, width, 3), BGR, contiguous, of `image`. Raises ImageError for an image that cannot be
        decoded, InputError, without its name, for one that is too small for the options.
        """
        stored = height, width = image.height, image.width
        if self.resize != -1:
            width, height = size_for_shorter_side(height, width, self.resize)
        matrix, rows, columns = self._affine(height, width, draw)
        resized = (height, width) != stored
        if resized:
            matrix = _from_stored(matrix, width / stored[1], height / stored[0])
        if not rows or not columns:
            raise InputError(f"of {width}x{height} pixels has none left when it is scaled; give a larger "
                             "--min-random-scale")
        top, left, cut_rows, cut_columns = self._cut(rows + 2 * self.pad, columns + 2 * self.pad, draw)
        crop = self._pixels(image, matrix, (rows, columns), (top - self.pad, left - self.pad, cut_rows, cut_columns),
                            resized)
        if self._resizes() and crop.shape[:2] != (self.height, self.width):
            crop = cv2.resize(crop, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        elif crop.shape[:2] != (self.height, self.width):
            crop = self._enlarged(crop, draw)
        crop = self._with_other_colours(crop, draw)
        if self.rand_mirror and draw() < 0.5:
            crop = cv2.flip(crop, 1)
        if self.auto_augment == "ta_wide":
            return auto_augment.trivial_augment_wide(crop, self.fill_value, draw)
        if self.auto_augment == "ra":
            return auto_augment.rand_augment(crop, self.ra_magnitude, self.ra_num_ops, self.fill_value, draw)
        return crop

    @property
    def more_draws(self) -> int:
        """Random numbers that one image needs at most beyond DRAWS."""
        operations = {"none": 0, "ta_wide": 1, "ra": self.ra_num_ops}[self.auto_augment]
        return operations * auto_augment.DRAWS + (random_erasing.DRAWS if self.random_erase else 0)

    def _aspect_ratios(self):
        if self.min_aspect_ratio is None:
            return 1 - self.max_aspect_ratio, 1 + self.max_aspect_ratio
        return self.min_aspect_ratio, self.max_aspect_ratio

    def _affine(self, height, width, draw):
        """(matrix, rows, columns): of the image that is scaled, turned and sheared about its centre."""
        shear = between(-self.max_shear_ratio, self.max_shear_ratio, draw)
        angle = math.radians(whole(-int(self.max_rotate_angle), int(self.max_rotate_angle), draw))
        scale = ratio = 1.0
        if not self.random_resized_crop:
            scale = between(self.min_random_scale, self.max_random_scale, draw)
            ratio = between(*self._aspect_ratios(), draw)
        across = 2 * scale / (1 + ratio)
        down = ratio * across
        cosine, sine = math.cos(angle), math.sin(angle)
        to_x = across * cosine - shear * sine * down, across * sine + shear * cosine * down
        to_y = -sine * down, cosine * down
        new_width, new_height = scale * width, scale * height
        matrix = [[*row, (new - row[0] * width - row[1] * height) / 2] for row, new in
                  ((to_x, new_width), (to_y, new_height))]
        return np.array(matrix, np.float32).tolist(), int(new_height), int(new_width)

    def _resizes(self):
        return self.random_resized_crop or self.max_crop_size > 0

    def _cut(self, rows, columns, draw):
        """(top, left, rows, columns) of the part of an image of that size which becomes the crop: as large as the crop,
        unless it is resized, or the image is too small, which is then enlarged."""
        least, most = self._aspect_ratios()
        if self.random_resized_crop and (self.min_random_area, self.max_random_area, least, most) != (1, 1, 1, 1):
            for _ in range(ATTEMPTS):
                area = rows * columns * between(self.min_random_area, self.max_random_area, draw)
                ratio = between(least, most, draw)
                high, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
                if draw() > 0.5:
                    high, wide = wide, high
                if 0 < high <= rows and 0 < wide <= columns:
                    return whole(0, rows - high, draw), whole(0, columns - wide, draw), high, wide
        elif self.max_crop_size > 0:
            if min(rows, columns) < self.max_crop_size:
                raise InputError(f"of {columns}x{rows} pixels when it is scaled, less than --max-crop-size "
                                 f"{self.max_crop_size}")
            side = whole(self.min_crop_size, self.max_crop_size, draw)
            return *self._place(rows - side, columns - side, draw), side, side
        if rows < self.height or columns < self.width:
            return 0, 0, rows, columns
        return *self._place(rows - self.height, columns - self.width, draw), self.height, self.width

    def _place(self, down, right, draw):
        """(top, left) of a crop that can be moved so far."""
        return (whole(0, down, draw), whole(0, right, draw)) if self.rand_crop else (down // 2, right // 2)

    def _pixels(self, image, matrix, size, cut, resized):
        """The part `cut` of the image that `matrix` makes of `image`, which has `size`; what is outside is filled."""
        top, left, rows, columns = cut
        (xx, xy, x0), (yx, yy, y0) = matrix
        x0, y0, determinant = x0 - left, y0 - top, xx * yy - xy * yx
        corners = [((yy * (x - x0) - xy * (y - y0)) / determinant, (xx * (y - y0) - yx * (x - x0)) / determinant)
                   for x in (0, columns - 1) for y in (0, rows - 1)]
        (x, right), (y, bottom) = (_seen(min(along), max(along), size) for along, size in
                                   zip(zip(*corners), (image.width, image.height)))
        pixels = image.box(y, x, bottom - y, right - x)
        if resized:  # what lies between the centre of a pixel at the edge and the edge has its colour
            pixels, x, y = cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_REPLICATE), x - 1, y - 1
        moved = np.array([[xx, xy, x0 + xx * x + xy * y], [yx, yy, y0 + yx * x + yy * y]])
        crop = warp(pixels, moved, rows, columns, self.fill_value)
        if self.pad:
            crop[:max(-top, 0)] = crop[max(size[0] - top, 0):] = self.fill_value
            crop[:, :max(-left, 0)] = crop[:, max(size[1] - left, 0):] = self.fill_value
        return crop

    def _enlarged(self, crop, draw):
        """A crop of an image that was too small, after the lower, then the narrower side is made as long as that of the
        crop; the image is distorted if both are."""
        if crop.shape[0] < self.height:
            crop = cv2.resize(crop, (self.height * crop.shape[1] // crop.shape[0], self.height))
        if crop.shape[1] < self.width:
            crop = cv2.resize(crop, (self.width, self.width * crop.shape[0] // crop.shape[1]))
        top, left = self._place(crop.shape[0] - self.height, crop.shape[1] - self.width, draw)
        return np.ascontiguousarray(crop[top:top + self.height, left:left + self.width])

    def _with_other_colours(self, crop, draw):
        if self.brightness or self.contrast or self.saturation:
            crop = self._jittered(crop, draw)
        if self.random_h or self.random_s or self.random_l:
            change_hls(crop, *(int(towards_the_middle(most, draw))
                               for most in (self.random_h, self.random_l, self.random_s)))
        if self.pca_noise:
            noise = COMPONENTS @ [NormalDist(0, self.pca_noise).inv_cdf(max(draw(), 1e-12)) for _ in range(3)]
            crop = np.clip(crop + noise[::-1], 0, 255).astype(np.uint8)
        return crop

    def _jittered(self, crop, draw):
        """Brightness, contrast and saturation in random order. As ImageRecordIter's, the grey that colours go towards
        takes blue for red."""
        changes = [(self.brightness, _brighter), (self.contrast, _contrasted), (self.saturation, _saturated)]
        while changes:
            most, change = changes.pop(whole(0, len(changes) - 1, draw))
            crop = change(crop, 1 + between(-most, most, draw))
        return crop


def _from_stored(matrix, across, down):
    """`matrix`, of an image that was resized by these factors, for the stored one; OpenCV's resize keeps the edges of
    an image where they are, not the centres of the pixels there."""
    return [[x * across, y * down, offset + x * (across - 1) / 2 + y * (down - 1) / 2] for x, y, offset in matrix]


def _seen(least, most, size):
    """Where the pixels begin and end, of `size` in a row, that lie between two places or around them; one at least."""
    begin = min(max(math.floor(least) - AROUND, 0), size - 1)
    return begin, min(max(math.ceil(most) + AROUND + 1, begin + 1), size)


def _brighter(crop, factor):
    return cv2.addWeighted(crop, factor, crop, 0, 0)


def _contrasted(crop, factor):
    return cv2.addWeighted(crop, factor, crop, 0, (1 - factor) * cv2.mean(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))[0])


def _saturated(crop, factor):
    grey = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(crop, factor, grey, 1 - factor, 0)

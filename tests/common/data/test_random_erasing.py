"""Random erasing has the distribution of torchvision's RandomErasing."""
import math
import random

import numpy as np
import pytest

from common.data.random_erasing import DRAWS, erase
from tests.samples import are_alike

SIDE = 200


def erased(probability, count, shape=(3, SIDE, SIDE)):
    """(top, left, rows, columns) of the rectangle in each of so many images, None without one."""
    draw = random.Random(0).random
    for _ in range(count):
        data = np.ones(shape, np.float32)
        erase(data, probability, draw)
        assert (data == data[:1]).all()
        rows, columns = (np.flatnonzero((data[0] == 0).any(axis)) for axis in (1, 0))
        if not len(rows):
            yield None
            continue
        box = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
        assert (data[0, box[0]:box[0] + box[2], box[1]:box[1] + box[3]] == 0).all()
        assert (data[0] == 0).sum() == box[2] * box[3]
        yield box


def test_area_ratio_and_place():
    """Area uniform from 0.02 to 0.33, the ratio's logarithm from log 0.3 to log 3.3, where both fit into the image; any
    place as likely."""
    top, left, rows, columns = np.array(list(erased(1, 3000))).T
    area, ratio = rows * columns / SIDE ** 2, np.log(rows / columns)
    uniform = np.random.RandomState(1).uniform
    assert are_alike(area[abs(ratio) < math.log(2)], uniform(0.02, 0.33, 3000))
    assert are_alike(ratio[area < 0.28], uniform(math.log(0.3), math.log(3.3), 3000))
    assert are_alike(top / (SIDE - rows), uniform(size=3000)) and are_alike(left / (SIDE - columns), uniform(size=3000))


@pytest.mark.parametrize("probability", [0, 0.25, 1])
def test_as_many_images_as_the_probability_says(probability):
    boxes = list(erased(probability, 2000, (1, 40, 30)))
    assert sum(box is not None for box in boxes) / 2000 == pytest.approx(probability, abs=0.04 * (0 < probability < 1))


def test_no_image_needs_more_numbers_than_are_drawn():
    numbers = iter([0.1] + [0.999] * (DRAWS - 1))  # a rectangle that is too high, ten times
    data = np.ones((3, 10, 10), np.float32)
    erase(data, 0.5, numbers.__next__)
    assert data.all() and len(list(numbers)) == 2  # for the place that one would have

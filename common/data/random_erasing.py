"""Random erasing (Zhong et al., 2020), with torchvision's RandomErasing's ranges and value."""
import math

import numpy as np

from common.data.draws import Draw, between, whole

AREA = 0.02, 0.33  # of the image's
LOG_RATIO = math.log(0.3), math.log(3.3)  # of height over width
ATTEMPTS = 10  # to draw a rectangle that fits
DRAWS = 1 + 2 * ATTEMPTS + 2  # random numbers that one image needs at most


def erase(data: np.ndarray, probability: float, draw: Draw) -> None:
    """With this probability set a rectangle of `data`, (channels, height, width), normalised, to 0 in place, which is
    the colour of the mean."""
    if draw() >= probability:
        return
    _, height, width = data.shape
    for _ in range(ATTEMPTS):
        area, ratio = height * width * between(*AREA, draw), math.exp(between(*LOG_RATIO, draw))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            top, left = whole(0, height - rows, draw), whole(0, width - columns, draw)
            data[:, top:top + rows, left:left + columns] = 0
            return

"""Random numbers of one image: each call of `draw` gives another one from 0 to 1, below 1."""
from collections.abc import Callable

Draw = Callable[[], float]


def between(least: float, most: float, draw: Draw) -> float:
    return least + (most - least) * draw()


def whole(least: int, most: int, draw: Draw) -> int:
    """A whole number, either end included."""
    return least + int((most - least + 1) * draw())


def towards_the_middle(most: float, draw: Draw) -> float:
    """From -most to most, less often near them."""
    return most * (2 * (draw() + 4 * draw()) / 5 - 1)

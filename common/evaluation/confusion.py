"""A picture of what a network confuses: how often which class is taken for which, and its most confident mistakes."""
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import cv2
import numpy as np
from matplotlib import get_data_path, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from common.base.errors import printable
from common.base.files import written_atomically

MOST_CLASSES, MOST_MISTAKES, KEPT_SIDE = 20, 24, 200  # that are drawn; pixels of an image that is kept
DPI, COLUMNS = 110, 8  # of images
WIDTH, LABEL, LARGEST_CELL, SIDE, GAP, CAPTION, MARGIN, TITLE = 10.9, 2.2, 0.5, 1.2, 0.12, 0.5, 0.2, 0.65  # inches
RIGHT, WRONG, FAINT = "#0072B2", "#D55E00", "#666666"  # the first two of Okabe and Ito
WORDNET_ID = re.compile(r"n\d{8}\s+")


class Mistake(NamedTuple):
    """In the order of its fields; no two are of one record, so that images (H, W, 3) are not compared."""
    probability: float
    minus_record: int  # of equals the first one is greater
    label: int
    answer: int
    image: np.ndarray


@contextmanager
def confusion_picture(path: str | Path, num_classes: int, names: Sequence[str] | None, mean: Sequence[float],
                      std: Sequence[float]) -> Iterator[Callable]:
    """An `on_batch` of `score` that counts answers and keeps the MOST_MISTAKES most confident mistakes; a PNG of both
    appears when this block ends in order. `mean` and `std` turn the network's input into RGB on 0..255 again. Raises as
    `common.evaluation.tables.predictions_table` does."""
    counts: Counter[tuple[int, int]] = Counter()
    mistakes: list[Mistake] = []

    def on_batch(records, labels, probabilities, data):
        answers = probabilities.argmax(axis=1)
        counts.update(zip(labels.tolist(), answers.tolist()))
        for i in np.flatnonzero(answers != labels):
            sure = float(probabilities[i, answers[i]]), -int(records[i])
            if len(mistakes) < MOST_MISTAKES or sure > mistakes[0][:2]:
                image = as_seen(data[i].asnumpy(), mean, std)
                heappush(mistakes, Mistake(*sure, int(labels[i]), int(answers[i]), image))
            if len(mistakes) > MOST_MISTAKES:
                heappop(mistakes)

    with written_atomically(path) as partial:
        Path(partial).touch()
        yield on_batch
        draw(counts, sorted(mistakes, reverse=True), num_classes, names).savefig(partial, format="png")


def as_seen(data: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """RGB uint8 (H, W, 3), made smaller if it is large, of a network's input (3, H, W)."""
    image: np.ndarray = data.transpose(1, 2, 0) * np.array(std, np.float32) + np.array(mean, np.float32)
    if (scale := KEPT_SIDE / max(data.shape)) < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.clip(image.round(), 0, 255).astype(np.uint8)


def confused(counts: Counter[tuple[int, int]], num_classes: int) -> list[int]:
    """The classes to show: all if they are few, else pairs of those that are most often taken for each other."""
    if num_classes <= MOST_CLASSES:
        return list(range(num_classes))
    pairs: Counter[tuple[int, ...]] = Counter()
    for pair, count in counts.items():
        pairs[tuple(sorted(pair))] += count if pair[0] != pair[1] else 0
    ordered = sorted(+pairs, key=lambda pair: (-pairs[pair], pair))
    return list(dict.fromkeys(number for pair in ordered for number in pair))[:MOST_CLASSES]


def table_of(counts: Counter[tuple[int, int]], shown: Sequence[int], num_classes: int) -> np.ndarray:
    """(classes shown, classes shown and, if there are others, one column of their answers), how many images each."""
    place = {number: i for i, number in enumerate(shown)}
    table = np.zeros((len(shown), len(shown) + (len(shown) < num_classes)), int)
    for label, answer in counts:
        if label in place:
            table[place[label], place.get(answer, -1)] += counts[label, answer]
    return table


class Labels:
    """Classes as text, in fonts that have its letters and no wider than there is room."""

    def __init__(self, figure: Figure, names: Sequence[str] | None, numbers: Iterable[int]) -> None:
        self._texts = {number: printable(normalize("NFC", WORDNET_ID.sub("", names[number] if names else "")))
                       for number in numbers}  # accents in one piece with their letters, as fonts have them
        families, self._missing = fonts_for("".join(self._texts.values()))
        self.font = FontProperties(family=families, size=7)
        self._renderer = FigureCanvasAgg(figure).get_renderer()

    def of(self, number: int) -> str:
        """Number and name; letters that no font has are escaped."""
        name = "".join(f"\\u{ord(letter):04x}" if letter in self._missing else letter for letter in self._texts[number])
        return f"{number} {name}".rstrip()

    def width(self, text: str) -> float:  # in inches
        return self._renderer.get_text_width_height_descent(text, self.font, False)[0] / DPI

    def fitted(self, text: str, inches: float) -> str:
        while self.width(text) > inches:
            text = text[:-2].rstrip("… ,") + "…"
        return text


def fonts_for(text: str) -> tuple[list[str], set[str]]:
    """(names of fonts that together have the letters of `text`: DejaVu Sans and, if need be, others that are installed;
    the letters that none has)."""
    def letters_of(family, bundled):
        try:
            font = get_font(file := findfont(family, fallback_to_default=False))
        except (OSError, RuntimeError, ValueError):  # a file that went away, or is no font
            return set()
        # of Matplotlib's own, those for formulas have symbols in the places of letters
        usable = font.scalable and (bundled or not Path(file).is_relative_to(get_data_path()))
        return {chr(code) for code in font.get_charmap()} if usable else set()

    chosen = ["DejaVu Sans"]
    if missing := set(text) - letters_of(chosen[0], bundled=True):
        families = sorted({font.name for font in fontManager.ttflist})
        has = {family: missing & letters_of(family, bundled=False) for family in families}
        while found := max(has.values(), key=lambda letters: len(letters & missing)) & missing:
            chosen.append(next(family for family in families if found <= has[family]))
            missing -= found
    return chosen, missing


def draw(counts: Counter[tuple[int, int]], mistakes: Sequence[Mistake], num_classes: int,
         names: Sequence[str] | None) -> Figure:
    """The table above, the mistakes below. Places are in inches from the lower left corner."""
    shown = confused(counts, num_classes)
    table = table_of(counts, shown, num_classes)
    right = sum(count for (label, answer), count in counts.items() if label == answer)
    with style.context(["default", {"text.parse_math": False}]):
        figure = Figure(dpi=DPI)
        labels = Labels(figure, names, {*shown, *(number for mistake in mistakes for number in mistake[2:4])})
        texts = [labels.fitted(labels.of(number), LABEL) for number in shown]
        beside = max(map(labels.width, texts), default=0) + MARGIN
        cell = min(LARGEST_CELL, (WIDTH - beside - 2 * MARGIN) / max(table.shape[1], 1))
        below = MARGIN + -(-len(mistakes) // COLUMNS) * (SIDE + CAPTION) + TITLE
        height = below + (beside + len(shown) * cell) * bool(shown) + TITLE
        figure.set_size_inches(WIDTH, height)
        inches = np.array([WIDTH, height] * 2)

        def write(title, what, top):
            figure.text(MARGIN / WIDTH, (top - 0.32) / height, title, fontsize=12, fontweight="bold")
            figure.text(MARGIN / WIDTH, (top - 0.52) / height, what, fontsize=8, color=FAINT)
        which = f"; {len(shown)} of {num_classes} classes, those most often taken for each other first"
        what = "images of a class (row) by the network's answer (column)" + which * (len(shown) < num_classes)
        write(f"{right} of {counts.total()} images are right", what if shown else "", height)
        if shown:
            at = [MARGIN + beside, below + beside, table.shape[1] * cell, len(shown) * cell] / inches
            draw_table(figure.add_axes(tuple(at)), table, texts, labels)
        what = "images as the network saw them; class (blue), answer (orange) and its probability"
        title = f"The {len(mistakes)} most confident mistakes" if mistakes else "No mistakes"
        write(title, what if mistakes else "", below)
        for i, mistake in enumerate(mistakes):
            bottom = below - TITLE - i // COLUMNS * (SIDE + CAPTION) - SIDE
            at = [MARGIN + i % COLUMNS * (SIDE + GAP), bottom, SIDE, SIDE] / inches
            draw_mistake(figure.add_axes(tuple(at), anchor="SW"), mistake, labels)
    return figure


def draw_table(axes: Axes, table: np.ndarray, texts: list[str], labels: Labels) -> None:
    """Numbers on blue where answers are right, on orange elsewhere, the darker the greater their share of the row."""
    share = np.sqrt(table / np.maximum(table.sum(axis=1, keepdims=True), 1))
    colors = np.full((*table.shape, 3), to_rgb(WRONG))
    colors[range(len(table)), range(len(table))] = to_rgb(RIGHT)
    axes.imshow(1 - share[..., np.newaxis] * (1 - colors))
    for row, column in zip(*table.nonzero()):
        axes.text(column, row, str(table[row, column]), horizontalalignment="center", verticalalignment="center",
                  fontsize=7, color="white" if share[row, column] > 0.7 else "black")
    columns = [*texts, "others"][:table.shape[1]]
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontproperties=labels.font)
    axes.set_yticks(range(len(texts)), texts, fontproperties=labels.font)
    axes.tick_params(length=0)
    axes.spines[:].set_color("#CCCCCC")


def draw_mistake(axes: Axes, mistake: Mistake, labels: Labels) -> None:
    axes.imshow(mistake.image)
    axes.set_axis_off()
    which = f"{mistake.probability:.3f}, record {-mistake.minus_record}"
    lines = (1, labels.of(mistake.label), RIGHT), (2, labels.of(mistake.answer), WRONG), (3, which, FAINT)
    for line, text, color in lines:
        axes.annotate(labels.fitted(text, SIDE), (0, 0), (0, -9 * line), xycoords="axes fraction",
                      textcoords="offset points", annotation_clip=False, color=color, fontproperties=labels.font)

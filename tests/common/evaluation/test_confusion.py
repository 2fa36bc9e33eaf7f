"""The picture of confusions: its numbers, the mistakes that it keeps, and letters in which names can be read."""
import warnings
from collections import Counter

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.text import Text
from sklearn.metrics import confusion_matrix

from common.evaluation import confusion
from common.find_mxnet import mx

MEAN, STD = (100, 110, 120), (50, 60, 70)


def answered(classes, images, seed=0):
    """(labels, probabilities, images as uint8 RGB) at random."""
    rng = np.random.RandomState(seed)
    probabilities = rng.dirichlet(np.ones(classes) / 4, images).astype(np.float32)
    return rng.randint(0, classes, images), probabilities, rng.randint(0, 256, (images, 6, 4, 3)).astype(np.uint8)


def fed(on_batch, labels, probabilities, images, batch=7):
    """In batches whose last one is filled up, as an iterator's are."""
    for first in range(0, len(labels), batch):
        part = slice(first, first + batch)
        data = np.zeros((batch, 3, *images.shape[1:3]), np.float32)
        data[:len(images[part])] = ((images[part] - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
        on_batch(np.arange(len(labels))[part] + 1000, labels[part], probabilities[part], mx.nd.array(data))


def counted(labels, probabilities):
    return Counter(zip(labels.tolist(), probabilities.argmax(axis=1).tolist()))


def test_few_classes_are_all_in_the_table():
    labels, probabilities, _ = answered(9, 300)
    expected = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(9))
    counts = counted(labels, probabilities)
    assert (confusion.table_of(counts, confusion.confused(counts, 9), 9) == expected).all()


def test_of_many_classes_those_that_are_taken_for_each_other_are_shown():
    """And their rows add up to their images."""
    labels, probabilities, _ = answered(50, 2000)
    counts = counted(labels, probabilities)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(50))
    shown = confusion.confused(counts, 50)
    both = np.triu(matrix + matrix.T, 1)
    assert len(shown) == 20 and both[tuple(sorted(shown[:2]))] == both.max()
    table = confusion.table_of(counts, shown, 50)
    assert (table[:, :-1] == matrix[np.ix_(shown, shown)]).all()
    assert (table.sum(axis=1) == matrix[shown].sum(axis=1)).all()
    assert confusion.confused(Counter({(n, n): 5 for n in range(50)} | {(31, 4): 1}), 50) == [4, 31]


def test_the_most_confident_mistakes_are_kept_as_the_network_saw_them(tmp_path, monkeypatch):
    labels, probabilities, images = answered(5, 200)
    drawn, draw = [], confusion.draw
    monkeypatch.setattr(confusion, "draw", lambda *given: drawn.append(given) or draw(*given))
    with confusion.confusion_picture(tmp_path / "x.png", 5, None, MEAN, STD) as on_batch:
        fed(on_batch, labels, probabilities, images)
    (counts, mistakes, *_), = drawn
    answers, surest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    expected = sorted(np.flatnonzero(answers != labels), key=lambda i: (-surest[i], i))[:24]
    assert [-mistake.minus_record - 1000 for mistake in mistakes] == expected
    for mistake, i in zip(mistakes, expected):
        assert mistake[2:4] == (labels[i], answers[i]) and mistake.probability == pytest.approx(surest[i])
        assert (mistake.image == images[i]).all()
    assert counts == counted(labels, probabilities)
    assert cv2.imread(str(tmp_path / "x.png")).shape[1] == 1199


def test_what_is_kept_of_a_large_image_is_small():
    grey = np.full((3, 900, 500), 0.5, np.float32)
    assert confusion.as_seen(grey, MEAN, STD).shape == (200, 111, 3)
    assert confusion.as_seen(grey, MEAN, STD)[0, 0].tolist() == [125, 140, 155]


NAMES = ["猫 cat", "$x^2$", "cafe\u0301", "n02123045 " + "a long name, " * 9, "🙂", "tab\there", "", "犬" * 20]


def figure_of(names, right=False):
    labels, probabilities, images = answered(len(names), 60)
    if right:
        probabilities = np.eye(len(names), dtype=np.float32)[labels]
    mistakes = [confusion.Mistake(0.5, -i, int(labels[i]), int(answer), images[i])
                for i, answer in enumerate(probabilities.argmax(axis=1)) if answer != labels[i]][:24]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that the font lacks is one
        figure = confusion.draw(counted(labels, probabilities), mistakes, len(names), names)
        figure.canvas.draw()
    return figure


@pytest.fixture
def other_fonts(monkeypatch):
    """Replaces the fonts that are installed beside Matplotlib's own by these files."""
    own = [font for font in font_manager.fontManager.ttflist if "mpl-data" in font.fname]

    def replaced(*files):
        monkeypatch.setattr(font_manager.fontManager, "ttflist", own[:])
        for file in files:
            font_manager.fontManager.addfont(file)
        font_manager.fontManager._findfont_cached.cache_clear()
    yield replaced
    font_manager.fontManager._findfont_cached.cache_clear()


@pytest.fixture
def cats(tmp_path):
    """A font of one letter."""
    pen = TTGlyphPen(None)
    for move, point in (("moveTo", (0, 0)), ("lineTo", (900, 0)), ("lineTo", (450, 900))):
        getattr(pen, move)(point)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cats.ttf")
    return tmp_path / "cats.ttf"


def test_letters_that_no_font_has_are_escaped(other_fonts, cats):
    other_fonts()
    said = {text.get_text() for text in figure_of(NAMES).findobj(Text)}
    assert {"0 \\u732b cat", "1 $x^2$", "2 café", "4 \\u1f642", "5 tab\\there", "6"} <= said
    other_fonts(cats)
    assert confusion.fonts_for("猫 cat") == (["DejaVu Sans", "Cats"], set())
    said = {text.get_text() for text in figure_of(NAMES).findobj(Text)}
    assert {"0 猫 cat", "4 \\u1f642"} <= said


@pytest.mark.parametrize("names", [NAMES, ["no", "yes"], [f"n{i:08d} class {i}" for i in range(200)]], ids=len)
@pytest.mark.parametrize("right", [False, True])
def test_no_text_is_cut_or_lies_on_another(names, right):
    figure = figure_of(names, right)
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert all(figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0 < box.y1 <=
               figure.bbox.y1 for box in boxes)
    for i, box in enumerate(boxes):
        assert not any(box.shrunk(0.9, 0.7).overlaps(other.shrunk(0.9, 0.7)) for other in boxes[i + 1:]), i

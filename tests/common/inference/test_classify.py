"""Many images: what is found, in what order it is answered, how far ahead is read, and the tables it ends in."""
import csv
import io
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.base.errors import Closed, InputError, printable
from common.checkpoint.preprocessing import Preprocessing
from common.evaluation.answers import top_answers
from common.images.decoding import decode
from common.images.preprocess import preprocess, read_image
from common.inference.classify import AHEAD, classify_images, images_in, tabulate
from common.inference.tables import answers_table

SHAPE = (10, 3, 48, 64)
PREPARED = Preprocessing(resize=70, crop=64, mean=(120.0, 110.0, 100.0), std=(50.0, 60.0, 70.0))


def corners(data):
    """In place of a network: an answer (N, 4) that shows the image it was made of, and its neighbours nothing."""
    assert data.shape == SHAPE and data.dtype == np.float32
    return np.stack([data[:, 0, 0, 0], data[:, 1, 0, -1], data[:, 2, -1, 0], data.mean(axis=(1, 2, 3))], axis=1)


@pytest.fixture(scope="module")
def images(photographs, tmp_path_factory):
    """103 photographs, and after the 5th, the 40th and the last some that cannot be read."""
    folder = tmp_path_factory.mktemp("broken")
    content = next(photographs.glob("*/*.jpg")).read_bytes()
    (folder / "half.jpg").write_bytes(content[:len(content) // 2])
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.png").touch()
    (folder / "folder.jpg").mkdir()
    paths = list(images_in([photographs]))
    assert len(paths) == 103
    for at, names in ((103, ["text.jpg", "folder.jpg"]), (40, ["empty.png", "missing.jpg"]), (5, ["half.jpg"])):
        paths[at:at] = [str(folder / name) for name in names]
    return paths


@pytest.mark.parametrize("threads", [None, 1, 7])
def test_every_image_is_answered_in_order_as_if_it_were_alone(images, threads):
    answers = list(classify_images(images, corners, SHAPE, PREPARED, threads))
    assert [answer.path for answer in answers] == images
    for path, probabilities, error in answers:
        try:
            data = np.zeros(SHAPE, np.float32)
            data[0] = preprocess(read_image(path), SHAPE[1:], PREPARED)
        except InputError as expected:
            assert probabilities is None and f"{path}: {error}" == str(expected)
        else:
            assert error is None
            np.testing.assert_array_equal(probabilities, corners(data)[0])
    assert sum(answer.error is not None for answer in answers) == 5


def test_only_a_few_batches_are_read_ahead(images):
    drawn = []
    paths = (drawn.append(path) or path for path in images * 5)
    for answered, _ in enumerate(classify_images(paths, corners, SHAPE)):
        assert len(drawn) <= answered + SHAPE[0] * (AHEAD + 2)
    assert answered + 1 == len(drawn) == 5 * 108


def test_images_are_decoded_while_the_network_computes(images, tmp_path, monkeypatch):
    """The network waits, in its first batch, for an image of the second to be decoded."""
    last_one, decoded = Path(shutil.copy(images[0], tmp_path)), threading.Event()
    last_one.write_bytes(last_one.read_bytes() + b"last")  # behind the image's end

    def decode_noticed(content, upright):
        if content.endswith(b"last"):
            decoded.set()
        return decode(content, upright=upright)

    def predict(data):
        assert decoded.wait(30), "nobody decodes it"
        return corners(data)

    monkeypatch.setattr("common.inference.classify.decode", decode_noticed)
    first, *_, last = classify_images([*images[:5] * 2, str(last_one)], predict, SHAPE)
    assert last.error is None
    np.testing.assert_array_equal(first.probabilities, last.probabilities)


def test_output_that_is_not_finite_is_refused(images):
    def predict(data):
        return np.where(np.arange(SHAPE[0])[:, np.newaxis] == 3, np.nan, corners(data))
    with pytest.raises(InputError, match=f"output for {images[3]} is not finite"):
        list(classify_images(images, predict, SHAPE))


def test_images_in_folders(tmp_path):
    for name in ("b/2.JPG", "b/10.png", "b/c/x.webp", "a.jpeg", "notes.txt", ".hidden.jpg", ".cache/x.jpg", "B.tiff",
                 "b.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to("a.jpeg")
    (tmp_path / "nowhere.jpg").symlink_to("missing")
    found = list(images_in([tmp_path / "notes.txt", tmp_path, tmp_path / "missing"]))
    assert [os.path.relpath(path, tmp_path) for path in found] == [
        "notes.txt", "B.tiff", "a.jpeg", "b/10.png", "b/2.JPG", "b/c/x.webp", "b.gif", "link.jpg",
        "nowhere.jpg", "missing"]


def test_a_folder_that_goes_away_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b").mkdir()
    found = images_in([tmp_path])
    assert next(found) == str(tmp_path / "a.jpg")
    (tmp_path / "b").rmdir()
    with pytest.raises(InputError, match=f"^{tmp_path}/b: No such file or directory$"):
        list(found)


NAMES = ['a "quoted", name.jpg', "two\nlines.jpg", "two\rlines.jpg", "é 猫.jpg", os.fsdecode(b"latin \xe9.jpg"),
         "$(touch x) `touch x` ; touch x & '.jpg", "-rf --output x.jpg"]
CLASSES = ['n0 "tench", fish', "n1 goldfish", "n2 é"]


@pytest.fixture
def odd_folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    content = cv2.imencode(".jpg", np.full((60, 60, 3), 90, np.uint8))[1].tobytes()
    for name in NAMES:
        (folder / name).write_bytes(content)
    (folder / "broken\n.jpg").touch()
    return folder


def tabulated(folder, output):
    with answers_table(output) as write:
        return tabulate(images_in([folder]), len(NAMES) + 1, write, CLASSES, predict=lambda data: corners(data)[:, :3],
                        data_shape=SHAPE)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".CSV"])
def test_tables_hold_every_name_as_it_is(odd_folder, tmp_path, capsys, suffix):
    output = tmp_path / f"table{suffix}"
    done = tabulated(odd_folder, output)
    assert (done.classified, done.broken) == (len(NAMES), 1)
    assert capsys.readouterr().err.splitlines() == [f"{odd_folder}/broken\\n.jpg: passed over: empty file"]
    if suffix == ".json":
        rows = {row["path"]: row for row in json.loads(output.read_text(encoding="utf-8"))}
        assert rows.pop(f"{odd_folder}/broken\n.jpg")["error"] == "empty file"
        answers = {path: [(one["label"], one["class"], one["probability"]) for one in row["top"]]
                   for path, row in rows.items()}
    else:
        with open(output, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = {row["path"]: row for row in csv.DictReader(file)}
        assert rows.pop(f"{odd_folder}/broken\n.jpg") == {
            **dict.fromkeys(next(iter(rows.values())), ""), "path": f"{odd_folder}/broken\n.jpg", "error": "empty file"}
        answers = {path: [(int(row[f"label_{rank}"]), row[f"class_{rank}"], float(row[f"probability_{rank}"]))
                          for rank in (1, 2, 3)] for path, row in rows.items()}
        assert all(row["label_4"] == row["error"] == "" for row in rows.values())
    assert sorted(answers) == sorted(str(odd_folder / name) for name in NAMES)
    # 90 less the mean of each of the three colours
    expected = [(2, CLASSES[2], pytest.approx(90 - 103.94, 1e-4)), (1, CLASSES[1], pytest.approx(90 - 116.78, 1e-4)),
                (0, CLASSES[0], pytest.approx(90 - 123.68, 1e-4))]
    assert all(answer == expected for answer in answers.values())


def test_a_table_on_standard_output_holds_every_name_as_it_is(odd_folder, monkeypatch):
    """What else is printed there is printable, as before."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", out)
    tabulated(odd_folder, None)
    print("\udce9", flush=True)
    table, last = out.buffer.getvalue().rsplit(b"\n", 2)[:2]
    assert last == b"\\udce9" and (out.encoding, out.errors) == ("ascii", "backslashreplace")
    rows = csv.DictReader(io.StringIO(os.fsdecode(table), newline=""))
    assert sorted(row["path"] for row in rows) == sorted(str(odd_folder / name) for name in [*NAMES, "broken\n.jpg"])

    monkeypatch.setattr(sys, "stdout", Closed())  # as it is where a shell closes it
    with pytest.raises(InputError, match="standard output is closed"):
        tabulated(odd_folder, None)


def test_a_table_of_nothing_is_a_table(tmp_path):
    for name in ("x.json", "x.csv"):
        with answers_table(tmp_path / name):
            pass
    assert json.loads((tmp_path / "x.json").read_text()) == []
    assert (tmp_path / "x.csv").read_text().startswith("path,label_1,class_1,probability_1,label_2,")


@pytest.mark.parametrize("name", ["x.csv", "x.json"])
def test_a_run_that_is_interrupted_leaves_the_old_table(tmp_path, name):
    (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt), answers_table(tmp_path / name) as write:
        write("a.jpg", [(0, "cat", 1.0)], None)
        raise KeyboardInterrupt
    assert (tmp_path / name).read_text() == "old" and os.listdir(tmp_path) == [name]


def test_best_ranks_equals_by_number():
    assert top_answers(np.float32([0.1, 0.3, 0.1, 0.3, 0.1, 0.1, 0.0]), 5).tolist() == [1, 3, 0, 2, 4]


def test_printable_keeps_what_can_be_read():
    assert printable("é 猫\t\x1b[31m.jpg") == "é 猫\\t\\x1b[31m.jpg"

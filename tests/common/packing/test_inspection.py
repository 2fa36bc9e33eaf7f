import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.base.errors import InputError
from common.find_mxnet import mx
from common.images.recordio import read_records
from common.packing.inspection import contact_sheet, problems, summarise
from tests.conftest import ROOT


def inspect(*args):
    return subprocess.run([sys.executable, "tools/inspect_rec.py", *map(str, args)], cwd=ROOT, capture_output=True,
                          text=True)


@pytest.fixture
def folder(packed, tmp_path):
    """A copy of the packed photographs, to damage."""
    return shutil.copytree(packed.parent, tmp_path / "copy")


def offsets(folder):
    return [int(line.split()[1]) for line in (folder / "val.idx").read_text().splitlines()]


def test_records_are_read_as_mxnet_reads_them(packed, tmp_path):
    magic = b"\x0a\x23\xd7\xce"
    contents = [b"", b"1", b"1234", magic, magic * 3, b"1234" + magic + b"5", b"x" * 9000, b"12" + magic,
                magic + b"123"]
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    for content in contents:
        writer.write(content)
    writer.close()
    assert [payload for _, payload in read_records(tmp_path / "x.rec")] == contents
    assert [payload for _, payload in read_records(tmp_path / "x.rec", head=100)] == [c[:100] for c in contents]
    assert [offset for offset, _ in read_records(f"{packed}.rec")] == offsets(packed.parent)
    middle = offsets(packed.parent)[50]
    assert len(list(read_records(f"{packed}.rec", middle))) == 53


def test_the_summary(packed, photographs):
    summary = summarise(f"{packed}.rec")
    assert summary.labels == {0: 52, 1: 51} and list(summary.offsets) == offsets(packed.parent)
    assert summary.unreadable == 0 and sum(summary.sizes.values()) == 103
    smallest = min(min(cv2.imread(str(path)).shape[:2]) for path in photographs.glob("*/*"))
    assert {min(size) for size in summary.sizes} <= set(range(smallest, 81))
    assert list(problems(f"{packed}.rec")) == []


def test_the_contact_sheet(packed, tmp_path):
    """Its thumbnails are those of the images that it names."""
    summary = summarise(f"{packed}.rec")
    contact_sheet(f"{packed}.rec", summary, ["one", "two" * 100_000], tmp_path / "sheet.png", count=103, seed=0)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    _, first = next(read_records(f"{packed}.rec"))
    image = cv2.imdecode(np.frombuffer(first[24:], np.uint8), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    left, top = 6 + (144 - width) // 2, 6 + (144 - height) // 2
    np.testing.assert_array_equal(sheet[top:top + height, left:left + width], image)
    caption = sheet[6 + 144:6 + 160, 6:150]
    assert (caption < 128).any()
    few = tmp_path / "few.png"
    contact_sheet(f"{packed}.rec", summary, [], few, count=3, seed=1)
    assert cv2.imread(str(few)).shape[1] < sheet.shape[1]


def damage_image(folder):
    content = bytearray((folder / "val.rec").read_bytes())
    start = offsets(folder)[7] + 32
    content[start + 20:start + 60] = bytes(40)
    (folder / "val.rec").write_bytes(content)


def damage_framing(folder):
    content = bytearray((folder / "val.rec").read_bytes())
    content[offsets(folder)[9]] ^= 1
    (folder / "val.rec").write_bytes(content)


def swap_lines(folder, name):
    lines = (folder / name).read_text().splitlines(keepends=True)
    lines[3], lines[99] = lines[99], lines[3]
    (folder / name).write_text("".join(lines))


@pytest.mark.parametrize(("damage", "message"), [
    (damage_image, "val.rec: record 7, at byte"),
    (damage_image, "val.rec: its SHA-256 is not the one in dataset.json"),
    (damage_framing, "after 9 records"),
    (lambda folder: swap_lines(folder, "val.idx"), "val.idx: line 4 "),
    (lambda folder: swap_lines(folder, "val.lst"), "record 4 of label 0 "),
    (lambda folder: (folder / "val.lst").write_text("x\n"), "val.lst: 2 bytes, dataset.json says"),
    (lambda folder: (folder / "val.idx").unlink(), "val.idx: missing"),
])
def test_the_check_finds(folder, damage, message):
    damage(folder)
    assert message in "\n".join(problems(folder / "val.rec"))


def test_the_command(packed, folder, tmp_path):
    process = inspect(f"{packed}.rec", "--contact-sheet", tmp_path / "sheet.png", "--images", 5, "--check")
    lines = process.stdout.splitlines()
    assert process.returncode == 0 and lines[0].startswith(f"{packed}.rec: 103 records, 0.0")
    assert lines[1:4] == ["classes: 2, with 51 to 52 images",
                          "     0 ##############################      52 n0001",
                          "     1 #############################       51 n0002"]
    assert lines[-1].startswith(f"{packed}.rec: ") and "every image was decoded" in lines[-1]
    damage_image(folder)
    process = inspect(folder / "val.rec", "--check")
    assert process.returncode == 1 and process.stderr.splitlines()[-1].endswith("2 problems found")


def test_many_classes_are_shown_by_their_ends(tmp_path):
    """The five with the fewest images and the five with the most; the names are optional, and have to be text."""
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    image = (ROOT / "data" / "cat.jpg").read_bytes()
    for label in range(30):
        for _ in range(1 + label // 10):
            writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, label, 0, 0), image))
    writer.close()
    lines = inspect(tmp_path / "x.rec").stdout.splitlines()
    shown = lines.index("classes: 30, with 1 to 3 images") + 1
    assert [line.split()[0] for line in lines[shown:shown + 11]] == [*"01234", "...", *map(str, range(25, 30))]
    assert len(inspect(tmp_path / "x.rec", "--all-classes").stdout.splitlines()) == len(lines) + 19
    (tmp_path / "names").write_bytes(b"\xff\n")
    process = inspect(tmp_path / "x.rec", "--synset", tmp_path / "names")
    assert process.stderr == f"inspect_rec.py: error: {tmp_path}/names: not a text file of class names\n"


IM2REC = """
import runpy, sys
import common.find_mxnet
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.long
def test_records_that_im2rec_makes(photographs, tmp_path):
    """Shuffled, by two processes, with a file in the list that it could not read."""
    shutil.copytree(photographs, tmp_path / "images")
    (tmp_path / "images" / "n0001" / "0.jpg").write_bytes(b"no image")
    script = Path(mx.__file__).parent / "tools" / "im2rec.py"
    for flags in (["--list", "--recursive"], ["--num-thread", "2"]):
        subprocess.run([sys.executable, "-c", IM2REC, script, tmp_path / "x", tmp_path / "images", *flags], check=True,
                       capture_output=True, cwd=ROOT)
    assert summarise(tmp_path / "x.rec").labels == {0: 52, 1: 51}
    assert list(problems(tmp_path / "x.rec")) == []
    with open(tmp_path / "x.idx", "a") as file:
        file.write("1000\t4\n")
    problem, = problems(tmp_path / "x.rec")
    assert problem.startswith(f"{tmp_path}/x.idx: ")
    os.truncate(tmp_path / "x.rec", (tmp_path / "x.rec").stat().st_size - 1)
    assert "damaged at byte" in list(problems(tmp_path / "x.rec"))[0]


def test_one_label_as_a_list(tmp_path):
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, [3.0], 0, 0), (ROOT / "data" / "cat.jpg").read_bytes()))
    writer.close()
    summary = summarise(tmp_path / "x.rec")
    assert summary.labels == {3: 1} and summary.unreadable == 0 and list(problems(tmp_path / "x.rec")) == []


@pytest.mark.parametrize("label", [-1, 3.5, float("nan"), float("inf")])
def test_labels_that_are_no_classes_are_told(label, tmp_path):
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, label, 7, 0), (ROOT / "data" / "cat.jpg").read_bytes()))
    writer.close()
    problem, = problems(tmp_path / "x.rec")
    assert problem.startswith(f"{tmp_path}/x.rec: record 7, ") and f"label {label:g} " in problem


def test_a_contact_sheet_does_not_overwrite_records(packed, tmp_path):
    summary = summarise(f"{packed}.rec")
    for path, count, message in ((f"{packed}.rec", 1, "is a PNG"), (tmp_path / "x.png", 1001, "1000 at most")):
        with pytest.raises(InputError, match=message):
            contact_sheet(f"{packed}.rec", summary, [], path, count, 0)
    process = inspect(f"{packed}.rec", "--contact-sheet", "/nowhere/sheet.png")
    assert process.stderr == "inspect_rec.py: error: /nowhere/sheet.png: No such file or directory\n"


def test_files_that_hold_no_images(tmp_path):
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    writer.write(b"abc")
    writer.close()
    with pytest.raises(InputError, match="the record at byte 0 is not one of images"):
        summarise(tmp_path / "x.rec")
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    writer.write(mx.recordio.pack(mx.recordio.IRHeader(2, [1, 2], 0, 0), b""))
    writer.close()
    with pytest.raises(InputError, match="has 2 labels instead of one"):
        summarise(tmp_path / "x.rec")
    (tmp_path / "x.rec").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        summarise(tmp_path / "x.rec")
    for path, message in ((tmp_path / "nowhere.rec", "No such file"), (ROOT / "README.md", "not a RecordIO file")):
        process = inspect(path)
        assert process.returncode == 1 and message in process.stderr and len(process.stderr.splitlines()) == 1

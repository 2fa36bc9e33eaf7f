"""ImageNet's archives into RecordIO: what goes in comes out, however often the work is interrupted."""
import csv
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import cv2
import numpy as np
import PIL.Image
import pytest

from common.dataset import read_dataset
from common.errors import InputError
from common.find_mxnet import mx
from common.packing import prepare as prepare_module
from common.packing.digest import FollowedDigest, digest
from common.packing.imagenet import ARCHIVES, DEVKIT, Archive
from common.packing.journal import Journal
from common.packing.prepare import prepare
from common.packing.sources import find_sources
from common.recordio import check_records
from tests.archives import CLASSES, odd_files, tar, write_archives, write_devkit, write_folders
from tests.conftest import ROOT

SHORT_SIDE = 64


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return folder, write_archives(folder)


def run(source, out, **options):
    return prepare(source, out, **{"short_side": SHORT_SIDE, "any_count": True, **options})


@pytest.fixture(scope="module")
def tree(archives, tmp_path_factory):
    """The same images in folders, with a hidden file."""
    folder = tmp_path_factory.mktemp("tree")
    write_folders(folder, archives[1])
    (folder / "train" / "n00000007" / ".hidden").write_text("x")
    return folder


@pytest.fixture(scope="module")
def packed(archives, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    run(archives[0], out)
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_description(folder):
    return {name: content for name, content in contents(folder).items() if name != "dataset.json"}


def records(out, part):
    """{path: (label, BGR image)} as MXNet's own reader and the .lst file have them, in their order."""
    reader = mx.recordio.MXIndexedRecordIO(str(out / f"{part}.idx"), str(out / f"{part}.rec"), "r")
    listed = [line.split("\t") for line in (out / f"{part}.lst").read_text().splitlines()]
    assert [int(number) for number, _, _ in listed] == reader.keys == list(range(len(listed)))
    found = {}
    for number, (_, label, path) in enumerate(listed):
        header, image = mx.recordio.unpack_img(reader.read_idx(number))
        assert header.id == number and header.label == float(label)
        found[path] = (int(header.label), image)
    return found


def area_weights(size, new):
    """(new, size) matrix of the area average: how much of each old pixel lies in each new one."""
    edges = np.arange(new + 1) * size / new
    old = np.arange(size)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.clip(overlap, 0, None) * new / size


def linear_weights(size, new):
    """(new, size) matrix of linear interpolation between the centres of pixels."""
    centres = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    return np.clip(1 - np.abs(centres[:, None] - np.arange(size)), 0, None)


def resized(rgb, short_side=SHORT_SIDE):
    """float64, shrunk: linear, or from more than twice that size the area average."""
    height, width = rgb.shape[:2]
    shorter = min(height, width, short_side)
    weights = linear_weights if min(height, width) <= 2 * short_side else area_weights
    size = (height * shorter // width, shorter) if height > width else (shorter, width * shorter // height)
    columns = np.tensordot(weights(height, size[0]), rgb.astype(float), 1)
    return np.tensordot(columns, weights(width, size[1]), (1, 1)).transpose(0, 2, 1)


def test_every_image_comes_out_with_its_label_and_content(archives, packed):
    """Against the image that was encoded, resized by NumPy, CMYK, rotation and all: two compressions apart."""
    labels = {wnid: label for label, wnid in enumerate(sorted(CLASSES))}
    for part, images in archives[1].items():
        found = records(packed, part)
        assert set(found) == {path for path, (_, rgb) in images.items() if rgb is not None}
        for path, (label, image) in found.items():
            assert label == labels[path.split("/")[0]]
            expected = resized(images[path][1])
            assert image.shape == expected.shape
            assert np.abs(image[:, :, ::-1] - expected).mean() < 3, path


def test_packing_costs_no_more_than_one_compression(archives, packed):
    """Against Pillow's decoder, NumPy's resizing and one compression of that: equal but for rounding."""
    images = {**archives[1]["train"], **archives[1]["val"]}
    found = {**records(packed, "train"), **records(packed, "val")}
    plain = [path for path in found if path.rsplit("_", 1)[1][0].isdigit()]
    assert len(plain) == 37
    for path in plain:
        image = found[path][1]
        with PIL.Image.open(io.BytesIO(images[path][0])) as original:
            expected = resized(np.asarray(original))[:, :, ::-1].round().astype(np.uint8)
        once = cv2.imdecode(cv2.imencode(".jpg", expected, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_COLOR)
        assert np.abs(image.astype(int) - once).mean() < 1, path


def test_what_cannot_be_read_is_listed(archives, packed):
    with open(packed / "skipped.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["part", "name", "reason"]
    broken = {path for path, (_, rgb) in archives[1]["train"].items() if rgb is None}
    assert {name for _, name, _ in rows[1:]} == broken and len(broken) == 10
    reasons = {name.split("_", 1)[1]: reason for _, name, reason in rows[1:]}
    assert reasons["empty.JPEG"] == "empty file" and reasons["text.JPEG"] == "not an image"
    assert "truncated" in reasons["truncated.JPEG"]


def test_the_description(archives, packed):
    dataset = read_dataset(packed)
    assert dataset["classes"] == sorted(CLASSES) and dataset["options"]["short_side"] == SHORT_SIDE
    assert dataset["parts"]["val"]["images_of_class"] == {"n00000007": 2, "n00000011": 5, "n00000042": 3}
    assert dataset["parts"]["train"]["images"] == 27 + 23 and dataset["parts"]["train"]["skipped"] == 10
    for part in ("train", "val"):
        for name, file in dataset["parts"][part]["files"].items():
            sha256 = subprocess.run(["sha256sum", packed / name], capture_output=True, text=True, check=True).stdout
            assert file == {"bytes": (packed / name).stat().st_size, "sha256": sha256.split()[0]}
        archive = archives[0] / f"ILSVRC2012_img_{part}.tar"
        md5 = subprocess.run(["md5sum", archive], capture_output=True, text=True, check=True).stdout
        assert dataset["parts"][part]["source_md5"] == md5.split()[0]
    assert (packed / "synset.txt").read_text().split() == sorted(CLASSES)
    records = [f"{part}.{kind}" for part in ("train", "val") for kind in ("rec", "idx", "lst")]
    assert sorted(contents(packed)) == sorted(["dataset.json", "skipped.csv", "synset.txt", *records])


def test_the_order(packed):
    """Validation by class and name; training by the seed, the classes mixed."""
    val, train = (list(records(packed, part)) for part in ("val", "train"))
    assert val == sorted(val)
    assert train != sorted(train)
    changes = sum(a.split("/")[0] != b.split("/")[0] for a, b in zip(train, train[1:]))
    assert changes > len(train) / 2  # two of three neighbours differ where three classes are mixed


def test_mxnet_reads_them(packed):
    """ImageRecordIter, ImageIter and Gluon's data set, which is how sets made by im2rec.py are read."""
    expected = {part: [label for label, _ in records(packed, part).values()] for part in ("train", "val")}
    for part, labels in expected.items():
        count = len(labels)
        prefix = str(packed / part)
        images = mx.io.ImageRecordIter(path_imgrec=f"{prefix}.rec", path_imgidx=f"{prefix}.idx", data_shape=(3, 32, 32),
                                       batch_size=count, verbose=False)
        assert next(images).label[0].asnumpy().tolist() == labels
        images = mx.image.ImageIter(count, (3, 32, 32), path_imgrec=f"{prefix}.rec", path_imgidx=f"{prefix}.idx")
        assert images.next().label[0].asnumpy().ravel().tolist() == labels
        assert [label for _, label in mx.gluon.data.vision.ImageRecordDataset(f"{prefix}.rec")] == labels
        assert check_records(f"{prefix}.rec") == (f"{prefix}.idx", count)


def test_folders_give_the_same_records_as_archives(tree, packed, tmp_path):
    run(tree, tmp_path / "out")
    assert without_description(tmp_path / "out") == without_description(packed)
    (tree / "train" / "n00000007" / b"\xff.jpg".decode("utf-8", "surrogateescape")).write_text("x")
    assert run(tree, tmp_path / "odd")["parts"]["train"]["skipped"] == 11
    (tree / "train" / "n00000007" / b"\xff.jpg".decode("utf-8", "surrogateescape")).unlink()
    assert "\\udcff.jpg,its name has characters that a .lst file cannot hold" in \
        (tmp_path / "odd" / "skipped.csv").read_text()


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_and_buckets_changes_nothing(archives, tree, packed, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("common.packing.part.BUCKET_BYTES", 20_000)
    run(archives[0], tmp_path / "out", workers=workers)
    assert contents(tmp_path / "out") == contents(packed)
    run(tree, tmp_path / "of-tree", workers=workers)
    assert without_description(tmp_path / "of-tree") == without_description(packed)


def test_the_disk_that_it_takes(archives, packed, tmp_path, monkeypatch):
    """While an archive is sorted: hardly more than the records, and nothing when it is done."""
    monkeypatch.setattr("common.packing.part.BUCKET_BYTES", 20_000)
    out, commit, used = tmp_path / "out", Journal.commit, []

    def measured(journal, state):
        commit(journal, state)
        journal.flush()
        used.append(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()))
    monkeypatch.setattr(Journal, "commit", measured)
    run(archives[0], out, commit_seconds=0)
    records = sum(len(content) for content in contents(packed).values())
    assert 0.9 * records < max(used) < 1.3 * records and len(used) > 50
    assert contents(out) == contents(packed)


def test_the_seed_changes_the_order_of_training_alone(archives, packed, tmp_path):
    run(archives[0], tmp_path / "out", seed=1)
    one, other = records(packed, "train"), records(tmp_path / "out", "train")
    assert list(one) != list(other) and sorted(one) == sorted(other)
    assert (tmp_path / "out" / "val.rec").read_bytes() == (packed / "val.rec").read_bytes()


def test_images_are_enlarged_when_asked(archives, tmp_path):
    run(archives[0], tmp_path / "out", short_side=150, enlarge=True)
    assert {min(image.shape[:2]) for _, image in records(tmp_path / "out", "train").values()} == {150}


class Killed(BaseException):
    """Not an error that anything would handle."""


def killed_at(monkeypatch, name, count):
    """From now on the call number `count` of os.<name> ends the run, before it does anything."""
    function, calls = getattr(os, name), iter(range(count))

    def counted(*args, **kwargs):
        if next(calls, None) is None:
            raise Killed
        return function(*args, **kwargs)
    monkeypatch.setattr(os, name, counted)


@pytest.mark.parametrize(("source", "name"), [("archives", "replace"), ("archives", "fsync"), ("archives", "preadv"),
                                             ("tree", "replace"), ("tree", "fsync")])
def test_a_run_that_ends_anywhere_is_gone_on_with(request, packed, tmp_path, monkeypatch, source, name):
    """At each rename, each commit and in the middle of writing: no file looks finished, and the bytes are the same."""
    monkeypatch.setattr("common.packing.part.BUCKET_BYTES", 100_000)
    source = request.getfixturevalue(source)
    source = source[0] if isinstance(source, tuple) else source
    run(source, tmp_path / "expected")
    expected = contents(tmp_path / "expected")
    assert without_description(tmp_path / "expected") == without_description(packed)
    count = 0
    while True:
        out = tmp_path / f"{name}{count}"
        with monkeypatch.context() as patch:
            killed_at(patch, name, count)
            try:
                run(source, out, commit_seconds=0)
                break
            except Killed:
                assert not (out / "dataset.json").exists()
        run(source, out)
        assert contents(out) == expected, f"after {count} calls of {name}"
        count += max(1, count // 4)
    assert count > 3


def test_a_damaged_archive_is_an_error_and_nothing_looks_finished(archives, tmp_path):
    whole = (archives[0] / "ILSVRC2012_img_train.tar").read_bytes()
    for cut in (10240, 20000, 60000):
        source = shutil.copytree(archives[0], tmp_path / f"source{cut}")
        (source / "ILSVRC2012_img_train.tar").write_bytes(whole[:-cut])
        with pytest.raises(InputError, match="damaged or cut off at byte"):
            run(source, tmp_path / "out")
    for at in (0, 512, 1536 + 40_000, len(whole) // 2):
        content = bytearray(whole)
        header = content.index(b"ustar", at) - 257
        content[header:header + 512] = b"\xa5" * 512
        source = shutil.copytree(archives[0], tmp_path / f"source-at{at}")
        (source / "ILSVRC2012_img_train.tar").write_bytes(content)
        out = tmp_path / f"out{at}"
        with pytest.raises(InputError, match="damaged or cut off at byte"):
            run(source, out)
        assert not out.exists() or [path.name for path in out.iterdir()] == [".prepare"]


def test_other_members_than_images(tmp_path):
    """Links, folders, devices and names that lead elsewhere: listed or harmless, and nothing is ever extracted."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as images:
        good = odd_files()["grey.JPEG"][0]
        for name, kind, content in (("../../up.JPEG", tarfile.REGTYPE, good), ("/abs.JPEG", tarfile.REGTYPE, good),
                                    ("a\tb.JPEG", tarfile.REGTYPE, good), ("link.JPEG", tarfile.SYMTYPE, b""),
                                    ("folder", tarfile.DIRTYPE, b""), ("tty", tarfile.CHRTYPE, b""),
                                    ("x" * 300 + ".JPEG", tarfile.REGTYPE, good),
                                    ("caf\u00e9.JPEG", tarfile.REGTYPE, good)):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
            images.addfile(member, io.BytesIO(content))
    source = tmp_path / "source"
    source.mkdir()
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar({"n1.tar": archive.getvalue()}))
    dataset = run(source, tmp_path / "out")
    assert dataset["parts"]["train"]["images"] == 4 and dataset["parts"]["train"]["skipped"] == 4
    assert set(records(tmp_path / "out", "train")) == {"n1/up.JPEG", "n1/abs.JPEG", f"n1/{'x' * 300}.JPEG",
                                                       "n1/caf\u00e9.JPEG"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"Z"])
def test_a_member_of_negative_size(tmp_path, kind):
    """It would be read again and again."""
    member = tarfile.TarInfo("x.JPEG")
    member.type, member.size = kind, -512
    header = member.tobuf(tarfile.GNU_FORMAT)
    source = tmp_path / "source"
    source.mkdir()
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar({"n1.tar": tar({"good": odd_files()["grey.JPEG"][0]})[:-10240]
                                                           + header + bytes(1024)}))
    with pytest.raises(InputError, match="damaged or cut off"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["a\u202fb.jpg", "\u3000.jpg", "a\u200db.jpg", "a\u00a0b.jpg"])
def test_names_that_a_list_can_hold(tmp_path, name):
    folder = tmp_path / "source" / "train" / f"class of {name}"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "cat.jpg", folder / name)
    assert run(tmp_path / "source", tmp_path / "out")["parts"]["train"]["skipped"] == 0
    assert list(records(tmp_path / "out", "train")) == [f"class of {name}/{name}"]


def test_enlarging_has_its_bounds(tmp_path):
    """One pixel high, it would become 1.4 million wide."""
    folder = tmp_path / "source" / "train" / "a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "thin.png"), np.zeros((1, 3000), np.uint8))
    shutil.copy(ROOT / "data" / "cat.jpg", folder)
    run(tmp_path / "source", tmp_path / "out", short_side=480, enlarge=True)
    assert "thin.png,1440000x480 pixels are not what can be packed" in (tmp_path / "out" / "skipped.csv").read_text()


def test_a_bomb_is_skipped(tmp_path):
    """A picture of 400 million pixels in a few hundred kilobytes."""
    folder = tmp_path / "source" / "train" / "a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "bomb.png"), np.zeros((20_000, 20_000), np.uint8))
    shutil.copy(ROOT / "data" / "cat.jpg", folder)
    assert run(tmp_path / "source", tmp_path / "out")["parts"]["train"]["skipped"] == 1
    assert "decompression bomb" in (tmp_path / "out" / "skipped.csv").read_text()


def test_strict(archives, tmp_path):
    with pytest.raises(InputError, match=r"ILSVRC2012_img_train.tar: n000000\d\d/n\d+_\w+.JPEG: .*--strict"):
        run(archives[0], tmp_path / "out", strict=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".prepare"]
    run(archives[0], tmp_path / "out")  # without it, the same work goes on
    assert (tmp_path / "out" / "dataset.json").exists()


def change_devkit(folder):
    write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [1, 2])


def swap_archives(folder):
    os.replace(folder / "ILSVRC2012_img_val.tar", folder / "ILSVRC2012_img_train.tar")


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda folder: None, {"any_count": False}, r"devkit_t12.tar.gz: \d+ bytes, the official one has 2568145"),
    (lambda folder: (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink(), {}, "has the classes of the validation images"),
    (lambda folder: (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"x"), {}, "t12.tar.gz: damaged, or not"),
    (lambda folder: (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(
        (folder / "ILSVRC2012_devkit_t12.tar.gz").read_bytes()[:-200]), {}, "devkit_t12.tar.gz: "),
    (change_devkit, {}, "ILSVRC2012_img_val.tar: 'ILSVRC2012_val_00000010.JPEG' in it is not one of the 2"),
    (lambda folder: write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [1] * 11), {}, "holds 10 images, .* of 11"),
    (lambda folder: write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [1] * 10, {"n00000042": 1}), {},
     "holds 3 class archives, .* names 1 classes; n00000007 is in one of them only"),
    (swap_archives, {}, "not ImageNet's training archive"),
    (lambda folder: (folder / "ILSVRC2012_img_train.tar").write_bytes(b""), {}, "damaged or cut off at byte 0 of 0"),
    (lambda folder: (folder / "train").mkdir(), {}, "which one"),
    (shutil.rmtree, {}, "not a folder"),
    (lambda folder: [path.unlink() for path in folder.iterdir()], {}, "holds neither"),
    (lambda folder: None, {"quality": 101}, "quality 101"),
])
def test_sources_that_cannot_be_used(archives, tmp_path, change, options, message):
    source = shutil.copytree(archives[0], tmp_path / "source")
    change(source)
    with pytest.raises(InputError, match=message) as error:
        run(source, tmp_path / "out", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folders", "options", "message"), [
    (["train/a", "train/b"], {}, "no images in folders of classes"),
    (["train"], {}, "no classes"),
    (["train/a/x.jpg", "val/b/x.jpg"], {}, "val/b: not one of the 1 classes"),
    (["train/a/x.jpg"], {"any_count": False}, r"train: 1 classes instead of ImageNet's 1000 \(--any-count"),
    (["train/a\tb/x.jpg"], {}, "cannot hold"),
])
def test_folders_that_cannot_be_used(tmp_path, folders, options, message):
    for path in folders:
        (tmp_path / "source" / path).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "source", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_only_unreadable_images(tmp_path):
    (tmp_path / "source" / "train" / "a" / "x.jpg").mkdir(parents=True)
    with pytest.raises(InputError, match="none of its images can be read"):
        run(tmp_path / "source", tmp_path / "out")


def test_what_is_there_is_never_overwritten(archives, packed, tmp_path, capsys):
    before = contents(packed)
    assert run(archives[0], packed) == read_dataset(packed)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(InputError, match="made with other options"):
        run(archives[0], packed, quality=90)
    assert contents(packed) == before

    out = shutil.copytree(packed, tmp_path / "out")
    os.truncate(out / "train.rec", 1000)
    with pytest.raises(InputError, match="train.rec: not there, or not as dataset.json"):
        run(archives[0], out)
    (out / "dataset.json").unlink()
    with pytest.raises(InputError, match="exists, and nothing says how it was made"):
        run(archives[0], out)


def test_work_that_was_begun_otherwise_is_not_mixed(archives, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, "preadv", 3)
        with pytest.raises(Killed):
            run(archives[0], tmp_path / "out")
    with pytest.raises(InputError, match="begun with other options"):
        run(archives[0], tmp_path / "out", quality=90)
    source = shutil.copytree(archives[0], tmp_path / "source")
    os.utime(source / "ILSVRC2012_img_val.tar", (1, 1))
    with pytest.raises(InputError, match="begun with other sources.val.modified: "):
        run(source, tmp_path / "out")
    source = shutil.copytree(archives[0], tmp_path / "other")
    write_devkit(source / "ILSVRC2012_devkit_t12.tar.gz", [1] * 10)
    with pytest.raises(InputError, match="begun with other sources.val.labels_sha256: "):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "train" / "aa").mkdir(),
    lambda folder: next((folder / "train").glob("*/*")).unlink(),
    lambda folder: next((folder / "train").glob("*/*")).write_bytes(b"other"),
    lambda folder: os.utime(next((folder / "train").glob("*/*")), (1, 1)),
])
def test_folders_that_change_in_between(tree, tmp_path, monkeypatch, change):
    source = shutil.copytree(tree, tmp_path / "source")
    with monkeypatch.context() as patch:
        killed_at(patch, "fsync", 5)
        with pytest.raises(Killed):
            run(source, tmp_path / "out", commit_seconds=0)
    change(source)
    with pytest.raises(InputError, match=r"begun with other sources\.(train|val)\."):
        run(source, tmp_path / "out")


def test_the_md5_is_not_computed_twice(archives, packed, tmp_path, monkeypatch):
    """Once the archive has been read to its end, a kill does not cost another reading."""
    with monkeypatch.context() as patch:
        killed_at(patch, "preadv", 20)  # some of val are 10
        with pytest.raises(Killed):
            run(archives[0], tmp_path / "out")
    monkeypatch.setattr("common.packing.part.FollowedDigest._follow", digests := counted(FollowedDigest._follow))
    run(archives[0], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(packed)
    assert [algorithm for algorithm in digests.algorithms] == ["sha256"]


def counted(follow):
    """`follow` of a FollowedDigest, which notes the algorithm."""
    def noting(digest):
        noting.algorithms.append(digest._hash.name)
        return follow(digest)
    noting.algorithms = []
    return noting


def test_what_is_moved_away_in_the_end_is_missed(archives, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module.shutil, "rmtree", lambda *_: None)
        run(archives[0], tmp_path / "out")
    (tmp_path / "out" / "dataset.json").unlink()
    (tmp_path / "out" / "val.rec").unlink()
    with pytest.raises(InputError, match="val.rec: was moved away or changed"):
        run(archives[0], tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("name", ["synset.txt", "skipped.csv", "val.rec", "dataset.json"])
def test_the_files_of_others_are_kept(tmp_path, name):
    folder = tmp_path / "source" / "train" / "a"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "cat.jpg", folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(InputError, match=f"{name}: exists, and nothing says how it was made"):
        run(tmp_path / "source", tmp_path / "out")
    with pytest.raises(InputError, match="lies in .*train, whose folders are classes"):
        run(tmp_path / "source", tmp_path / "source" / "train" / "out")
    with pytest.raises(InputError, match="cat.jpg: not a folder"):
        run(tmp_path / "source", folder / "cat.jpg")


def test_what_is_left_out_is_told(tmp_path, capsys):
    for name in ("a/x.jpg", "loose.jpg"):
        (tmp_path / "source" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "data" / "cat.jpg", tmp_path / "source" / "train" / name)
    (tmp_path / "source" / "train" / "a" / "nested").mkdir()
    (tmp_path / "source" / "train" / "empty").mkdir()
    run(tmp_path / "source", tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "train: 1 files that are in no class's folder are left out ('loose.jpg', say)",
        "train: 1 classes have no images (empty, say)"]
    assert "a/nested,\"a folder, not an image\"" in (tmp_path / "out" / "skipped.csv").read_text()


def test_a_validation_image_twice(archives, tmp_path):
    source = shutil.copytree(archives[0], tmp_path / "source")
    jpeg = odd_files()["grey.JPEG"][0]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as images:
        for _ in range(10):
            member = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
            member.size = len(jpeg)
            images.addfile(member, io.BytesIO(jpeg))
    (source / "ILSVRC2012_img_val.tar").write_bytes(archive.getvalue())
    with pytest.raises(InputError, match="holds ILSVRC2012_val_00000001.JPEG twice"):
        run(source, tmp_path / "out")


def test_two_runs_at_once(archives, tmp_path):
    with prepare_module._work_folder(tmp_path / "out", {"sources": {}}), \
            pytest.raises(InputError, match="another run is at work"):
        run(archives[0], tmp_path / "out")


def test_what_passes_for_imagenet(tmp_path, monkeypatch, capsys):
    """Its 1,000 classes, two tiny images of each, in archives whose sizes and sums are declared to be the official
    ones: no --any-count is needed, nor for the folders that they are extracted to."""
    wnids = [line.split()[0] for line in (ROOT / "data" / "imagenet1k-synset.txt").read_text().splitlines()]
    numbers = np.random.RandomState(0).permutation(1000) + 1
    source, jpeg = tmp_path / "source", odd_files()["grey.JPEG"][0]
    source.mkdir()
    images = {"train": {f"{wnid}/{wnid}_{i}.JPEG": (jpeg, None) for wnid in wnids for i in range(2)},
              "val": {f"{wnid}/ILSVRC2012_val_{i:08d}.JPEG": (jpeg, None) for i, wnid in enumerate(wnids, 1)}}
    (source / "ILSVRC2012_img_train.tar").write_bytes(
        tar({f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": jpeg for i in range(2)}) for wnid in wnids}))
    (source / "ILSVRC2012_img_val.tar").write_bytes(tar({path.split("/")[1]: jpeg for path in images["val"]}))
    write_devkit(source / "ILSVRC2012_devkit_t12.tar.gz", numbers, dict(zip(wnids, numbers.tolist())))

    def declared(archive, images):
        path = source / archive.name
        return Archive(archive.name, path.stat().st_size, digest(path, "md5"), images)
    monkeypatch.setitem(ARCHIVES, "train", declared(ARCHIVES["train"], 2000))
    monkeypatch.setitem(ARCHIVES, "val", declared(ARCHIVES["val"], 1000))
    monkeypatch.setattr("common.packing.sources.DEVKIT", declared(DEVKIT, 0))
    dataset = run(source, tmp_path / "out", any_count=False, strict=True, verify_first=True)
    assert dataset["classes"] == wnids and set(dataset["parts"]["train"]["images_of_class"].values()) == {2}
    assert (tmp_path / "out" / "synset.txt").read_text() == (ROOT / "data" / "imagenet1k-synset.txt").read_text()
    assert capsys.readouterr().out.count(", the official one\n") == 4  # both archives, first and at the end
    for path, (label, _) in records(tmp_path / "out", "val").items():
        assert wnids[label] == path.split("/")[0]

    write_folders(tmp_path / "tree", images)
    run(tmp_path / "tree", tmp_path / "of-tree", any_count=False)
    assert without_description(tmp_path / "of-tree") == without_description(tmp_path / "out")
    next((tmp_path / "tree" / "train").glob("*/*")).unlink()
    with pytest.raises(InputError, match="train: 1999 images instead of ImageNet's 2000"):
        run(tmp_path / "tree", tmp_path / "fewer", any_count=False)


def test_a_wrong_md5_is_told(archives, tmp_path, monkeypatch, capsys):
    """With archives of the official sizes and classes it would be found at the end, or first with verify_first."""
    monkeypatch.setattr(prepare_module, "find_sources", lambda folder, any_count: find_sources(folder, any_count=True))
    with pytest.raises(InputError, match="--any-count is for other sets"):
        run(archives[0], tmp_path / "out", verify_first=True)
    with pytest.raises(InputError, match="img_val.tar: its MD5 is .* not the official 29b22e2961454d5413ddabcf34fc562"):
        run(archives[0], tmp_path / "out", any_count=False, verify_first=True)
    assert [path.name for path in (tmp_path / "out" / ".prepare").iterdir() if path.is_dir()] == []
    run(archives[0], tmp_path / "out", any_count=False)
    assert "not the official 1d675b47d978889d74fa0da5fadfb00e" in capsys.readouterr().err


def test_the_journal_keeps_what_was_committed(tmp_path):
    journal = Journal(tmp_path / "work")
    journal.append("a", b"one")
    journal.append("b", b"x")
    journal.commit({"step": 1})
    journal.append("a", b"two" * 100_000)
    journal.append("c", b"new")
    journal.remove("b")
    journal.close()
    journal = Journal(tmp_path / "work")
    assert journal.state == {"step": 1} and journal.length("a") == 3
    assert {path.name: path.read_bytes() for path in journal.folder.iterdir() if path.name in "abc"} == \
        {"a": b"one", "b": b"x"}
    journal.remove("b")
    journal.keep("a")
    journal.commit({"step": 2})
    journal.close()
    os.replace(tmp_path / "work" / "a", tmp_path / "a")
    assert Journal(tmp_path / "work").state == {"step": 2}
    (tmp_path / "work" / "state.json").write_text("{")
    with pytest.raises(InputError, match="damaged; remove"):
        Journal(tmp_path / "work")


def command(source, out, *flags):
    return [sys.executable, "tools/prepare_imagenet.py", str(source), str(out), "--short-side", str(SHORT_SIDE),
            "--any-count", *flags]


def test_the_command(archives, packed, tmp_path):
    process = subprocess.run(command(archives[0], tmp_path / "out"), cwd=ROOT, capture_output=True, text=True,
                             check=True)
    assert process.stdout.splitlines()[-2:] == [f"{tmp_path}/out/val.rec: 10 images of 3 classes, 0 skipped",
                                                f"{tmp_path}/out/train.rec: 50 images of 3 classes, 10 skipped"]
    assert contents(tmp_path / "out") == contents(packed)
    process = subprocess.run(command(archives[0], tmp_path / "strict", "--strict"), cwd=ROOT, capture_output=True,
                             text=True)
    assert process.returncode == 1 and process.stderr.startswith("prepare_imagenet.py: error: ")
    assert len(process.stderr.splitlines()) == 1


IN_A_SMALL_FOLDER = """
set -e
mount -t tmpfs -o size=100k none "$1"
if {command} 2> "$2/err"; then exit 9; fi
ls -A "$1" > "$2/left"
mount -o remount,size=50m "$1"
{command}
cp "$1"/* "$2"
"""


def test_a_full_disk(archives, packed, tmp_path):
    """Told in one line; once there is space, the work goes on."""
    small, copy = tmp_path / "small", tmp_path / "copy"
    small.mkdir()
    copy.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", small], capture_output=True).returncode:
        pytest.skip("needs unshare and a mount of its own")
    script = IN_A_SMALL_FOLDER.format(command=shlex.join(command(archives[0], small)))
    subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", small, copy], cwd=ROOT, check=True,
                   capture_output=True)
    assert (copy / "err").read_text() == (f"prepare_imagenet.py: error: {small}: the disk is full; make space and "
                                          "run the same command again: it goes on where it was\n")
    assert (copy / "left").read_text() == ".prepare\n"
    (copy / "err").unlink()
    (copy / "left").unlink()
    assert contents(copy) == contents(packed)


@pytest.mark.long
def test_killed_at_random_moments(archives, tree, packed, tmp_path):
    """SIGKILL, ten times, over the whole time that the work takes; then a rerun."""
    rng = np.random.RandomState(0)
    driver = ("import sys; from common.packing.prepare import prepare; "
              f"prepare(sys.argv[1], sys.argv[2], short_side={SHORT_SIDE}, any_count=True, commit_seconds=0)")
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", driver, archives[0], tmp_path / "whole"], cwd=ROOT, check=True)
    whole = time.monotonic() - start
    run(tree, tmp_path / "of-tree")
    expected = {archives[0]: contents(packed), tree: contents(tmp_path / "of-tree")}
    for kill in range(10):
        for source in expected:
            out = tmp_path / f"{source.name}-{kill}"
            process = subprocess.Popen([sys.executable, "-c", driver, source, out], cwd=ROOT)
            time.sleep(rng.uniform(0.1, whole))
            process.send_signal(signal.SIGKILL)
            process.wait()
            run(source, out)
            assert contents(out) == expected[source]

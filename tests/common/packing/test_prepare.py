"""ImageNet's archives into RecordIO: what goes in comes out."""
import csv
import io
import subprocess

import cv2
import numpy as np
import PIL.Image
import pytest

from common.base.errors import InputError
from common.find_mxnet import mx
from common.images.dataset import read_dataset
from common.images.recordio import check_records
from common.packing.unfinished import Unfinished
from tests.archives import CLASSES
from tests.conftest import ROOT
from tests.packing import SHORT_SIDE, command, contents, records, run, without_description


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


def test_every_image_comes_out_with_its_label_and_content(archives, reference):
    """Against the image that was encoded, resized by NumPy, CMYK, rotation and all: two compressions apart."""
    labels = {wnid: label for label, wnid in enumerate(sorted(CLASSES))}
    for part, images in archives[1].items():
        found = records(reference, part)
        assert set(found) == {path for path, (_, rgb) in images.items() if rgb is not None}
        for path, (label, image) in found.items():
            assert label == labels[path.split("/")[0]]
            expected = resized(images[path][1])
            assert image.shape == expected.shape
            assert np.abs(image[:, :, ::-1] - expected).mean() < 3, path


def test_packing_costs_no_more_than_one_compression(archives, reference):
    """Against Pillow's decoder, and of what is too large NumPy's resizing and one compression: equal but for
    rounding."""
    images = {**archives[1]["train"], **archives[1]["val"]}
    found = {**records(reference, "train"), **records(reference, "val")}
    plain = [path for path in found if path.rsplit("_", 1)[1][0].isdigit()]
    assert len(plain) == 37
    for path in plain:
        image = found[path][1]
        with PIL.Image.open(io.BytesIO(images[path][0])) as original:
            expected = resized(np.asarray(original))[:, :, ::-1].round().astype(np.uint8)
        if min(original.size) > SHORT_SIDE:
            jpeg = cv2.imencode(".jpg", expected, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            expected = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        assert np.abs(image.astype(int) - expected).mean() < 1, path


def test_what_cannot_be_read_is_listed(archives, reference):
    with open(reference / "skipped.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["part", "name", "reason"]
    broken = {path for path, (_, rgb) in archives[1]["train"].items() if rgb is None}
    assert {name for _, name, _ in rows[1:]} == broken and len(broken) == 9
    reasons = {name.split("_", 1)[1]: reason for _, name, reason in rows[1:]}
    assert reasons["empty.JPEG"] == "empty file" and reasons["text.JPEG"] == "not an image"
    assert "truncated" in reasons["truncated.JPEG"]


def test_the_description(archives, reference):
    dataset = read_dataset(reference)
    assert dataset["classes"] == sorted(CLASSES) and dataset["options"]["short_side"] == SHORT_SIDE
    assert dataset["parts"]["val"]["images_of_class"] == {"n00000007": 2, "n00000011": 5, "n00000042": 3}
    assert dataset["parts"]["train"]["images"] == 27 + 24 and dataset["parts"]["train"]["skipped"] == 9
    for part in ("train", "val"):
        for name, file in dataset["parts"][part]["files"].items():
            sha256 = subprocess.run(["sha256sum", reference / name], capture_output=True, text=True, check=True).stdout
            assert file == {"bytes": (reference / name).stat().st_size, "sha256": sha256.split()[0]}
        archive = archives[0] / f"ILSVRC2012_img_{part}.tar"
        md5 = subprocess.run(["md5sum", archive], capture_output=True, text=True, check=True).stdout
        assert dataset["parts"][part]["source_md5"] == md5.split()[0]
    assert (reference / "synset.txt").read_text().split() == sorted(CLASSES)
    records = [f"{part}.{kind}" for part in ("train", "val") for kind in ("rec", "idx", "lst")]
    assert sorted(contents(reference)) == sorted(["dataset.json", "skipped.csv", "synset.txt", *records])


def test_the_order(reference):
    """Validation by class and name; training by the seed, the classes mixed."""
    val, train = (list(records(reference, part)) for part in ("val", "train"))
    assert val == sorted(val)
    assert train != sorted(train)
    changes = sum(a.split("/")[0] != b.split("/")[0] for a, b in zip(train, train[1:]))
    assert changes > len(train) / 2  # two of three neighbours differ where three classes are mixed


def test_mxnet_reads_them(reference):
    """ImageRecordIter, ImageIter and Gluon's data set, which is how sets made by im2rec.py are read."""
    expected = {part: [label for label, _ in records(reference, part).values()] for part in ("train", "val")}
    for part, labels in expected.items():
        count = len(labels)
        prefix = str(reference / part)
        images = mx.io.ImageRecordIter(path_imgrec=f"{prefix}.rec", path_imgidx=f"{prefix}.idx", data_shape=(3, 32, 32),
                                       batch_size=count, verbose=False)
        assert next(images).label[0].asnumpy().tolist() == labels
        images = mx.image.ImageIter(count, (3, 32, 32), path_imgrec=f"{prefix}.rec", path_imgidx=f"{prefix}.idx")
        assert images.next().label[0].asnumpy().ravel().tolist() == labels
        assert [label for _, label in mx.gluon.data.vision.ImageRecordDataset(f"{prefix}.rec")] == labels
        assert check_records(f"{prefix}.rec") == (f"{prefix}.idx", count)


def test_folders_give_the_same_records_as_archives(tree, reference, tmp_path):
    run(tree, tmp_path / "out")
    assert without_description(tmp_path / "out") == without_description(reference)
    (tree / "train" / "n00000007" / b"\xff.jpg".decode("utf-8", "surrogateescape")).write_text("x")
    assert run(tree, tmp_path / "odd")["parts"]["train"]["skipped"] == 10
    (tree / "train" / "n00000007" / b"\xff.jpg".decode("utf-8", "surrogateescape")).unlink()
    assert "\\udcff.jpg,its name has characters that a .lst file cannot hold" in \
        (tmp_path / "odd" / "skipped.csv").read_text()


def test_a_part_of_the_classes_keeps_the_labels_of_all(archives, tree, tmp_path):
    """In the order of the file, whatever that is; and the file is part of what a data set is."""
    lines = ["n00000099 none of them", "n00000042 last, and first here", "n00000001", "n00000007 first", "n00000011"]
    labels = {line.split()[0]: label for label, line in enumerate(lines)}
    synset = tmp_path / "classes.txt"
    synset.write_text("\n".join(lines))
    dataset = run(tree, tmp_path / "out", synset=synset)
    assert dataset["classes"] == list(labels) and (tmp_path / "out" / "synset.txt").read_text().splitlines() == lines
    for part in ("train", "val"):
        found = records(tmp_path / "out", part)
        assert {path.split("/")[0] for path in found} == set(CLASSES)
        assert all(label == labels[path.split("/")[0]] for path, (label, _) in found.items())
        assert dataset["parts"][part]["images_of_class"]["n00000099"] == 0
    before = contents(tmp_path / "out")
    assert run(tree, tmp_path / "out", synset=synset) == dataset
    synset.write_text("\n".join([*lines[:-1], "n00000011 with a name"]))
    for other in (synset, None):
        with pytest.raises(InputError, match="made with other options.synset_sha256"):
            run(tree, tmp_path / "out", synset=other)
    assert contents(tmp_path / "out") == before
    with pytest.raises(InputError, match="--synset .*: is for folders; the classes of .*tar are known"):
        run(archives[0], tmp_path / "of-archives", synset=synset)
    with pytest.raises(InputError, match="synset.txt: is read here, and would be overwritten"):
        run(tree, tmp_path / "out", synset=tmp_path / "out" / "synset.txt")


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_and_buckets_changes_nothing(archives, tree, reference, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("common.packing.part.BUCKET_BYTES", 20_000)
    run(archives[0], tmp_path / "out", workers=workers)
    assert contents(tmp_path / "out") == contents(reference)
    run(tree, tmp_path / "of-tree", workers=workers)
    assert without_description(tmp_path / "of-tree") == without_description(reference)


def test_the_disk_that_it_takes(archives, reference, tmp_path, monkeypatch):
    """While an archive is sorted: hardly more than the records, and nothing when it is done."""
    monkeypatch.setattr("common.packing.part.BUCKET_BYTES", 20_000)
    out, commit, used = tmp_path / "out", Unfinished.commit, []

    def measured(work):
        commit(work)
        work.wait()
        used.append(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()))
    monkeypatch.setattr(Unfinished, "commit", measured)
    run(archives[0], out, commit_seconds=0)
    records = sum(len(content) for content in contents(reference).values())
    assert 0.9 * records < max(used) < 1.3 * records and len(used) > 50
    assert contents(out) == contents(reference)


def test_the_seed_changes_the_order_of_training_alone(archives, reference, tmp_path):
    run(archives[0], tmp_path / "out", seed=1)
    one, other = records(reference, "train"), records(tmp_path / "out", "train")
    assert list(one) != list(other) and sorted(one) == sorted(other)
    assert (tmp_path / "out" / "val.rec").read_bytes() == (reference / "val.rec").read_bytes()


def test_images_are_enlarged_when_asked(archives, tmp_path):
    run(archives[0], tmp_path / "out", short_side=150, enlarge=True)
    assert {min(image.shape[:2]) for _, image in records(tmp_path / "out", "train").values()} == {150}


def test_the_command(archives, reference, tmp_path):
    process = subprocess.run(command(archives[0], tmp_path / "out"), cwd=ROOT, capture_output=True, text=True,
                             check=True)
    assert process.stdout.splitlines()[-2:] == [f"{tmp_path}/out/val.rec: 10 images of 3 classes, 0 skipped",
                                                f"{tmp_path}/out/train.rec: 51 images of 3 classes, 9 skipped"]
    assert contents(tmp_path / "out") == contents(reference)
    process = subprocess.run(command(archives[0], tmp_path / "strict", "--strict"), cwd=ROOT, capture_output=True,
                             text=True)
    assert process.returncode == 1 and process.stderr.startswith("prepare_imagenet.py: error: ")
    assert len(process.stderr.splitlines()) == 1


def test_a_jpeg_that_needs_no_change_is_packed_as_it_is(tmp_path):
    """And every other one as a usual JPEG; a quality that is asked for is that of all."""
    pixels = np.random.default_rng(0).integers(0, 256, (SHORT_SIDE, SHORT_SIDE + 8, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 1
    odd = {"usual": {}, "fine": {"subsampling": 0}, "progressive": {"progressive": True}, "exif": {"exif": exif}}
    for part in ("train", "val"):
        (tmp_path / "images" / part / "a").mkdir(parents=True)
        for name, options in odd.items():
            PIL.Image.fromarray(pixels).save(tmp_path / "images" / part / "a" / f"{name}.jpg", quality=60, **options)
        PIL.Image.fromarray(pixels[..., 0]).save(tmp_path / "images" / part / "a" / "grey.jpg", quality=60)
        PIL.Image.fromarray(pixels).resize((SHORT_SIDE + 1,) * 2).save(
            tmp_path / "images" / part / "a" / "large.jpg", quality=60)

    def kept(**options):
        run(tmp_path / "images", tmp_path / "out", **options)
        packed = (tmp_path / "out" / "val.rec").read_bytes()
        return {file.stem for file in (tmp_path / "images" / "val" / "a").iterdir() if file.read_bytes() in packed}

    assert kept() == {"usual", "fine"}
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    assert not kept(quality=60)

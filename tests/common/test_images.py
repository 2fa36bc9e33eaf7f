"""Preprocessing and RecordIO: what from_mxnet.py sees is what evaluation feeds the network."""
import argparse

import cv2
import numpy as np
import pytest

from common.data import AUGMENTATION, evaluation_iter, training_iter
from common.errors import InputError
from common.find_mxnet import mx
from common.preprocess import RGB_MEAN, RGB_STD, preprocess, read_image, resize_for
from common.recordio import check_records, pack_folder


def options(prefix, **changes):
    augmentation = {flag.replace("-", "_"): default for flag, _, _, default, _ in AUGMENTATION}
    return argparse.Namespace(**{**augmentation, **dict(
        data_train=f"{prefix}.rec", data_train_idx="", data_val=f"{prefix}.rec", data_val_idx="",
        image_shape=(3, 48, 48), rgb_mean=RGB_MEAN, rgb_std=RGB_STD, num_classes=2, num_examples=None,
        data_nthreads=2, batch_size=10,
        pad_size=0, fill_value=127, benchmark=0, seed=0), **changes})


class Worker:
    rank, num_workers = 0, 1


def records(prefix):
    """(label, encoded image) of each record, read with MXNet's own reader."""
    reader = mx.recordio.MXIndexedRecordIO(f"{prefix}.idx", f"{prefix}.rec", "r")
    unpacked = [mx.recordio.unpack(reader.read_idx(key)) for key in reader.keys]
    return [(int(header.label), image) for header, image in unpacked]


def test_resize_keeps_the_proportion_of_256_to_224():
    assert [resize_for(n) for n in (224, 48, 97, 192)] == [256, 55, 111, 219]


def test_preprocess_by_hand():
    image = np.random.RandomState(0).randint(0, 256, (300, 451, 3)).astype(np.uint8)
    resized = cv2.resize(image, (384, 256), interpolation=cv2.INTER_AREA)
    cropped = resized[16:240, 80:304].astype(np.float64)
    expected = np.stack([cropped[:, :, 2] - 123.68, cropped[:, :, 1] - 116.78, cropped[:, :, 0] - 103.94])
    output = preprocess(image)
    assert output.dtype == np.float32 and output.shape == (1, 3, 224, 224) and output.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(output[0], expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 48, 48), (3, 224, 224), (3, 64, 48), (3, 33, 97)])
def test_preprocess_equals_what_evaluation_feeds_the_network(packed, shape):
    """Shrunk and enlarged images, and input shapes that are not square."""
    batches = evaluation_iter(options(packed, image_shape=shape, rgb_std=(58.4, 57.1, 57.4)), 2)
    fed = np.concatenate([batch.data[0].asnumpy() for batch in batches])
    for data, (_, encoded) in zip(fed, records(packed)):
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_allclose(preprocess(image, shape, RGB_MEAN, (58.4, 57.1, 57.4))[0], data, atol=1e-4)


def test_packing_keeps_labels_order_and_size(photographs, packed):
    files = sorted(photographs.glob("*/*.jpg"))
    packed_records = records(packed)
    assert [label for label, _ in packed_records] == [int(file.parent.name == "n0002") for file in files]
    assert (packed.parent / "val.lst").read_text().splitlines()[0] == "0\t0.000000\tn0001/000.jpg"
    for file, (_, encoded) in zip(files, packed_records):
        original = cv2.imread(str(file)).shape[:2]
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        assert min(image.shape[:2]) == min(80, *original)
    assert check_records(f"{packed}.rec") == (f"{packed}.idx", 103)


def test_packing_is_shuffled_by_the_seed(photographs, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack_folder(photographs, tmp_path / name, short_side=40, shuffle_seed=seed)
    assert (tmp_path / "a.rec").read_bytes() == (tmp_path / "b.rec").read_bytes()
    labels = [[label for label, _ in records(tmp_path / name)] for name in "ac"]
    assert labels[0] != labels[1] and sorted(labels[0]) == sorted(labels[1]) and labels[0] != sorted(labels[0])


def test_packing_a_broken_image_leaves_nothing_behind(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="x.jpg: not an image"):
        pack_folder(tmp_path / "images", tmp_path / "out" / "train")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(InputError, match="no images"):
        pack_folder(tmp_path / "out", tmp_path / "train")
    with pytest.raises(InputError, match="No such file"):
        pack_folder(tmp_path / "nowhere", tmp_path / "train")


def test_exif_orientation_is_applied(tmp_path):
    from PIL import Image
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (40, 20, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_images_are_refused(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    cv2.imwrite(str(path), np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    assert read_image(path).shape == (64, 64, 3)
    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 100):
        path.write_bytes(content[:size])
        with pytest.raises(InputError) as error:
            read_image(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="No such file"):
        read_image(tmp_path / "missing.jpg")


@pytest.mark.parametrize("cut", [1, 4, 400, 3000])
def test_truncated_records_are_refused(packed, tmp_path, cut):
    path = tmp_path / "x.rec"
    path.write_bytes((packed.parent / "val.rec").read_bytes()[:-cut])
    with pytest.raises(InputError, match="truncated"):
        check_records(path)


def test_a_file_cut_between_two_records_is_refused_by_its_index(packed, tmp_path):
    offsets = [int(line.split()[1]) for line in (packed.parent / "val.idx").read_text().splitlines()]
    path = tmp_path / "x.rec"
    path.write_bytes((packed.parent / "val.rec").read_bytes()[:offsets[-1]])
    assert check_records(path) == ("", None)
    with pytest.raises(InputError, match="not copied whole"):
        check_records(path, f"{packed}.idx")


def test_other_record_files_are_refused(tmp_path, packed):
    path = tmp_path / "x.rec"
    with pytest.raises(InputError, match="No such file"):
        check_records(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        check_records(path)
    path.write_bytes(b"not records " * 100)
    with pytest.raises(InputError, match="not a RecordIO file"):
        check_records(path)


def test_the_magic_number_inside_an_image_is_no_record(tmp_path):
    magic = b"\x0a\x23\xd7\xce"
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    for payload in (b"a" * 7, b"b" + magic + b"c" * 9, magic * 3, b"d" * 3):
        writer.write(payload)
    writer.close()
    check_records(tmp_path / "x.rec")
    content = (tmp_path / "x.rec").read_bytes()
    (tmp_path / "x.rec").write_bytes(content[:-12])  # without the last record: whole again
    check_records(tmp_path / "x.rec")
    (tmp_path / "x.rec").write_bytes(content[:-16])
    with pytest.raises(InputError, match="truncated"):
        check_records(tmp_path / "x.rec")


def test_an_index_of_another_file_is_refused(packed, tmp_path):
    idx = tmp_path / "x.idx"
    for content in ("0\t0\n1\t999999999\n", "0\t0\n1\t10\n", "0 0\n", "a\tb\n", ""):
        idx.write_text(content)
        with pytest.raises(InputError, match=r"x\.idx"):
            check_records(f"{packed}.rec", idx)


@pytest.mark.parametrize("batch_size", [1, 10, 103, 200])
def test_evaluation_counts_every_image_once_in_every_pass(packed, batch_size):
    images = evaluation_iter(options(packed, batch_size=batch_size), 2)
    for _ in range(3):
        images.reset()
        labels = np.concatenate([batch.label[0].asnumpy()[:batch_size - batch.pad] for batch in images])
        assert labels.tolist() == [0] * 52 + [1] * 51


def test_every_epoch_of_training_has_the_same_number_of_batches(packed):
    images, batches = training_iter(options(packed), Worker)
    assert batches == 10
    for _ in range(3):
        images.reset()
        assert [batch.data[0].shape for batch in images] == [(10, 3, 48, 48)] * 10


def test_a_seed_gives_the_same_training_images(packed):
    passes = [next(training_iter(options(packed, seed=seed), Worker)[0]).data[0].asnumpy() for seed in (3, 3, 4)]
    assert (passes[0] == passes[1]).all() and (passes[0] != passes[2]).any()


@pytest.mark.parametrize("make", [lambda args: training_iter(args, Worker)[0], lambda args: evaluation_iter(args, 1)])
def test_labels_outside_the_classes_are_refused(packed, make):
    images = make(options(packed, num_classes=1))
    with pytest.raises(InputError, match="label 1, but the network's classes are 0 to 0"):
        for _ in images:
            pass


@pytest.mark.parametrize(("changes", "message"), [
    ({"data_train": None}, "--data-train"),
    ({"data_train": "nowhere.rec"}, "nowhere.rec: No such file"),
    ({"data_train_idx": "nowhere.idx"}, "nowhere.idx: No such file"),
    ({"batch_size": 104}, "--batch-size 104"),
])
def test_training_data_that_cannot_be_used(packed, changes, message):
    with pytest.raises(InputError, match=message):
        training_iter(options(packed, **changes), Worker)


def test_without_an_index_the_number_of_examples_is_needed(packed, tmp_path):
    alone = tmp_path / "alone.rec"
    alone.write_bytes((packed.parent / "val.rec").read_bytes())
    with pytest.raises(InputError, match="--num-examples"):
        training_iter(options(tmp_path / "alone"), Worker)
    assert training_iter(options(tmp_path / "alone", num_examples=103), Worker)[1] == 10

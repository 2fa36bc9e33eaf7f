"""Every program that reads images takes the same ones, and turns or leaves them as it is to."""
import argparse
import csv
import io
import os
import re
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

import from_mxnet
from benchmarks import precisions
from common.base.errors import InputError
from common.checkpoint.preprocessing import Preprocessing
from common.data import jpeg_box
from common.data.augmentation import Augmentation
from common.data.evaluation_images import EvaluationIter
from common.data.heads import check_heads
from common.data.training_images import TrainingImages
from common.images import pixel_limit as pixel_limit
from common.images.decoding import decode, image_size
from common.images.pixel_limit import room_for
from common.images.preprocess import preprocess, read_image
from common.images.recordio import image_record
from common.inference.classify import classify_images, images_in
from common.packing.inspection import problems
from common.packing.prepare import prepare
from tests.archives import encoded, odd_files, photograph, with_orientation
from tests.conftest import ROOT
from tests.images import HEIGHT, IMAGE, WIDTH, chunk, images, png
from tools import calibrate

FILES = images()
SHAPE, PREPARED = (3, 32, 32), Preprocessing(resize=40, crop=32)
ARGS = argparse.Namespace(image_shape=SHAPE, crop_ratio=32 / 40, rgb_mean=PREPARED.mean, rgb_std=PREPARED.std, labels=1)


def refusal(read):
    """The reason, None where it reads."""
    try:
        read()
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def in_record(path, content):
    path.write_bytes(image_record(0, 0, content))
    return str(path)


def packed(folder, tmp_path):
    prepare(folder, tmp_path / "out", any_count=True, short_side=40)
    with open(tmp_path / "out" / "skipped.csv", newline="") as file:
        return {row["name"].split("/")[1]: row["reason"] for row in csv.DictReader(file)}


def photographs(folder, _):
    answers = classify_images(images_in([folder]), lambda data: np.zeros((4, 2)), (4, *SHAPE), PREPARED)
    return {answer.path.split("/")[-1]: answer.error for answer in answers}


def photograph_alone(folder, _):
    return {path.name: refusal(lambda path=path: from_mxnet.prepared(str(path), ARGS))
            for path in folder.glob("train/a/*")}


def of_records(read):
    def refusals(folder, tmp_path):
        return {path.name: refusal(lambda path=path: read(in_record(tmp_path / "x.rec", path.read_bytes())))
                for path in folder.glob("train/a/*")}
    return refusals


def evaluated(rec):
    for _ in EvaluationIter(rec, "", 1, SHAPE, PREPARED, 1, 1):
        pass


def inspected(rec):
    for problem in problems(rec, 1):
        raise InputError(problem)


def calibrated(rec):
    (_, read), = calibrate.records(rec, lambda offsets: offsets)
    read()


def benchmarked(rec):
    precisions.read_images(argparse.Namespace(**{**vars(ARGS), "images": rec}))


def trained(rec):
    """On crops that show the whole image."""
    for _ in TrainingImages(((rec, ""),), np.array([0]), 1, Augmentation(HEIGHT, WIDTH), (0.0,) * 3, (1.0,) * 3, 1, 1,
                            (0,)):
        pass


def trained_without_library(rec):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg_box, "library", lambda: None)
        trained(rec)


READERS = {read.__name__: read for read in (packed, photographs, photograph_alone)} | {
    read.__name__: of_records(read) for read in (evaluated, inspected, calibrated, benchmarked, trained,
                                                 trained_without_library)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/a/NAME of all FILES."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "train" / "a").mkdir(parents=True)
    for name, (content, _) in FILES.items():
        (folder / "train" / "a" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_all_programs_take_the_same_images(folder, tmp_path, capfd, reader):
    """But for what comes after the last pixel, where training does not look."""
    refused = {name: reason for name, reason in READERS[reader](folder, tmp_path).items() if reason}
    unseen = {"zeros-before-eoi.jpg"} if reader == "trained" and jpeg_box.library() else set()
    assert refused.keys() == {name for name, (_, reason) in FILES.items() if reason} - unseen
    for name, reason in refused.items():
        assert re.search(FILES[name][1], reason), (name, reason)
    assert capfd.readouterr().err == ""  # where libraries would print of files without their names


def test_the_public_examples(testdata):
    whole = {path.name for path in (testdata / "cases" / "images").iterdir()
             if not refusal(lambda path=path: decode(path.read_bytes(), upright=True))}
    assert whole == {"without-eoi.jpg"}


MEMORY = """
import resource, sys
from common.images.decoding import decode
from common.base.errors import ImageError
from tests.images import images
files = images()
decode(files["usual.jpg"][0], upright=True), decode(files["usual.png"][0], upright=True)
for name, (content, reason) in files.items():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        decode(content, upright=True)
    except ImageError:
        pass
    print(name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_what_an_image_claims_costs_nothing():
    output = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    taken = dict(line.split() for line in output.splitlines())
    assert taken.keys() == FILES.keys() and max(map(int, taken.values())) < 100, taken  # megabytes


def test_no_file_or_record_of_more_than_256_mib():
    assert refusal(lambda: decode(bytes((256 << 20) + 1), upright=True)) == "more than 256 MiB"


def noisy_pngs():
    """One of each kind of pixels."""
    random = np.random.RandomState(0)
    for colours, channels, depths in ((0, 1, (1, 2, 4, 8, 16)), (2, 3, (8, 16)), (3, 1, (1, 2, 4, 8)), (4, 2, (8, 16)),
                                      (6, 4, (8, 16))):
        for depth in depths:
            palette = [chunk(b"PLTE", random.bytes(3 << depth))] if colours == 3 else []
            rows = b"".join(b"\0" + random.bytes(-(-WIDTH * channels * depth // 8)) for _ in range(HEIGHT))
            yield png(rows, WIDTH, HEIGHT, depth, colours, palette)


def noisy_webps():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8))
    for options in ({}, {"lossless": True}, {"exact": True}, {"save_all": True, "append_images": [image.rotate(9)]}):
        file = io.BytesIO()
        image.save(file, "WEBP", **options)
        yield file.getvalue()


def test_pixels_are_those_of_opencv():
    """Of what that reads, which is neither GIF nor what lacks its end."""
    noise = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    contents = [*noisy_pngs(), *noisy_webps(), simplejpeg.encode_jpeg(noise, 100, "CMYK", "444"),
                *(simplejpeg.encode_jpeg(IMAGE, 80, "RGB", kind) for kind in ("444", "422", "420", "440", "411")),
                *(content for content, rgb in odd_files().values() if rgb is not None),
                *(content for content, reason in FILES.values() if not reason)]
    compared = 0
    for content in contents:
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if expected is None:
            continue
        compared += 1
        np.testing.assert_array_equal(decode(content, upright=False), expected, repr(content[:20]))
    assert compared > 60


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_photographs_are_turned_and_records_are_not(tmp_path, image_format):
    """As im2rec.py --pass-through stores it, and ImageRecordIter reads it."""
    content = with_orientation(photograph(5, HEIGHT, WIDTH), 6, image_format)
    (tmp_path / "x").write_bytes(content)
    record = in_record(tmp_path / "x.rec", content)
    stored, turned = (preprocess(decode(content, upright=upright), SHAPE, PREPARED)[0] for upright in (False, True))
    assert image_size(content) == (HEIGHT, WIDTH) and read_image(tmp_path / "x").shape == (HEIGHT, WIDTH, 3)
    assert np.abs(stored - turned).max() > 50
    evaluated = next(EvaluationIter(record, "", 1, SHAPE, PREPARED, 1, 1)).data[0].asnumpy()[0]
    np.testing.assert_array_equal(evaluated, stored)
    np.testing.assert_array_equal(next(calibrate.prepared(calibrate.records(record, list), ARGS))[0], stored)
    np.testing.assert_array_equal(precisions.read_images(argparse.Namespace(**vars(ARGS), images=record))[0][0][0],
                                  stored)
    np.testing.assert_array_equal(from_mxnet.prepared(tmp_path / "x", ARGS)[0], turned)


def test_threads_wait_for_room(monkeypatch):
    """Whatever their number, no more pixels are decoded at a time than of one image."""
    monkeypatch.setattr(pixel_limit, "MAX_PIXELS", 100)
    entered, leave, order = threading.Event(), threading.Event(), []

    def hold(name, pixels, wait=None):
        with room_for(pixels):
            order.append(name)
            if wait:
                entered.set()
                assert wait.wait(30)
    first = threading.Thread(target=hold, args=("first", 60, leave))
    first.start()
    assert entered.wait(30)
    hold("beside it", 40)
    second = threading.Thread(target=hold, args=("after it", 41))
    second.start()
    second.join(0.1)
    assert order == ["first", "beside it"]
    leave.set()
    second.join(30)
    assert order[2:] == ["after it"]
    with pytest.raises(ZeroDivisionError), room_for(100):
        raise ZeroDivisionError
    hold("after an error", 100)


@pytest.mark.parametrize(("value", "line"), [
    ("20000", r"x.jpg: 200x150 pixels, more than 20000: set MOBILENETV2_MAX_PIXELS to decode it"),
    ("1e6", "the environment's MOBILENETV2_MAX_PIXELS is '1e6': give a number of pixels, or unset it"),
    ("0", "the environment's MOBILENETV2_MAX_PIXELS is '0': give a number of pixels, or unset it"),
    ("30000", "n-symbol.json: No such file"),
])
def test_the_environment_sets_the_limit(tmp_path, value, line):
    (tmp_path / "x.jpg").write_bytes(encoded(photograph(0, 150, 200)))
    process = subprocess.run([sys.executable, "from_mxnet.py", tmp_path / "x.jpg", "--model-prefix", tmp_path / "n",
                              "--target", "llvm"], cwd=ROOT, capture_output=True, text=True,
                             env={**os.environ, "MOBILENETV2_MAX_PIXELS": value})
    assert process.returncode == 1 and re.fullmatch(f"from_mxnet.py: error: .*{line}.*\n", process.stderr)


def records_of(path, *images, first_label=0):
    path.write_bytes(b"".join(image_record(first_label + number, number, content)
                              for number, content in enumerate(images)))
    return str(path)


def test_heads_tell_of_labels_and_sizes(tmp_path):
    usual, long_head = FILES["usual.jpg"][0], encoded(IMAGE, exif=b"Exif\0\0" + bytes(9000))
    images = [usual, long_head, FILES["half.jpg"][0], FILES["usual.png"][0], FILES["half.png"][0]]
    rec = [(records_of(tmp_path / "x.rec", *images), "")]
    check_heads(rec, 5)
    with pytest.raises(InputError, match="x.rec: record 4 has label 4, but the network's classes are 0 to 3"):
        check_heads(rec, 4)
    check_heads(rec, 4, part=1, parts=2)
    for name in ("claims-most-usual.jpg", "animated-canvas.webp", "text.jpg", "empty.jpg", "header-alone.jpg"):
        rec = [(records_of(tmp_path / "y.rec", usual, FILES[name][0]), "")]
        with pytest.raises(InputError, match=f"y.rec: record 1: .*{FILES[name][1]}"):
            check_heads(rec, 2)
        check_heads(rec, 2, skip_damaged=True)


def test_damaged_images_are_left_out_where_that_is_wanted(tmp_path):
    """Batches of them alone, and the last one, included; labels that are wrong are errors as ever."""
    usual, half = FILES["usual.jpg"][0], FILES["half-then-eoi.jpg"][0]
    rec = records_of(tmp_path / "x.rec", usual, half, half, half, usual, usual, half)

    def pass_over(**options):
        images = EvaluationIter(rec, "", 2, SHAPE, PREPARED, 7, 1, **options)
        for _ in range(2):
            images.reset()
            seen = [(batch.index.tolist(), batch.label[0].asnumpy()[:2 - batch.pad].tolist()) for batch in images]
        return seen, images.skipped
    seen = [([0], [0]), ([4, 5], [4, 5])]
    assert pass_over(skip_damaged=True) == (seen, 4)
    assert pass_over(skip_damaged=True, part=1, parts=2) == ([([5], [5])], 2)
    with pytest.raises(InputError, match="x.rec: record 1: damaged or truncated image"):
        pass_over()
    images = EvaluationIter(rec, "", 2, SHAPE, PREPARED, 7, 1, skip_damaged=True)
    images.check(decode=True)
    assert images.skipped == 4
    with pytest.raises(InputError, match="record 6 has label 6"):
        EvaluationIter(rec, "", 2, SHAPE, PREPARED, 6, 1, skip_damaged=True).check(decode=False)
    EvaluationIter(rec, "", 2, SHAPE, PREPARED, 7, 1).check(decode=False)
    with pytest.raises(InputError, match="x.rec: record 1: damaged"):
        EvaluationIter(rec, "", 2, SHAPE, PREPARED, 7, 1).check(decode=True)

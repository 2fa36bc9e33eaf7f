"""Damaged files of what is trained on and trained by: read, or refused in one line that names the file."""
import json
import logging
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import train_imagenet
from common.base.errors import InputError
from common.checkpoint.preprocessing import Preprocessing
from common.curves.read import read_published, read_run
from common.data.augmentation import Augmentation
from common.data.evaluation_images import EvaluationIter
from common.data.training_images import TrainingImages, offsets_of
from common.find_mxnet import mx
from common.images.class_names import read_synset
from common.images.dataset import packed_as
from common.images.preprocess import preprocess, read_image
from common.images.recordio import check_records
from common.packing.inspection import problems, summarise
from common.training.recipe import resolve
from common.training.saved_state import newest_state
from tests.conftest import ROOT
from tests.fuzzing import IMAGES, cases, changed_bytes, changed_json, fuzz
from tests.images import images

SHAPE = (3, 32, 32)
COUNTS = [20, pytest.param(10_000, marks=pytest.mark.long)]


@pytest.fixture(scope="module")
def run(packed, tmp_path_factory):
    """PREFIX of a run of one epoch, with all its files."""
    prefix = tmp_path_factory.mktemp("run") / "x"
    train_imagenet.main(["--data-train", f"{packed}.rec", "--num-classes", "2", "--multiplier", "0.1", "--num-epochs",
                         "1", "--image-shape", "3,32,32", "--model-prefix", str(prefix), "--ema", "0.9"])
    return prefix


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """PREFIX of six records of images, of which training and evaluation see whatever a change hits."""
    prefix = tmp_path_factory.mktemp("records") / "x"
    writer = mx.recordio.MXIndexedRecordIO(f"{prefix}.idx", f"{prefix}.rec", "w")
    for number in range(6):
        image = np.random.RandomState(number).randint(0, 256, (40, 33 + number, 3)).astype(np.uint8)
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, number % 2])[1].tobytes()
        writer.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(0, number % 2, number, 0), encoded))
    writer.close()
    return prefix


def read_records_of(prefix):
    """As evaluation, training and inspection do."""
    rec = f"{prefix}.rec"
    for batch in EvaluationIter(rec, "", 2, SHAPE, Preprocessing(40, 32), 2, 1):
        assert np.isfinite(batch.data[0].asnumpy()).all()
    files = ((rec, check_records(rec)[0]),)
    offsets_of.cache_clear()  # the file of this name was another one
    numbers = np.arange(len(offsets_of(files)[0]) // 2 * 2)
    for batch in TrainingImages(files, numbers, 2, Augmentation(*SHAPE[1:], rand_crop=1), (0.0,) * 3, (1.0,) * 3, 2, 1,
                                (0,)):
        assert np.isfinite(batch.data[0].asnumpy()).all()


def inspect(prefix):
    summarise(f"{prefix}.rec")
    for problem in problems(f"{prefix}.rec", 1):
        raise InputError(problem)


def refused(read, folder):
    """Whether it is, in one line that names a file of `folder`."""
    try:
        read()
    except InputError as error:
        assert "\n" not in str(error) and str(folder) in str(error), str(error)
        return True
    return False


def survive(count, seeds, change, place, read, folder):
    """`read()` of `count` files or more that `place(content)` puts where it looks, some read and some refused."""
    answers = []
    for number in cases(count, answers):
        rng = np.random.RandomState(number)
        place(change(rng, seeds[rng.randint(len(seeds))], seeds))
        try:
            answers.append(refused(read, folder))
        except Exception as error:
            raise AssertionError(f"case {number}") from error
    assert True in answers and False in answers


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("read", [read_records_of, inspect])
@pytest.mark.parametrize("suffix", [".rec", ".idx"])
def test_records(records, tmp_path, suffix, read, count):
    for path in records.parent.iterdir():
        shutil.copy(path, tmp_path)
    damaged = tmp_path / f"x{suffix}"
    survive(count, [Path(f"{records}{suffix}").read_bytes()], changed_bytes, damaged.write_bytes,
            lambda: read(tmp_path / "x"), tmp_path)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM"])
def test_photographs(tmp_path, kind, count):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8))
    image.save(tmp_path / "whole", kind)

    def read():
        assert preprocess(read_image(tmp_path / "x"), SHAPE, Preprocessing(40, 32)).shape == (1, *SHAPE)
    survive(count, [(tmp_path / "whole").read_bytes()], changed_bytes, (tmp_path / "x").write_bytes, read, tmp_path)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("kind", IMAGES)
def test_headers_that_lie(tmp_path, kind, count):
    """No gigabyte, and no hang."""
    (tmp_path / "seeds" / kind).mkdir(parents=True)
    suffix = {"jpeg": ".jpg"}.get(kind, f".{kind}")
    for name, (content, _) in images().items():
        if name.endswith(suffix) and content:
            (tmp_path / "seeds" / kind / name).write_bytes(content)
    fuzz(kind, count, tmp_path)


@pytest.mark.parametrize("count", COUNTS)
def test_recipes(tmp_path, count):
    seeds = [path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.toml"))]
    parser, path = train_imagenet.get_args_parser(), tmp_path / "x.toml"
    survive(count, seeds, changed_bytes, path.write_bytes,
            lambda: resolve(parser, {"recipe": str(path)}).as_json(), tmp_path)


@pytest.mark.parametrize("count", COUNTS)
def test_recipes_of_checkpoints(run, tmp_path, count):
    parser, path = train_imagenet.get_args_parser(), tmp_path / "x.json"
    recipe = json.dumps({"recipe": json.loads(Path(f"{run}-0001.json").read_text())["recipe"]}).encode()
    survive(count, [recipe], changed_json, path.write_bytes,
            lambda: resolve(parser, {"recipe": str(path)}).as_json(), "")  # or a --pretrained-model that is not there


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["x-0001.json", "x-0001.optimizer", "x-0001.params"])
def test_checkpoints_to_resume_are_whole_or_skipped(run, tmp_path, caplog, name, count):
    for path in run.parent.iterdir():
        shutil.copy(path, tmp_path)
    parser = train_imagenet.get_args_parser()
    whole = (tmp_path / name).read_bytes()
    change = changed_json if name.endswith(".json") else changed_bytes
    answers = set()
    for number in range(count):
        (tmp_path / name).write_bytes(change(np.random.RandomState(number), whole, [whole]))
        with caplog.at_level(logging.CRITICAL):
            state = newest_state(tmp_path / "x")
        if state:
            answers.add(refused(lambda recipe=state.info["recipe"]: resolve(parser, {}, recipe), "the checkpoint"))
        else:
            answers.add(None)
    assert None in answers


@pytest.mark.parametrize("count", COUNTS)
def test_descriptions_of_packed_images(packed, tmp_path, count):
    for suffix in (".rec", ".idx"):
        shutil.copy(f"{packed}{suffix}", tmp_path)
    survive(count, [(packed.parent / "dataset.json").read_bytes()], changed_json,
            (tmp_path / "dataset.json").write_bytes, lambda: packed_as(tmp_path / "val.rec"), tmp_path)


@pytest.mark.parametrize("count", COUNTS)
def test_logs_and_curves(run, tmp_path, count):
    log = b"INFO:root:Epoch[0] Batch [20]\tSpeed: 9.5 samples/sec\taccuracy=0.1\nINFO:root:Epoch[0] Time cost=2.5\n"
    metrics = Path(f"{run}-metrics.jsonl").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        survive(count, [metrics, log], changed_bytes, (tmp_path / "x.log").write_bytes,
                lambda: read_run(tmp_path / "x.log"), tmp_path)
        table = (ROOT / "data/published/published-training-curve-1_0.csv").read_bytes()
        survive(count, [table[:500].rpartition(b"\n")[0]], changed_bytes, (tmp_path / "x.csv").write_bytes,
                lambda: read_published(tmp_path / "x.csv"), tmp_path)


@pytest.mark.parametrize("count", COUNTS)
def test_names_of_classes(tmp_path, count):
    names = "".join(f"n{i:08d} class {i} é\n" for i in range(10)).encode()
    survive(count, [names], changed_bytes, (tmp_path / "x.txt").write_bytes,
            lambda: read_synset(tmp_path / "x.txt", 10), tmp_path)

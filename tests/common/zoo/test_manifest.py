"""The facts of models/zoo.toml."""
import os
import re

import pytest
from mxnet.gluon.model_zoo import model_store

from common.base.errors import InputError
from common.modelzoo import (
    entries,
)
from tests.conftest import ROOT

ENTRIES = entries()


def test_all_weights_are_there():
    layouts = [entry.layout for entry in ENTRIES.values()]
    assert {layout: layouts.count(layout) for layout in layouts} == {"mxnet": 3, "gluon": 4, "torchvision": 2,
                                                                     "timm": 5, "keras": 6}
    assert {name: str(ENTRIES[name].hash) for name in ("published-1_0", "published-1_4", "seed-1_0")} == {
        "published-1_0": "git-blob 52673e62d07d5ac8c1b959f56d2b9e09c45b4d9c",
        "published-1_4": "git-blob 28581ed9a8dfb18de5d42cc3ed471777701569f9",
        "seed-1_0": "git-blob 8d2d35131175a0a31339d92401c972f4506c6c48"}
    assert ENTRIES["seed-1_0"].network["strides"] == "first" and ENTRIES["seed-1_0"].accuracy.kind == "withdrawn"


def test_the_gluon_zoo_is_that_of_the_installed_mxnet():
    for multiplier in ("1.0", "0.75", "0.5", "0.25"):
        name = f"mobilenetv2_{multiplier}"
        entry = ENTRIES[f"gluon-{multiplier.replace('.', '_')}"]
        assert str(entry.hash) == f"sha1 {model_store._model_sha1[name]}"
        file = f"{name}-{model_store.short_hash(name)}"
        assert entry.urls[0] == model_store._url_format.format(repo_url=model_store.apache_repo_url, file_name=file)
        assert entry.file == entry.member == f"{file}.params"
        assert entry.network == {"multiplier": float(multiplier)}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_what_is_not_known_is_marked_and_what_is_known_agrees(entry):
    for field in ("hash", "size"):
        assert getattr(entry, field) is not None or field in entry.unverified
    assert len({e.file for e in ENTRIES.values()}) == len(ENTRIES)
    assert all(url.startswith("https://") for url in entry.urls)
    if entry.layout == "torchvision":
        assert entry.file == f"mobilenet_v2-{entry.hash.value}.pth"
    if entry.layout == "keras":
        width = re.search(r"_kernels_([\d.]+)_224\.h5$", entry.file)[1]
        assert entry.network == {"multiplier": float(width)} and entry.name == f"keras-{width.replace('.', '_')}"
    if entry.layout == "timm":
        hundredths = re.match(r"timm-mobilenetv2_(\d+)d?$", entry.name)[1]
        assert entry.network == {"multiplier": int(hundredths) / 100}
    assert entry.classes == 1000 and entry.preprocessing.crop == 224


GOOD = (ROOT / "models" / "zoo.toml").read_text()


@pytest.mark.parametrize("old, new, message", [
    ("network = {multiplier = 1.4}", "network = {}", "network: give a multiplier"),
    ('file = "seed', 'file = "../seed', "file: not a file's plain name"),
    ('file = "seed-1_0-0000.params"\n', "", "has no file"),
    ('layout = "mxnet"', 'layout = "caffe"', "layout: give one of mxnet"),
    ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "unknown field, license"),
    ("git-blob 5267", "git-blob 526", "hash: "), ("git-blob 5267", "md5 5267", "hash: "),
    ('preprocessing = "published"', 'preprocessing = "x"', "'x'"), ("top1 = 71.75", "top1 = 99.9", "accuracy"),
    ('strides = "first"', 'strides = "last"', "strides must be"), ('"https://raw', '"file:///raw', "urls"),
    ("[weights.published-1_0]", "[weights.published-1_0", "not TOML"), ("crop = 224", "crop = 0", "crop"),
    ("1_0-0000.params\"", "1_0.params\"", "file: give PREFIX-0000.params"),
    (GOOD, "preprocessing = 5", "preprocessing: give tables"), (GOOD, "weights.x = 5", "weights: give tables"),
    (GOOD, "weights = []", "weights: give tables"), (GOOD, "x = " + "[" * 100_000, "not TOML"),
    ("git-blob 5267", "\\n", "hash: "), ('hash = "git', 'hash = 5 #', "hash: of another type"),
    ('licence = "MIT"', 'licence = "MIT"\nsize = "1"', "size: of another type"),
    ('licence = "MIT"', 'licence = "MIT"\nclasses = -1', "classes: give a number"),
    ("top1 = 71.75", f"top1 = {10 ** 400}", "accuracy"), ('urls = ["', 'urls = [5, "', "urls: give texts"),
    ('licence = "MIT"', f'licence = "MIT"\nmegabytes = {10 ** 400}', "megabytes: give a number"),
    ("multiplier = 1.4", f"multiplier = {10 ** 400}", "multiplier must be"),
], ids=lambda text: text[:40])
def test_a_wrong_manifest_is_refused(tmp_path, old, new, message):
    (tmp_path / "zoo.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as raised:
        entries(tmp_path / "zoo.toml")
    assert len(str(raised.value).splitlines()) == 1


def test_what_is_no_text_is_no_manifest(tmp_path):
    (tmp_path / "zoo.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="zoo.toml: not TOML"):
        entries(tmp_path / "zoo.toml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe or a device"):
        entries(tmp_path / "pipe")

"""No command writes over what it reads, by whatever path or link that was given."""
import argparse
import importlib
import os
import re
import shutil

import pytest

import train_imagenet
from common.base.errors import InputError
from common.base.files import check_not_read

MODEL = ("--model-prefix", "x", "--epoch", "0")
EVALUATION = ("eval_imagenet", *MODEL, "--data-val", "val.rec", "--synset", "synset.txt")
FROM_MXNET = ("from_mxnet", *MODEL, "--synset", "synset.txt", "--records", "records.json")
PRECISIONS = {"out": "out.csv", "model_prefix": "x", "epoch": 0, "images": "val.rec"}

# what is read, the file to write that is the same one, and the command, in a folder with the files of `files`
CASES = [
    *((file, "out.csv", (*EVALUATION, "--predictions", "out.csv")) for file in (
        "val.rec", "val.idx", "val.lst", "synset.txt", "x-symbol.json", "x-0000.params", "x-preprocess.json",
        "x-0000-int8.json")),
    ("val.rec", "out.csv", (*EVALUATION, "--per-class", "out.csv")),
    ("val.rec", "out.png", (*EVALUATION, "--confusion", "out.png")),
    ("given.csv", "given.csv", (*EVALUATION, "--data-val-idx", "sub/../given.csv", "--predictions", "given.csv")),
    *((file, "out.json", (*FROM_MXNET, "photos", "--output", "out.json")) for file in (
        "photos/a.jpg", "synset.txt", "records.json", "x-symbol.json", "x-0000.params", "x-preprocess.json")),
    ("given.csv", "given.csv", (*FROM_MXNET, "sub/../given.csv", "--output", "given.csv")),
    ("bundle/labels.txt", "bundle/labels.txt", ("from_mxnet", *MODEL, "--synset", "sub/../bundle/labels.txt",
                                                "--export", "bundle")),
    ("x-0000.params", "x-0000.params", ("tools.convert_weights", "sub/../x-0000.params", "x", "--from", "gluon",
                                        "--overwrite")),
    ("x-0000.params", "x-0000.params", ("tools.convert_weights", "x-0000.params", "x", "--from", "gluon")),
    *(("given.npz", f"z-{end}", ("tools.convert_weights", "given.npz", "z", "--from", "npz", "--overwrite"))
      for end in ("symbol.json", "0000.params", "preprocess.json")),
    *((file, "z-symbol.json", ("tools.convert_weights", "x-0000.params", "z", "--from", "mxnet", "--overwrite"))
      for file in ("x-symbol.json", "x-0000.params", "x-preprocess.json")),
    *((file, "out.onnx", ("tools.export_weights", "x", "out.onnx", "--to", "onnx", "--overwrite")) for file in (
        "x-symbol.json", "x-0000.params", "x-preprocess.json")),
    *((file, "y-0000-int8.json", ("tools.calibrate", "y", "--images", images)) for file, images in (
        ("val.rec", "val.rec"), ("val.idx", "val.rec"), ("photos/a.jpg", "photos"), ("y-symbol.json", "photos"))),
    ("x-symbol.json", "out.json", ("tools.tune", "--target", "llvm", *MODEL, "--output", "out.json", "--resume")),
    ("log.jsonl", "out.png", ("tools.plot_training", "log.jsonl", "-o", "out.png")),
    ("given.csv", "out.png", ("tools.plot_training", "log.jsonl", "--published", "given.csv", "-o", "out.png")),
    *((file, "out.png", ("tools.inspect_rec", "val.rec", "--synset", "given.csv", "--contact-sheet", "out.png"))
      for file in ("val.rec", "val.idx", "val.lst", "given.csv")),
    *((file, "out.png", ("tools.inspect_rec", "val.rec", "--contact-sheet", "out.png"))
      for file in ("synset.txt", "dataset.json")),
    ("w.whl", "w.whl", ("tools.make_synset", "sub/../w.whl", "w.whl")),
    ("packed/.prepare/train/a/a.jpg", "packed/.prepare/train/a/a.jpg",
     ("tools.prepare_imagenet", "sub/../packed/.prepare", "packed", "--any-count")),
    ("x-0000.params", "out.csv", ("benchmarks.inference", *MODEL, "--out", "out.csv")),
    ("x-0000.params", "out.png", ("benchmarks.inference", *MODEL, "--chart", "out.png")),
    ("x-0000.params", "out.csv", ("benchmarks.folder", {**PRECISIONS, "images": 1, "batch_size": 1})),
    *((file, "out.csv", ("benchmarks.precisions", {**PRECISIONS, "images": images})) for file, images in (
        ("val.rec", "val.rec"), ("photos/a.jpg", "photos"), ("x-symbol.json", "photos"))),
]
WAYS = {"another path": None, "symbolic link": os.symlink, "hard link": os.link}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("val.rec", "val.idx", "val.lst", "synset.txt", "dataset.json", "given.csv", "given.npz", "log.jsonl",
                 "w.whl", "records.json", "photos/a.jpg", "sub/x", "bundle/labels.txt", "bundle/graph.json",
                 "bundle/preprocess.json", "packed/.prepare/train/a/a.jpg", "y-symbol.json",
                 *(f"x-{end}" for end in ("symbol.json", "0000.params", "preprocess.json", "0000-int8.json"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"the content of {name}")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("read", "written", "command", "way"), [
    (*case, way) for case in CASES for way in WAYS if (way == "another path") == (case[0] == case[1])])
def test_what_is_read_is_not_written(files, read, written, command, way):
    if WAYS[way]:
        WAYS[way](files / read, files / written)
    before, (name, *arguments) = contents(files), command
    module = importlib.import_module(name)
    if isinstance(arguments[0], dict):
        args = argparse.Namespace(**arguments[0])
    elif name in ("eval_imagenet", "from_mxnet"):
        args = arguments
    else:
        args = module.get_args_parser().parse_args(arguments)
    with pytest.raises(InputError, match="is read here"):
        module.main(args)
    assert contents(files) == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("flag", "name"), [
    ("--recipe", "x-0002.json"), ("--data-train", "x-0002.params"), ("--data-val", "x-ema-symbol.json"),
    ("--data-val-idx", "x-metrics.jsonl"), ("--data-train-idx", "x-preprocess.json")])
def test_training_writes_over_nothing_that_it_reads(packed, tmp_path, flag, name, resume):
    """Nor does it remove that in time, as it does checkpoints."""
    for end in ("rec", "idx"):
        shutil.copy(f"{packed}.{end}", tmp_path / f"val.{end}")
    inputs = {"--data-train": f"{tmp_path}/val.rec", "--data-train-idx": f"{tmp_path}/val.idx",
              "--data-val": f"{tmp_path}/val.rec", "--data-val-idx": f"{tmp_path}/val.idx"}
    if flag == "--recipe":
        (tmp_path / name).write_text('[[stage]]\nepochs = 1\n')
        os.rename(tmp_path / name, tmp_path / "recipe.toml")
        inputs[flag] = f"{tmp_path}/recipe.toml"
    os.symlink(inputs[flag], tmp_path / name)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"{re.escape(name)}: is read here"):
        train_imagenet.main([*(word for item in inputs.items() for word in item), "--num-classes", "2", "--multiplier",
                             "0.1", "--image-shape", "3,32,32", "--model-prefix", f"{tmp_path}/x",
                             *(["--resume"] if resume else ["--overwrite", "1"])])
    assert contents(tmp_path) == before


def test_what_is_beside_or_not_there_is_no_reason(files):
    """A folder that is read may be written to, and what is not there is told by who would read it."""
    check_not_read("photos/out.csv", "photos", "photos/a.jpg")
    check_not_read("val.rec", "none", "\0", None, "sub")
    check_not_read("none", "none")
    with pytest.raises(InputError, match="sub: is read here"):
        check_not_read("sub", "photos", "sub/x")

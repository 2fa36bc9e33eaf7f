"""The benchmarks of training: of a step, on a few small ones, and of options."""
import csv
import json
import sys

import cv2
import numpy as np
import pytest

import train_imagenet
from benchmarks import options, training
from benchmarks.training_runs import pack
from common.training.recipe import parse


@pytest.mark.parametrize("name", options.OPTIONS)
def test_an_option_is_one_of_train_imagenet(name):
    flags = options.OPTIONS[name].flags.format(teacher="x", epochs_4=32).split()
    chosen = [vars(parse(train_imagenet.get_args_parser(), ["--num-epochs", "8", *given])) for given in ([], flags)]
    changed = {key for key in chosen[0] if chosen[0][key] != chosen[1][key]}
    assert {flag[2:].replace("-", "_") for flag in flags if flag.startswith("--")} <= changed


def test_a_recipe_takes_the_place_of_the_usual_flags():
    """With sizes that grow, and else the same values."""
    args = options.get_args_parser().parse_args(["x", "--scratch", "x", "--epochs", "16", "--multiplier", "0.5"])
    args.classes = 20
    recipe, usual = (parse(train_imagenet.get_args_parser(), options.base(args, 5, name)).recipe
                     for name in ("today-64", ""))
    keys = "epochs", "image_shape", "lr", "warmup_epochs"
    assert [tuple(stage[key] for key in keys) for stage in recipe.stages] == [
        (6, (3, 64, 64), 0.05, 2), (6, (3, 96, 96), 0.03, 0), (4, (3, 128, 128), 0.015, 0)]
    assert {**usual.common, "image_shape": recipe.common["image_shape"],
            "lr_for_batch": recipe.common["lr_for_batch"]} == recipe.common


def test_each_folder_of_photographs_is_packed_for_itself(tmp_path):
    for folder, count in (("a", 2), ("b", 3)):
        for part in ("train", "val"):
            (tmp_path / folder / part / "x").mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(tmp_path / folder / part / "x" / f"{number}.png"), np.zeros((32, 32, 3), np.uint8))
        packed = pack(tmp_path / folder, tmp_path / "scratch")
        assert json.loads((packed / "dataset.json").read_text())["sources"]["train"]["images"] == count


@pytest.mark.long
def test_a_run(tmp_path, capsys):
    out, profile = tmp_path / "training.csv", tmp_path / "profile.csv"
    args = training.get_args_parser().parse_args([
        "--contenders", "mxnet", "mxnet-fused", "--sides", "32", "--batch-size", "2", "--rounds", "1", "--seconds", "1",
        "--frameworks", sys.executable, "--out", str(out), "--profile", str(profile)])
    training.main(args)
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == ["MXNet", "MXNet, fused BatchNorm"]
    assert all(float(row["images_per_s"]) > 0 and int(row["steps"]) > 0 for row in rows)
    assert rows[0]["contender"] in capsys.readouterr().out
    with open(profile, newline="") as file:
        found = {(row["contender"], row["operator"]) for row in csv.DictReader(file)}
    assert {("MXNet", "Convolution"), ("MXNet, fused BatchNorm", "_BatchNormClip"),
            ("MXNet, fused BatchNorm", "_backward_BatchNormClip")} <= found
    assert ("MXNet, fused BatchNorm", "_backward_clip") not in found

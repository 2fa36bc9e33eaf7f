"""--val-share: folders of classes as two parts of one set."""
import json
import shutil

import pytest

from common.base.errors import InputError
from tests.packing import contents, records, run

COUNTS = {"car": 20, "one": 1, "train": 7, "two": 2}  # `train` is a class here


@pytest.fixture(scope="module")
def plain(photographs, tmp_path_factory):
    """Folders of classes with so many images; those of `two` are the same picture twice."""
    folder = tmp_path_factory.mktemp("plain") / "images"
    photograph = iter(sorted(photographs.rglob("*.jpg")))
    for name, count in COUNTS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shutil.copy(next(photograph), folder / name / f"{number:02d}.jpg")
    shutil.copy(folder / "two" / "00.jpg", folder / "two" / "01.jpg")
    return folder


@pytest.fixture(scope="module")
def split(plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("split") / "out"
    run(plain, out, val_share=0.25)
    return out


def test_every_image_is_in_one_of_the_parts(plain, split):
    found = {part: list(records(split, part)) for part in ("train", "val")}
    assert sorted(found["train"] + found["val"]) == sorted(f"{path.parent.name}/{path.name}"
                                                           for path in plain.rglob("*.jpg"))
    counts = {name: [sum(path.startswith(f"{name}/") for path in found[part]) for part in ("train", "val")]
              for name in COUNTS}
    assert counts == {"car": [15, 5], "one": [1, 0], "train": [5, 2], "two": [1, 1]}
    dataset = json.loads((split / "dataset.json").read_text())
    assert dataset["options"]["val_share"] == 0.25 and dataset["options"]["seed"] == 0
    for number, part in enumerate(("train", "val")):
        assert dataset["parts"][part]["images_of_class"] == {name: count[number] for name, count in counts.items()}
    assert {f"car/{number:02d}.jpg" for number in range(5)} - set(found["val"])  # not just the first


def test_the_seed_alone_says_which(plain, split, tmp_path, capsys):
    shutil.copytree(plain, tmp_path / "elsewhere" / "train")  # and train/ without val/ is split too
    run(tmp_path / "elsewhere", tmp_path / "again", val_share=0.25)
    assert "val: 1 classes have one image, which is trained on (one, say)" in capsys.readouterr().out
    for name in ("train.rec", "val.rec", "train.lst", "val.lst", "synset.txt"):
        assert contents(tmp_path / "again")[name] == contents(split)[name]
    run(plain, tmp_path / "other", val_share=0.25, seed=1)
    assert set(records(tmp_path / "other", "val")) != set(records(split, "val"))
    with pytest.raises(InputError, match="made with other options.val_share: 0.25 instead of 0.5"):
        run(plain, split, val_share=0.5)


def test_an_image_stays_in_its_part_when_others_come(plain, split, tmp_path):
    grown = shutil.copytree(plain, tmp_path / "grown")
    for number in range(4):
        shutil.copy(plain / "one" / "00.jpg", grown / "car" / f"new{number}.jpg")
    run(grown, tmp_path / "out", val_share=0.25)
    before, after = (set(records(folder, "val")) for folder in (split, tmp_path / "out"))
    assert len(before - after) <= 4


def test_what_cannot_be_split_is_one_line(plain, tree, archives, tmp_path):
    single = tmp_path / "single"
    for name in ("a", "b"):
        (single / name).mkdir(parents=True)
        shutil.copy(plain / "one" / "00.jpg", single / name)
    for source, options, message in (
            (tree, {"val_share": 0.1}, "--val-share 0.1: is for folders of classes without .* and there is .*/val; "),
            (archives[0], {"val_share": 0.1}, "--val-share 0.1: .* there is .*ILSVRC2012_img_train.tar; leave it out"),
            (single, {"val_share": 0.5}, "single: no class has two images"),
            (plain, {"val_share": 1.0}, "val_share 1: give a number above 0"),
            (plain, {"val_share": 0.0}, "val_share 0: give a number above 0"),
            (plain, {"val_share": 0.1, "verify_first": True, "any_count": False}, "and --val-share are for other sets"),
            (single, {}, "holds neither .*; of folders of classes --val-share 0.1 makes both parts"),
            (plain / "car", {"val_share": 0.1}, "images/car: no classes in it")):
        with pytest.raises(InputError, match=message) as error:
            run(source, tmp_path / "out", **options)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="lies in .*, whose folders are classes"):
        run(plain, plain / "packed", val_share=0.1)

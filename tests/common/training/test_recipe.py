"""Recipes: the published ones are what was published, and files that cannot be used are one line."""
import csv
import json

import numpy as np
import pytest

import train_imagenet
from common.base.errors import InputError
from common.images.dataset import batches_in_epoch
from common.training.recipe import FOLDER, resolve
from common.training.run_summary import crop_of, stages_table
from common.training.schedule import Schedule
from tests.conftest import ROOT

IMAGENET = 1_281_167
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe(*arguments, saved=None):
    parser = train_imagenet.get_args_parser()
    return resolve(parser, parser.given(list(arguments)), saved)


def schedule(*arguments, images=IMAGENET, workers=1):
    chosen = recipe(*arguments)
    batches = [batches_in_epoch(images, stage["batch_size"], workers) for stage in chosen.stages]
    return Schedule(chosen, batches, workers)


def test_the_recipes():
    assert NAMES == ["classic-480", "cosine-150", "digits", "finetune", "published-1_0", "published-1_4", "today-64",
                     "today-finetune"]
    assert [recipe("--recipe", name).epochs for name in NAMES[:2]] == [480, 150]


def test_fine_tuning_of_today_is_what_was_measured():
    """As benchmarks/finetuning.csv says it, in flags."""
    flags = ["--optimizer", "adamw", "--lr", "0.001", "--wd", "0.05"]
    today, measured = recipe("--recipe", "today-finetune"), recipe("--recipe", "finetune", *flags)
    assert today.stages == measured.stages and today.common == measured.common


@pytest.mark.parametrize(("name", "curve"), [("published-1_0", "1_0"), ("published-1_4", "1_4")])
def test_published_recipes_follow_the_published_curves(name, curve):
    """Batch and learning rate after each epoch's decay, as the published training logs have them."""
    published = schedule("--recipe", name)
    with open(ROOT / "data" / "published" / f"published-training-curve-{curve}.csv", newline="") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    assert published.recipe.epochs == max(rows) + 1
    for epoch in range(published.recipe.epochs):
        rate = published.lr_end(epoch)
        if epoch in rows:
            stage = published.recipe.stages[published.recipe.stage_of(epoch)]
            assert stage["batch_size"] == int(rows[epoch]["batch"])
            assert rate == pytest.approx(float(rows[epoch]["lr_end"]), rel=1e-5)


def test_the_table_of_the_published_recipe():
    args, published = train_imagenet.get_args_parser().parse_args([]), schedule("--recipe", "published-1_0")
    crops = [crop_of(published.recipe.settings(args, stage), 480) for stage in range(4)]
    table = [line.split("  ") for line in stages_table(published, crops)]
    crop, colour = "random-crop 1, random-mirror 1", "max-random-h 36, max-random-s 50, max-random-l 50"
    assert [[cell.strip() for cell in line if cell] for line in table] == [
        ["epochs", "batch", "batches", "learning rate", "images", "augmentation and more"],
        ["0-85", "160", "8,008", "0.045 x 0.98 every epoch", "shorter side 256-480, crop 224",
         f"{crop}, {colour}"],
        ["86-186", "240", "5,339", "0.008 x 0.98 every epoch", "shorter side 256-480, crop 224",
         f"{crop}, {colour}"],
        ["187-217", "240", "5,339", "0.001 x 0.98 every epoch", "shorter side 256-288, crop 224",
         f"{crop}, {colour}, max-random-aspect-ratio 0.25, max-random-rotate-angle 10, max-random-shear-ratio 0.1"],
        ["218-234", "240", "5,339", "0.0005 x 0.95 every epoch", "shorter side 256-257, crop 224", crop],
    ]


def test_without_a_recipe_the_flags_are_those_of_the_classic_one():
    ours, classic = recipe().as_json(), recipe("--recipe", "classic-480").as_json()
    classic["stages"][0]["min_random_scale"] = None  # without a recipe it follows the images
    assert ours["common"] == classic["common"] and ours["stages"] == classic["stages"]


def test_flags_override_every_stage():
    changed = recipe("--recipe", "digits", "--lr", "0.5", "--random-crop", "0", "--wd", "0.1")
    assert [(stage["lr"], stage["random_crop"]) for stage in changed.stages] == [(0.5, 0)] * 3
    assert changed.common["wd"] == 0.1


def test_num_epochs_cuts_or_lengthens():
    assert [stage["epochs"] for stage in recipe("--recipe", "digits", "--num-epochs", "20").stages] == [16, 4]
    assert [stage["epochs"] for stage in recipe("--recipe", "digits", "--num-epochs", "40").stages] == [16, 8, 16]
    assert [stage["epochs"] for stage in recipe("--num-epochs", "3").stages] == [3]


@pytest.mark.parametrize(("arguments", "warmup"), [
    (["--recipe", "finetune"], 1), (["--recipe", "finetune", "--num-epochs", "1"], 0.2),
    (["--recipe", "finetune", "--num-epochs", "5"], 1), (["--recipe", "cosine-150", "--num-epochs", "10"], 2),
    (["--recipe", "cosine-150", "--num-epochs", "300"], 5),
    (["--recipe", "finetune", "--num-epochs", "3", "--warmup-epochs", "1.5"], 1.5)])
def test_the_warm_up_of_a_stage_that_is_cut_is_a_fifth_of_it_at_most(arguments, warmup):
    assert recipe(*arguments).stages[0]["warmup_epochs"] == pytest.approx(warmup)


def test_fine_tuning_for_one_epoch_reaches_its_rate_and_falls():
    """100 batches: a fifth of them rises to the rate, the rest follows the cosine to 0."""
    rates = [schedule("--recipe", "finetune", "--num-epochs", "1", images=6400).scheduler(t) for t in range(1, 101)]
    assert rates.index(max(rates)) == 19 and max(rates) == pytest.approx(0.003)
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[59] == pytest.approx(0.0015) and rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["published-1_0", "cosine-150"])
def test_a_scaled_recipe_ends_at_the_same_rates(name):
    whole, scaled = schedule("--recipe", name), schedule("--recipe", name, "--epoch-scale", "0.25")
    assert scaled.recipe.epochs == pytest.approx(whole.recipe.epochs / 4, abs=2)
    for stage in range(len(whole.recipe.stages)):
        ends = [max(p.lr_end(epoch) for epoch in [p.recipe.first_epoch(stage) + p.recipe.stages[stage]["epochs"] - 1])
                for p in (whole, scaled)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-6, abs=1e-6)


def test_updates_and_images_of_a_plan():
    digits = schedule("--recipe", "digits", images=1433)
    assert digits.batches == [45, 45, 45]
    assert digits.updates_before(0, 0) == 0 and digits.updates_before(17, 3) == 17 * 45 + 3
    assert digits.images_left(0, 0) == 32 * 45 * 32 and digits.images_left(31, 45) == 0
    three = schedule("--recipe", "digits", "--batch-size", "11", images=1433, workers=3)
    assert three.batches == [44] * 3 and three.images_left(0, 1) == 33 * (44 * 32 - 1)


def test_num_examples_is_what_the_schedule_takes_for_an_epoch():
    """As in MXNet's image-classification examples; a stage begins after the epochs that were trained all the same."""
    usual, twice = (Schedule(recipe("--recipe", "digits", "--lr-factor", "0.5"), [45] * 3, num_examples=count)
                    for count in (None, 2 * 1433))
    assert twice.batches == usual.batches == [45] * 3
    assert [usual.lr_end(epoch) for epoch in (0, 1)] == [0.01, 0.005]
    assert [twice.lr_end(epoch) for epoch in (0, 1)] == [0.02, 0.01]
    assert twice.scheduler(16 * 45 + 1) == 0.0145
    far = Schedule(recipe("--lr-mode", "cosine", "--num-epochs", "2"), [15], num_examples=1_281_167)
    assert far.lr_end(1) == pytest.approx(0.045, rel=1e-3)


def test_the_linear_rule():
    for batch, workers, expected in ((256, 1, 0.05), (128, 1, 0.025), (128, 4, 0.1)):
        scaled = schedule("--recipe", "cosine-150", "--batch-size", str(batch), "--warmup-epochs", "0", workers=workers)
        assert scaled.scheduler(1) == pytest.approx(expected, rel=1e-4)
    ends = schedule("--recipe", "cosine-150", "--batch-size", "128", "--warmup-lr", "0.01", "--lr-final", "0.002")
    assert ends.scheduler(1) == pytest.approx(0.005, rel=1e-2)
    assert ends.scheduler(150 * ends.batches[0]) == pytest.approx(0.001)


def test_a_saved_recipe_is_the_base_of_a_resumed_run():
    saved = json.loads(json.dumps(recipe("--recipe", "digits", "--lr", "0.3", "--epoch-scale", "0.5").as_json()))
    assert recipe(saved=saved).as_json() == saved
    changed = recipe("--wd", "0.5", "--batch-size", "8", saved=saved)
    assert changed.differences(saved) == ["wd 4e-05 -> 0.5"] + [f"stage {i}: batch-size 32 -> 8" for i in (1, 2, 3)]
    older = {**saved, "common": {name: value for name, value in saved["common"].items() if name != "temperature"}}
    assert not recipe(saved=older).differences(older)  # a flag that it did not have yet
    assert recipe("--temperature", "4", saved=older).differences(older) == ["temperature 20.0 -> 4.0"]


def test_a_checkpoint_is_a_recipe_too(tmp_path):
    original = recipe("--recipe", "published-1_0", "--ema", "0.99", "--lr-step-epochs", "3,5", "--crop-ratio",
                      str(224 / 232), "--channels", "32,16,24,32,64,96,160,320,1280", "--repeats", "1,3,5,6,5,5,1")
    (tmp_path / "x-0006.json").write_text(json.dumps({"recipe": original.as_json()}))
    assert recipe("--recipe", f"{tmp_path}/x-0006.json").as_json() == original.as_json()


STAGE = "[[stage]]\nepochs = 1\n"


def progressive(folder, *sizes, **common):
    """A recipe whose stages have images of these sizes; None: of the common one."""
    path = folder / "progressive.toml"
    path.write_text("".join(f"{key} = '{value}'\n" for key, value in common.items()) + "".join(
        STAGE + (f"image-shape = [3, {size}, {size}]\n" if size else "") for size in sizes))
    return str(path)


def test_stages_have_images_of_their_own_size(tmp_path):
    path = progressive(tmp_path, 128, None, 192, padding="same")
    chosen = recipe("--recipe", path)
    assert [stage["image_shape"] for stage in chosen.stages] == [(3, side, side) for side in (128, 224, 192)]
    args = train_imagenet.get_args_parser().parse_args([])
    assert [chosen.flags(args, stage).image_shape for stage in (0, -1)] == ["3,128,128", "3,192,192"]
    assert [crop_of(chosen.settings(args, stage), 480) for stage in (0, 1)] == [
        "shorter side 146-274, crop 128", "shorter side 256-480, crop 224"]  # as much of the image
    assert recipe(saved=chosen.as_json()).as_json() == chosen.as_json()
    assert recipe("--recipe", path, saved=chosen.as_json()).as_json() == chosen.as_json()
    one = recipe("--recipe", path, "--image-shape", "3,96,96")
    assert {stage["image_shape"] for stage in one.stages} == {(3, 96, 96)}


def test_same_padding_is_for_sizes_that_it_pads_alike(tmp_path):
    with pytest.raises(InputError, match="^--padding same: pads images of 3,160,160 and 3,176,176 differently; give "
                                         "stages sizes that differ by multiples of 32$"):
        recipe("--recipe", progressive(tmp_path, 160, 176, padding="same"))
    recipe("--recipe", progressive(tmp_path, 160, 176))


def test_a_recipe_that_is_older_than_a_flag_has_its_default(tmp_path):
    saved = recipe("--recipe", "digits").as_json()
    for stage in saved["stages"]:
        for name in ("image_shape", "auto_augment", "ra_magnitude", "ra_num_ops", "random_erase", "cutmix"):
            del stage[name]
    assert recipe("--recipe", "digits").differences(saved) == []
    assert recipe(saved=saved).as_json() == recipe("--recipe", "digits").as_json()
    assert recipe("--recipe", "digits", "--cutmix", "1").differences(saved)[0] == "stage 1: cutmix 0.0 -> 1.0"


@pytest.mark.parametrize(("content", "words"), [
    ("lr = ", "not TOML"),
    ("\0", "not TOML"),
    ("lr = 0.1", r"has no \[\[stage\]\]"),
    ("stage = 3", r"has no \[\[stage\]\]"),
    ("stage = []", r"has no \[\[stage\]\]"),
    ("lr-facto = 0.1\n" + STAGE, "'lr-facto' is not a flag"),
    ("gpus = '0'\n" + STAGE, "'gpus' is not a flag"),
    (STAGE + "wd = 0.1", "stage 1: 'wd' is not a flag that a recipe can set for a stage alone"),
    ("[[stage]]\nlr = 0.1", "stage 1: epochs"),
    ("[[stage]]\nepochs = true", "stage 1: epochs"),
    ("[[stage]]\nepochs = 1e9", "stage 1: epochs"),
    ("[[stage]]\nepochs = 999999999999", "stage 1: epochs"),
    ("lr = 'high'\n" + STAGE, "--lr: 'high'"),
    (STAGE + "lr = nan", "stage 1: --lr: 'nan'"),
    (STAGE + "lr = {a = 1}", "stage 1: lr: give one value"),
    ("image-shape = [3, 4]\n" + STAGE, "--image-shape: '3,4'"),
    ("channels = [3, 4]\n" + STAGE, "--channels: '3,4': give 9 whole numbers"),
    ("repeats = [1, 2, 3, 4, 3, 3, 0]\n" + STAGE, "--repeats: '1,2,3,4,3,3,0': give 7 whole numbers"),
    ("crop-ratio = 1.1\n" + STAGE, "--crop-ratio: '1.1'"),
    (STAGE + "image-shape = [3, 4]", "stage 1: --image-shape: '3,4'"),
    (STAGE + "auto-augment = 'augmix'", "stage 1: --auto-augment: invalid choice: 'augmix'"),
    (STAGE + "ra-magnitude = 31", "stage 1: --ra-magnitude: '31': give a whole number from 0 to 30"),
    (STAGE + "ra-num-ops = 0", "stage 1: --ra-num-ops: '0': give a whole number from 1 to 30"),
    (STAGE + "random-erase = 1.5", "stage 1: --random-erase: '1.5': give a number from 0 to 1"),
    (STAGE + "cutmix = -1", "stage 1: --cutmix: '-1'"),
    ("network = '--help'\n" + STAGE, "--network"),
    ("lr = " + "[" * 100_000 + "\n" + STAGE, "nested too deep|not TOML"),
])
def test_recipes_that_cannot_be_used(tmp_path, content, words):
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=words) as error:
        recipe("--recipe", str(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_recipes_that_are_not_there():
    with pytest.raises(InputError, match="--recipe nowhere: .*classic-480, cosine-150"):
        recipe("--recipe", "nowhere")
    with pytest.raises(InputError, match="--epoch-scale"):
        recipe("--epoch-scale", "0.5")
    for arguments in (["--recipe", "digits", "--epoch-scale", "1e20"], ["--num-epochs", "999999999"]):
        with pytest.raises(InputError, match="epochs: give 100000 at most"):
            recipe(*arguments)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--lr-step-epochs", "a"], "--lr-step-epochs a"),
    (["--lr-step-epochs", "5,3"], "--lr-step-epochs 5,3"),
    (["--lr-factor", "1.5"], "--lr-factor 1.5"),
    (["--warmup-epochs", "2", "--num-epochs", "2"], "--warmup-epochs 2"),
    (["--warmup-epochs", "1", "--warmup-lr", "0.5"], "--warmup-lr 0.5"),
])
def test_values_that_do_not_fit(arguments, words):
    with pytest.raises(InputError, match=words):
        schedule(*arguments)


# MXNet asks for the rate of update 1, 2, ...
SCHEDULES = {
    "step": (["--lr-factor", "0.5"], lambda t, n: 0.5 ** ((t - 1) // 10)),
    "steps": (["--lr-step-epochs", "2,3", "--lr-factor", "0.1"], lambda t, n: 0.1 ** ((t > 20) + (t > 30.0))),
    "cosine": (["--lr-mode", "cosine"], lambda t, n: (1 + np.cos(np.pi * t / n)) / 2),
    "poly": (["--lr-mode", "poly", "--lr-power", "2"], lambda t, n: (1 - t / n) ** 2),
    "the original's poly": (["--lr-step-epochs", "pow2"], lambda t, n: (1 - t / n) ** 2),
    "warm-up and cosine": (["--lr-mode", "cosine", "--warmup-epochs", "1.5"],
                           lambda t, n: t / 15 if t < 15 else (1 + np.cos(np.pi * (t - 15) / (n - 15))) / 2),
    "warm-up and step": (["--lr-factor", "0.5", "--warmup-epochs", "2"],
                         lambda t, n: t / 20 if t < 20 else 0.5 ** ((t - 1) // 10)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_what_they_say(name):
    """Ten batches an epoch, four epochs; also when the scheduler begins in the middle."""
    flags, model = SCHEDULES[name]
    expected = [0.2 * model(t, 40) for t in range(1, 41)]
    for begin in (0, 27):
        scheduler = schedule("--num-epochs", "4", "--batch-size", "10", "--lr", "0.2", *flags, images=100).scheduler
        assert [scheduler(t) for t in range(begin + 1, 41)] == pytest.approx(expected[begin:], abs=1e-12)


def test_a_network_that_is_not_there_is_one_line_whatever_its_name(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"recipe": {**recipe().as_json(), "common": {"network": "a\nb"}}}))
    with pytest.raises(InputError, match="--network.*mobilenetv2_gluon") as error:
        recipe("--recipe", str(path))
    assert "\n" not in str(error.value)

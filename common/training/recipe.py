"""Recipes: everything that decides what a run computes, as a list of stages over common settings.

A recipe is a TOML file: keys are the flags of train_imagenet.py, in the file those of all stages, and in each [[stage]]
its epochs and what holds for it alone. Without a recipe the flags make one stage.
"""
import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from common.base.arguments import ArgumentParser, as_flag
from common.base.errors import InputError
from common.base.files import read_json, read_toml
from common.checkpoint.params import checkpoint_files
from common.data.options import NUM_CLASSES, add_data_args, add_data_aug_args
from common.images.dataset import classes_beside
from common.images.options import USUAL, as_texts, as_values
from common.training.options import COMMON, STAGE, add_fit_args
from common.training.options import NETWORK as NETWORK_FLAGS
from common.training.pretrained import NETWORK, inherited, weights_of
from symbols.architecture import TOTAL_STRIDE

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
MAX_EPOCHS = 100_000
MOST_WARMUP = 0.2  # of the epochs of a stage that --num-epochs shortens
INHERITED = ("multiplier", *NETWORK, *USUAL)  # what the checkpoint that a run starts from may decide


@dataclass(frozen=True)
class Recipe:
    """`common`: {destination: value}; `stages`: such a dict for each stage, with its "epochs"; `inherited`: those of
    `common` that were read from the checkpoint that the run starts from, `source`; `file`: what it was read from."""
    name: str
    description: str
    common: dict
    stages: tuple
    inherited: dict = field(default_factory=dict)
    source: str | None = None
    file: Path | None = None

    @property
    def epochs(self) -> int:
        return sum(stage["epochs"] for stage in self.stages)

    def first_epoch(self, index: int) -> int:
        """The first epoch of a stage, counted from 0 over the run."""
        return sum(stage["epochs"] for stage in self.stages[:index])

    def stage_of(self, epoch: int) -> int:
        """The index of the stage to which an epoch belongs (the last stage for those after the end)."""
        return max(i for i in range(len(self.stages)) if self.first_epoch(i) <= epoch)

    def settings(self, args: argparse.Namespace, index: int) -> argparse.Namespace:
        """`args` with the common settings and those of a stage, as values."""
        return argparse.Namespace(**{**vars(args), **self.common, **self.stages[index]})

    def flags(self, args: argparse.Namespace, index: int) -> argparse.Namespace:
        """The same as the flags of a script, for its data loader: lists of numbers are text."""
        return argparse.Namespace(**as_texts(vars(self.settings(args, index))))

    def as_json(self) -> dict:
        return json.loads(json.dumps({"name": self.name, "description": self.description, "common": self.common,
                                      "stages": self.stages}))

    def differences(self, other: dict) -> list:
        """Lines that say where this recipe differs from one of `as_json`, which may be older than some flags."""
        mine, before = self.as_json(), {**default_flags(), **other["common"]}
        lines = _changes("", {**{name: before[name] for name in mine["common"]}, **other["common"]}, mine["common"])
        if len(mine["stages"]) != len(other["stages"]):
            lines.append(f"{len(other['stages'])} stages -> {len(mine['stages'])}")
        for i, (theirs, ours) in enumerate(zip(other["stages"], mine["stages"]), 1):
            lines += _changes(f"stage {i}: ", {**_pick(STAGE, before), **theirs}, ours)
        return lines


@cache
def default_flags() -> dict:
    """{destination: value} of all flags of a run, without any."""
    parser = ArgumentParser()
    add_fit_args(parser)
    add_data_args(parser)
    add_data_aug_args(parser)
    return vars(parser.parse_args([]))


def recipe_of(args: argparse.Namespace, mobilenetv2: bool) -> Recipe:
    """The flags `args` as a recipe of one stage; of another network than MobileNetV2 without what makes the network."""
    values = as_values(vars(args))
    network = {flag.replace("-", "_") for flag, _ in NETWORK_FLAGS}
    common = {name: value for name, value in _pick(COMMON, values).items() if mobilenetv2 or name not in network}
    stage = _with_curve({"epochs": args.num_epochs, **_pick(STAGE, values)})
    return Recipe("none", "the flags alone", common, (stage,))


def parse(parser: ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags that `arguments` (None: those of the program) give, and their `recipe`, whose common settings and first
    stage they are. A run that --resume goes on with has the recipe of its checkpoint. Raises InputError."""
    given, args = parser.given(arguments), parser.parse_args(arguments)
    saved = num_classes = None
    if args.resume and args.model_prefix and not args.benchmark:
        from common.training.saved_state import newest_state  # with MXNet
        state = newest_state(args.model_prefix, warn=False)
        saved = state.info["recipe"] if state else None
    if args.data_train and not args.benchmark:
        num_classes = classes_beside(args.data_train)
    recipe = resolve(parser, given, saved, num_classes)
    return argparse.Namespace(**{**vars(recipe.flags(args, 0)), "recipe": recipe})


def resolve(parser: ArgumentParser, given: dict, saved: dict | None = None, num_classes: int | None = None) -> Recipe:
    """The recipe of a run, in which each of these layers lies over the one before: the flags' defaults, with
    `num_classes` of the records; what the checkpoint says that the run starts from (--load-epoch, --pretrained-model),
    or, if it is resumed, said when it began; the file that --recipe names, else `saved`, the recipe of the run that is
    resumed; `given`, the flags of the command line. Raises InputError."""
    defaults = {**vars(parser.parse_args([])), "num_classes": num_classes or NUM_CLASSES}
    before = _from_json(parser, saved, "the checkpoint") if saved else None
    file = None
    if given.get("recipe"):
        file, (name, description, common, stages) = _read_recipe(parser, given["recipe"])
    else:
        name, description, common, stages = before or ("none", "the flags alone", {},
                                                       ({"epochs": defaults["num_epochs"]},))
    scale = given.get("epoch_scale", 1.0)
    if scale != 1 and not given.get("recipe"):
        raise InputError("--epoch-scale: scales the epochs of a --recipe; without one give --num-epochs")
    read, source = {}, None
    if before:
        start = {key: before[2][key] for key in (*INHERITED, "num_classes") if key in before[2]}
    else:
        source = _start_of({**common, **given})
        start = read = inherited(source, as_values({**common, **given})) if source else {}
    common = _pick(COMMON, as_values(_merged(defaults, start, common, given)))
    stages = [{"epochs": stage["epochs"], **_pick(STAGE, as_values({**defaults, **start, **stage, **given}))}
              for stage in stages]
    _check_sizes(common, stages)
    stages = [_scaled(_with_curve(stage), scale) for stage in stages]
    stages = _cut(stages, given.get("num_epochs"), keep_warmup="warmup_epochs" in given)
    recipe = Recipe(name, description, common, tuple(stages), read, source, file)
    if recipe.epochs > MAX_EPOCHS:
        raise InputError(f"{recipe.epochs:.6g} epochs: give {MAX_EPOCHS} at most")
    return recipe


def _check_sizes(common, stages):
    """SAME padding is laid out for one size of images."""
    sizes = dict.fromkeys(stage["image_shape"] for stage in stages)
    if common["padding"] == "same" and len({tuple(n % TOTAL_STRIDE for n in size[1:]) for size in sizes}) > 1:
        raise InputError(f"--padding same: pads images of {' and '.join(map(as_flag, sizes))} differently; give stages "
                         f"sizes that differ by multiples of {TOTAL_STRIDE}")


def _with_curve(stage):
    """`--lr-step-epochs pow2`, the original's way to ask for a polynomial, as the flags that do it here."""
    match = re.fullmatch(r"pow[- ]*(\d+(?:\.\d+)?)", stage["lr_step_epochs"] or "")
    return {**stage, "lr_mode": "poly", "lr_power": float(match[1]), "lr_step_epochs": ""} if match else stage


def _start_of(values):
    """The weights that a new run starts from, as `inherited` takes them; None for none."""
    if values.get("load_epoch") is not None and values.get("model_prefix"):
        return checkpoint_files(values["model_prefix"], values["load_epoch"])[1]
    return weights_of(values["pretrained_model"]) if values.get("pretrained_model") else None


def _merged(*layers):
    """The later win; a multiplier wins over earlier channels too."""
    values = {}
    for layer in layers:
        values |= {"channels": None, **layer} if "multiplier" in layer else layer
    return values


def _pick(flags, values):
    return {destination: values[destination] for destination in (flag.replace("-", "_") for flag in flags)}


def _scaled(stage, scale):
    """A stage of `scale` times the epochs in which the learning rate goes the same way."""
    if scale == 1:
        return stage
    epochs = max(1, round(min(stage["epochs"] * scale, 2.0 * MAX_EPOCHS)))
    ratio = epochs / stage["epochs"]
    changed = {"epochs": epochs, "warmup_epochs": round(stage["warmup_epochs"] * ratio, 6)}
    if stage["lr_step_epochs"]:
        steps = sorted({max(1, round(step * ratio)) for step in lr_step_epochs(stage)})
        changed["lr_step_epochs"] = ",".join(map(str, steps))
    else:
        changed["lr_factor"] = stage["lr_factor"] ** (1 / ratio)
    return {**stage, **changed}


def _cut(stages, epochs, keep_warmup):
    """The stages of a run of `epochs` epochs: the last one is shortened or lengthened. The warm-up of one that is
    shortened takes MOST_WARMUP of its epochs at most, unless it is to be kept: that of `finetune` would fill a run of
    one epoch."""
    if epochs is None:
        return stages
    kept = []
    for stage in stages:
        left = epochs - sum(s["epochs"] for s in kept)
        if left >= stage["epochs"]:
            kept.append({**stage})
        elif left:
            most = stage["warmup_epochs"] if keep_warmup else round(MOST_WARMUP * left, 6)
            kept.append({**stage, "epochs": left, "warmup_epochs": min(stage["warmup_epochs"], most)})
    kept[-1]["epochs"] += epochs - sum(s["epochs"] for s in kept)
    return kept


def lr_step_epochs(stage: dict) -> list:
    """The epochs of --lr-step-epochs, counted from the beginning of the stage; empty: every epoch."""
    text = stage["lr_step_epochs"] or ""
    try:
        steps = [int(epoch) for epoch in text.split(",")] if text else []
    except ValueError:
        steps = [0]
    if any(a >= b for a, b in zip([0, *steps], steps)):
        raise InputError(f"--lr-step-epochs {text}: give rising epochs with commas between, as in 30,60")
    return steps


def _read_recipe(parser, name):
    path = FOLDER / f"{name}.toml" if "/" not in name and not name.endswith((".toml", ".json")) else Path(name)
    try:
        if path.suffix == ".json":
            return path, _from_json(parser, read_json(path)["recipe"], path)
        content = read_toml(path)
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise InputError(f"--recipe {name}: there is no {path}; give a file, or one of {known}") from None
    except InputError:
        raise
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a checkpoint's description, which holds a recipe") from None
    description, stages = content.pop("description", ""), content.pop("stage", None)
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise InputError(f"{path}: has no [[stage]]")
    return path, (path.stem, str(description), *_checked(parser, content, stages, path))


def _from_json(parser, saved, source):
    def flags(values):
        return {key.replace("_", "-"): value for key, value in values.items() if value is not None}
    try:
        name, description = str(saved["name"]), str(saved["description"])
        common, stages = flags(saved["common"]), [flags(stage) for stage in saved["stages"]]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{source}: holds no usable recipe") from None
    return (name, description, *_checked(parser, common, stages, source))


def _checked(parser, common, stages, source):
    """Both with destinations for keys and values of the flags' types."""
    for values, known, where in [(common, (*COMMON, *STAGE), ""),
                                 *((stage, (*STAGE, "epochs"), f"stage {i}: ") for i, stage in enumerate(stages, 1))]:
        for key, value in values.items():
            if key not in known:
                raise InputError(f"{source}: {where}{key!r} is not a flag that a recipe can set"
                                 + (" for a stage alone" if key in COMMON else ""))
            if isinstance(value, dict):
                raise InputError(f"{source}: {where}{key}: give one value")
    if not stages:
        raise InputError(f"{source}: has no [[stage]]")
    shared = parser.read(common, source)
    checked = []
    for i, stage in enumerate(stages, 1):
        epochs = stage.get("epochs")
        if type(epochs) is not int or not 0 < epochs <= MAX_EPOCHS:
            raise InputError(f"{source}: stage {i}: epochs: give a whole number from 1 to {MAX_EPOCHS}")
        own = {key: value for key, value in stage.items() if key != "epochs"}
        checked.append({**shared, **parser.read(own, f"{source}: stage {i}"), "epochs": epochs})
    return shared, checked


def _changes(where, old, new):
    return [f"{where}{key.replace('_', '-')} {old.get(key)} -> {new.get(key)}"
            for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key)]

"""What a run is going to do, in a few lines: the size of the network, and the stages of the recipe."""
import argparse
import json
import math
from collections.abc import Sequence

from common.base.arguments import as_flag
from common.checkpoint.symbol import INPUT, is_label
from common.data.iterators import TrainingIter, augmentation_options
from common.data.options import AUGMENTATION_FLAGS
from common.find_mxnet import mx
from common.images.options import as_values
from common.training.loading import iterator_name
from common.training.recipe import default_flags
from common.training.schedule import Schedule, scaled_rates
from common.training.setup import Setup

LAYERS = ("Convolution", "FullyConnected")
# what a column of the table or a line of its own shows
SHOWN = {"epochs", "batch_size", "lr", "lr_mode", "lr_factor", "lr_step_epochs", "lr_final", "lr_power",
         "warmup_epochs", "warmup_lr", "resize", "min_random_scale", "max_random_scale", "network", "num_classes",
         "image_shape", "lr_for_batch"}


def network_summary(symbol: mx.sym.Symbol, data_shape: Sequence[int]) -> tuple:
    """(parameters, multiply-adds an image) of a network of convolutions and fully connected layers.

    Counted as in the paper: trained parameters, not BatchNorm's statistics; the multiply-adds of convolutions and
    fully connected layers. `data_shape`: (N, 3, H, W).
    """
    shapes, _, _ = symbol.infer_shape(data=data_shape)
    weights = {name: shape for name, shape in zip(symbol.list_arguments(), shapes)
               if name != INPUT and not is_label(name)}
    internals = symbol.get_internals()
    maps = dict(zip(internals.list_outputs(), internals.infer_shape(data=data_shape)[1]))
    nodes = json.loads(symbol.tojson())["nodes"]
    multiply_adds = sum(math.prod(weights[nodes[node["inputs"][1][0]]["name"]][1:])
                        * math.prod(maps[f"{node['name']}_output"][1:]) for node in nodes if node["op"] in LAYERS)
    return sum(map(math.prod, weights.values())), multiply_adds


def run_summary(setup: Setup) -> list:
    """Lines: the network, the images, what the recipe has that the flags' defaults have not, and its stages as a
    table."""
    recipe, settings, (*_, last) = setup.schedule.recipe, setup.settings(-1), setup.stages
    train, validation = last.train, last.validation and iterator_name(last.validation)
    shape = train.provide_data[0][1][1:]
    parameters, multiply_adds = network_summary(setup.network, (1, *shape))
    workers = f" of {setup.workers.count} workers" if setup.workers.count > 1 else ""
    usual = as_values(default_flags())
    lines = [f"Network: {settings.network}, {settings.num_classes} classes, {parameters:,} parameters, "
             f"{multiply_adds / 1e6:.1f} M multiply-adds an image of {'x'.join(map(str, shape))}",
             f"Images: {train}{workers}; " + (f"validation: {validation}" if validation else "no validation"),
             f"Recipe {recipe.name}: {recipe.description}; seed {settings.seed}"]
    if recipe.inherited:
        lines.append(f"As in {recipe.source}: " + _named(recipe.inherited))
    others = {name: value for name, value in recipe.common.items()
              if name not in SHOWN | set(recipe.inherited) and value != usual[name]}
    if others:
        lines.append("With " + _named(others))
    if setup.teacher:
        lines.append(f"Teacher: {setup.teacher}")
    if setup.class_weights is not None:
        present = setup.class_weights[setup.class_weights > 0]
        lines.append(f"Class weights: {present.min():.4g} to {present.max():.4g}, of {len(present)} classes that the "
                     "records have images of")
    crops = [crop_of(setup.settings(i), images.train.images.short_side) if isinstance(images.train, TrainingIter)
             else None for i, images in enumerate(setup.stages)]
    return lines + stages_table(setup.schedule, crops)


def _named(values):
    return ", ".join(f"{name.replace('_', '-')} {as_flag(value)}" for name, value in values.items())


def stages_table(schedule: Schedule, crops: Sequence[str | None]) -> list:
    """Lines of the table: what each stage does, with columns of equal widths; `crops`: what its images are cut from,
    None if a data loader of someone's own prepares them."""
    rows = [("epochs", "batch", "batches", "learning rate", "images", "augmentation and more")]
    for i, stage in enumerate(schedule.recipe.stages):
        first = schedule.recipe.first_epoch(i)
        batch = str(stage["batch_size"]) + (f" x {schedule.workers}" if schedule.workers > 1 else "")
        rows.append((f"{first}-{first + stage['epochs'] - 1}", batch, f"{schedule.batches[i]:,}",
                     _rate(schedule, stage), crops[i] or "-",
                     _named(_drawn(stage, augmented=crops[i] is not None)) or "none"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _drawn(stage, augmented):
    """The augmentation of a stage, and what else it has besides its schedule: what is not 0."""
    flags = [*(flag.replace("-", "_") for flag in AUGMENTATION_FLAGS), "pad_size"] if augmented else []
    unused = [*(() if stage["random_resized_crop"] else ("max_random_area", "min_random_area")),
              *(() if stage["auto_augment"] == "ra" else ("ra_magnitude", "ra_num_ops"))]
    return {name: stage[name] for name in (*flags, "mixup", "cutmix")
            if stage[name] not in (None, 0, -1, "none") and name not in SHOWN and name not in unused}


def crop_of(settings: argparse.Namespace, short_side: int | None) -> str:
    """What a crop is cut from, of images packed with that shorter side."""
    options = augmentation_options(settings, short_side)
    least, most, resize = (options.get(name) for name in ("min_random_scale", "max_random_scale", "resize"))
    height, width = settings.image_shape[1:]
    crop = f"crop {height}" if height == width else f"crop {width}x{height}"
    if least is None:
        return f"area {options['min_random_area']:g}-{options['max_random_area']:g}, {crop}"
    if resize == -1:
        return f"as stored x {least:g}-{most:g}, {crop}"
    return f"shorter side {resize * least:.0f}-{resize * most:.0f}, {crop}"


def _rate(schedule, stage):
    rates = scaled_rates(schedule.recipe, stage, schedule.workers)
    text = f"{rates['lr']:.6g}"
    if stage["lr_mode"] == "step":
        where = f"at {stage['lr_step_epochs']}" if stage["lr_step_epochs"] else "every epoch"
        text += f" x {stage['lr_factor']:.6g} {where}"
    else:
        text += f", {stage['lr_mode']} to {rates['lr_final']:g}"
    if stage["warmup_epochs"]:
        text += f", warm-up {stage['warmup_epochs']:g} from {rates['warmup_lr']:g}"
    return text

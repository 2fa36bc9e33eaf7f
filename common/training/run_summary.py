"""What a run is going to do, in a few lines: the size of the network, and the stages of the recipe."""
import argparse
import json
import math
from collections.abc import Sequence

from common.checkpoint.symbol import INPUT, is_label
from common.data.iterators import augmentation_options
from common.find_mxnet import mx
from common.training.optimizer import MOMENTUM_OPTIMIZERS
from common.training.plan import Plan, scaled_rates
from common.training.pretrained import listed
from common.training.recipe import Recipe

LAYERS = ("Convolution", "FullyConnected")


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
    multiply_adds = sum(math.prod(weights[f"{node['name']}_weight"][1:]) * math.prod(maps[f"{node['name']}_output"][1:])
                        for node in json.loads(symbol.tojson())["nodes"] if node["op"] in LAYERS)
    return sum(map(math.prod, weights.values())), multiply_adds


def run_summary(args: argparse.Namespace, plan: Plan, network: mx.sym.Symbol, usual: Recipe) -> list:
    """Lines: the network, the images, and the stages of the plan as a table; what else is not as in the recipe `usual`,
    that of the flags' defaults."""
    recipe, settings = plan.recipe, plan.recipe.settings(args, 0)
    parameters, multiply_adds = network_summary(network, (1, *settings.image_shape))
    height, width = settings.image_shape[1:]
    workers = f" of {plan.workers} workers" if plan.workers > 1 else ""
    size = f"of channels {listed(settings.channels)}" if settings.channels else f"{settings.multiplier:g}"
    momentum = f", momentum {settings.mom:g}" if settings.optimizer in MOMENTUM_OPTIMIZERS else ""
    return [f"Network: {settings.network} {size}, {settings.num_classes} classes, {parameters:,} "
            f"parameters, {multiply_adds / 1e6:.1f} M multiply-adds an image of {width}x{height}",
            f"Images: {plan.images}, {plan.images.examples:,} in an epoch{workers}"
            + (f", packed by --short-side {plan.images.short_side}" if plan.images.short_side else "")
            + (f"; validation: {args.data_val}" if args.data_val else "; no validation"),
            f"Recipe {recipe.name}: {recipe.description}; {settings.optimizer}{momentum}, weight decay {settings.wd:g}"
            + "".join(_options(settings)) + f"; seed {settings.seed}",
            *stages_table(args, plan), *_inherited(recipe), *_others(recipe, usual)]


def _inherited(recipe):
    if recipe.inherited:
        yield f"As in {recipe.source}: " + _named(recipe.inherited)


def _named(values):
    return ", ".join(f"{name.replace('_', '-')} {listed(value)}" for name, value in values.items())


def _options(settings):
    for destination, usual, words in OPTIONS:
        if (value := getattr(settings, destination)) != usual:
            yield ", " + words.format(value)


def _others(recipe, usual):
    shown = {"network", "multiplier", "channels", "num_classes", "image_shape", "optimizer", "mom", "wd", "seed",
             "lr_for_batch", "epochs", "batch_size", "lr", "lr_mode", "lr_factor", "lr_step_epochs", "lr_final",
             "warmup_epochs", "resize", "min_random_scale", "max_random_scale", *recipe.inherited,
             *(destination for destination, *_ in (*OPTIONS, *AUGMENTATION_WORDS))}
    others = [where + _named({key: value}) for where, values, defaults in [("", recipe.common, usual.common), *(
                  (f"stage {i} ", stage, usual.stages[0]) for i, stage in enumerate(recipe.stages, 1))]
              for key, value in values.items() if key not in shown and value != defaults[key]]
    return ["And: " + ", ".join(others)] if others else []


def stages_table(args: argparse.Namespace, plan: Plan) -> list:
    """Lines of the table: what each stage does, with columns of equal widths."""
    rows = [("epochs", "batch", "batches", "learning rate", "images", "augmentation")]
    for i, stage in enumerate(plan.recipe.stages):
        first = plan.recipe.first_epoch(i)
        batch = str(stage["batch_size"]) + (f" x {plan.workers}" if plan.workers > 1 else "")
        settings = plan.recipe.settings(args, i)
        rows.append((f"{first}-{first + stage['epochs'] - 1}", batch, f"{plan.batches[i]:,}", _rate(plan, stage),
                     _images(settings, augmentation_options(settings, plan.images.short_side)),
                     ", ".join(_augmentation(stage)) or "none"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _images(settings, options):
    """What a crop is cut from."""
    least, most, resize = (options.get(name) for name in ("min_random_scale", "max_random_scale", "resize"))
    height, width = settings.image_shape[1:]
    crop = f"crop {height}" if height == width else f"crop {width}x{height}"
    if least is None:
        return f"area {options['min_random_area']:g}-{options['max_random_area']:g}, {crop}"
    if resize == -1:
        return f"as stored x {least:g}-{most:g}, {crop}"
    return f"shorter side {resize * least:.0f}-{resize * most:.0f}, {crop}"


def _rate(plan, stage):
    rates = scaled_rates(plan.recipe, stage, plan.workers)
    text = f"{rates['lr']:.6g}"
    if stage["lr_mode"] == "step":
        where = f"at {stage['lr_step_epochs']}" if stage["lr_step_epochs"] else "each epoch"
        text += f" x {stage['lr_factor']:.6g} {where}"
    else:
        text += f", {stage['lr_mode']} to {rates['lr_final']:g}"
    if stage["warmup_epochs"]:
        text += f", warm-up {stage['warmup_epochs']:g} from {rates['warmup_lr']:g}"
    return text


# destination, usual value, words for another
OPTIONS = (
    ("no_wd", 0, "none on BatchNorm"), ("label_smoothing", 0, "label smoothing {:g}"), ("ema", 0, "average with decay "
    "{:g}"), ("head_lr_mult", 1, "rate of fc times {:g}"), ("train_from", None, "trained from layer {}"),
    ("pretrained_model", None, "weights of {}"), ("dtype", "float32", "{}"), ("loss_scale", None, "loss scale {:g}"),
)
# destination, words; {} stands for the value, and the words are left out where it is 0 or not given
AUGMENTATION_WORDS = (
    ("random_resized_crop", "resized crop"), ("random_crop", "crop"), ("random_mirror", "mirror"),
    ("max_random_h", "hue {}"), ("max_random_s", "saturation {}"), ("max_random_l", "lightness {}"),
    ("max_random_aspect_ratio", "aspect {}"), ("max_random_rotate_angle", "rotation {}"),
    ("max_random_shear_ratio", "shear {}"), ("brightness", "brightness {}"), ("contrast", "contrast {}"),
    ("saturation", "saturation x{}"), ("pca_noise", "PCA noise {}"), ("pad_size", "pad {}"), ("mixup", "mixup {}"),
)


def _augmentation(stage):
    resized = stage["random_resized_crop"]
    for destination, words in AUGMENTATION_WORDS:
        if stage[destination] and not (resized and destination == "random_crop"):
            yield words.format(stage[destination])

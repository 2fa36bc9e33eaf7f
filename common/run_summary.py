"""What a run is going to do, in a few lines: the size of the network, and the stages of the recipe."""
import json
import math

from common.data import augmentation

LAYERS = ("Convolution", "FullyConnected")


def network_summary(symbol, data_shape) -> tuple:
    """(parameters, multiply-adds an image) of a network of convolutions and fully connected layers.

    Counted as in the paper: trained parameters, not BatchNorm's statistics; the multiply-adds of convolutions and
    fully connected layers. `data_shape`: (N, 3, H, W).
    """
    shapes, _, _ = symbol.infer_shape(data=data_shape)
    weights = {name: shape for name, shape in zip(symbol.list_arguments(), shapes)
               if name != "data" and not name.endswith("label")}
    internals = symbol.get_internals()
    maps = dict(zip(internals.list_outputs(), internals.infer_shape(data=data_shape)[1]))
    multiply_adds = sum(math.prod(weights[f"{node['name']}_weight"][1:]) * math.prod(maps[f"{node['name']}_output"][1:])
                        for node in json.loads(symbol.tojson())["nodes"] if node["op"] in LAYERS)
    return sum(map(math.prod, weights.values())), multiply_adds


def run_summary(args, plan, network) -> list:
    """Lines: the network, the images, and the stages of the plan as a table."""
    recipe, settings = plan.recipe, plan.recipe.settings(args, 0)
    parameters, multiply_adds = network_summary(network, (1, *settings.image_shape))
    height, width = settings.image_shape[1:]
    workers = f" of {plan.workers} workers" if plan.workers > 1 else ""
    variant = "".join(f", {value} {name}" for name, value, usual in (
        ("strides", settings.strides, "published"), ("padding", settings.padding, "symmetric")) if value != usual)
    return [f"Network: {settings.network} {settings.multiplier:g}{variant}, {settings.num_classes} classes, "
            f"{parameters:,} parameters, {multiply_adds / 1e6:.1f} M multiply-adds an image of {width}x{height}",
            f"Images: {plan.images.rec}, {plan.images.examples:,} in an epoch{workers}"
            + (f", shorter side {plan.images.short_side}" if plan.images.short_side else "")
            + (f"; validation: {args.data_val}" if args.data_val else "; no validation"),
            f"Recipe {recipe.name}: {recipe.description}; {settings.optimizer}, momentum {settings.mom:g}, "
            f"weight decay {settings.wd:g}" + "".join(_options(settings)) + f"; seed {settings.seed}",
            *stages_table(args, plan)]


def _options(settings):
    for destination, usual, words in (
            ("no_wd", 0, "none on BatchNorm"), ("label_smoothing", 0, "label smoothing {:g}"),
            ("ema", 0, "average with decay {:g}"), ("head_lr_mult", 1, "rate of fc times {:g}"),
            ("train_from", None, "trained from layer {}"), ("pretrained_model", None, "weights of {}"),
            ("dtype", "float32", "{}"), ("loss_scale", None, "loss scale {:g}")):
        if (value := getattr(settings, destination)) != usual:
            yield ", " + words.format(value)


def stages_table(args, plan) -> list:
    rows = [("epochs", "batch", "batches", "learning rate", "scale", "augmentation")]
    for i, stage in enumerate(plan.recipe.stages):
        first = plan.recipe.first_epoch(i)
        batch = str(stage["batch_size"]) + (f" x {plan.workers}" if plan.workers > 1 else "")
        options = augmentation(plan.recipe.settings(args, i), plan.images.short_side)
        scale = f"{options['min_random_scale']:g}-{options['max_random_scale']:g}" if "min_random_scale" in options \
            else f"area {options['min_random_area']:g}-{options['max_random_area']:g}"
        rows.append((f"{first}-{first + stage['epochs'] - 1}", batch, f"{plan.batches[i]:,}",
                     _rate(plan.recipe, stage), scale, ", ".join(_augmentation(stage)) or "none"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _rate(recipe, stage):
    text = f"{stage['lr']:g}"
    if recipe.common["lr_for_batch"]:
        text += f" (for a batch of {recipe.common['lr_for_batch']})"
    if stage["lr_mode"] == "step":
        where = f"at {stage['lr_step_epochs']}" if stage["lr_step_epochs"] else "each epoch"
        text += f" x {stage['lr_factor']:.6g} {where}"
    else:
        text += f", {stage['lr_mode']} to {stage['lr_final']:g}"
    if stage["warmup_epochs"]:
        text += f", warm-up {stage['warmup_epochs']:g}"
    return text


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

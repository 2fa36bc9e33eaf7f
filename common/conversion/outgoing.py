"""A checkpoint under the names of torchvision or timm, or as NumPy's .npz."""
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.base.files import folder_written_atomically, written_atomically
from common.checkpoint.arrays import Checkpoint
from common.conversion.assemble import IDENTITY, Params, first_shortcut, with_expansion, without_expansion
from common.conversion.convert import eight
from common.conversion.names import TIMM, TORCHVISION, Names, source_names
from common.conversion.readers import ENTRY, description_of
from symbols.architecture import FIRST_CHANNELS, LAST_CHANNELS, REPEATS, STRIDES, TABLE, TOTAL_STRIDE

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # in a folder for timm
MULTIPLIERS = (0.1, 0.25, 0.35, 0.5, 0.75, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 2.0)  # tried for a torchvision model
TIMM_MODELS = (  # name, width and depth multiplier
    ("mobilenetv2_035", 0.35, 1), ("mobilenetv2_050", 0.5, 1), ("mobilenetv2_075", 0.75, 1),
    ("mobilenetv2_100", 1.0, 1), ("mobilenetv2_140", 1.4, 1),
    ("mobilenetv2_110d", 1.1, 1.2), ("mobilenetv2_120d", 1.2, 1.4),
)


def save_npz(checkpoint: Checkpoint, path: str | Path) -> str:
    """Write {published name: array}; returns the expression that loads it."""
    content = io.BytesIO()  # an error in a zip file comes again when it is closed
    np.savez(content, **checkpoint.arg_params, **checkpoint.aux_params, **{ENTRY: description_of(checkpoint)})
    with written_atomically(path) as partial:
        Path(partial).write_bytes(content.getvalue())
    return f"numpy.load({str(path)!r})"


def save_torchvision(checkpoint: Checkpoint, path: str | Path) -> str:
    """Write a state_dict of torchvision's MobileNetV2 as .safetensors; returns the model that loads it.

    Raises InputError if no such model computes the same.
    """
    portable = _portable(checkpoint, "torchvision")
    params = without_expansion(portable)
    again = with_expansion(params)
    if any(not np.array_equal(again[name], array) for name, array in portable.items()):
        params = portable  # an expansion that would not come back as it is
    return _save_state_dict(checkpoint, params, TORCHVISION, torchvision_model(checkpoint, _is_expanded(params)), path)


def save_timm(checkpoint: Checkpoint, path: str | Path) -> str:
    """As `save_torchvision`, of timm's mobilenetv2."""
    name, params = _for_timm(checkpoint)
    return _save_state_dict(checkpoint, params, TIMM,
                            f"timm.create_model({name!r}, num_classes={checkpoint.num_classes})", path)


def save_timm_folder(checkpoint: Checkpoint, path: str | Path, class_names: Sequence[str] | None) -> str:
    """As `save_timm`, a folder that timm's `local-dir:` and `hf-hub:` load; one that is there is replaced."""
    name, _ = _for_timm(checkpoint)
    with folder_written_atomically(path) as folder:
        save_timm(checkpoint, folder / WEIGHTS)
        config = json.dumps(timm_config(checkpoint, name, class_names), indent=2)
        (folder / CONFIG).write_text(f"{config}\n", encoding="utf-8")
    return f"timm.create_model({f'local-dir:{path}'!r}, pretrained=True)"


def _for_timm(checkpoint):
    """(timm's network, its parameters). Raises InputError if no network of timm's computes the same."""
    params = without_expansion(_portable(checkpoint, "timm"))
    if _is_expanded(params):
        raise InputError("--to timm: its mobilenetv2 has no expansion in the first block, and that of this checkpoint "
                         "is not an identity; --to torchvision can hold it")
    network = checkpoint.network
    names = [name for name, multiplier, depth in TIMM_MODELS
             if _timm_widths(multiplier, depth) == (network["channels"], network["repeats"])]
    if not names or network["strides"] != "published":
        raise InputError(f"--to timm: it has no mobilenetv2 with widths {network['channels']}, repeats "
                         f"{network['repeats']} and {network['strides']} strides; --to torchvision can hold it")
    return names[0], params


def timm_config(checkpoint: Checkpoint, name: str, class_names: Sequence[str] | None) -> dict:
    """The content of config.json for timm's network `name`, as timm.models.save_for_hf writes it."""
    resize, crop, mean, std = checkpoint.preprocessing
    crop_pct = crop / resize
    if math.floor(crop / crop_pct) < resize:  # as timm computes it
        crop_pct = math.nextafter(crop_pct, 0)
    config = {"architecture": name, "num_classes": checkpoint.num_classes,
              "num_features": checkpoint.network["channels"][-1],
              "pretrained_cfg": {
                  "input_size": [3, crop, crop], "fixed_input_size": False, "pool_size": [-(-crop // TOTAL_STRIDE)] * 2,
                  "interpolation": "hamming",  # of Pillow's, what comes nearest to the average over an area
                  "crop_pct": crop_pct, "crop_mode": "center", "mean": [round(value / 255, 9) for value in mean],
                  "std": [round(value / 255, 9) for value in std], "num_classes": checkpoint.num_classes,
                  "first_conv": TIMM.first[0], "classifier": TIMM.fc}}
    if class_names:
        wnids = [re.fullmatch(r"(n[0-9]{8})\s+(.+)", line) for line in class_names]  # WordNet's numbers
        described = {match[1]: match[2] for match in wnids if match}
        config |= ({"label_names": list(described), "label_descriptions": described}
                   if len(described) == len(class_names) else {"label_names": list(class_names)})
    return config


def torchvision_model(checkpoint: Checkpoint, expanded: bool) -> str:
    """The expression that makes torchvision's network for a checkpoint; `expanded`: its first block has an expansion.

    Raises InputError if there is none.
    """
    (first, *stages, last), repeats = checkpoint.network["channels"], checkpoint.network["repeats"]
    strides, classes = STRIDES[checkpoint.network["strides"]], f"num_classes={checkpoint.num_classes}"
    if not expanded and repeats == REPEATS and strides == STRIDES["published"]:
        for multiplier in MULTIPLIERS:
            rounded = (eight(FIRST_CHANNELS * multiplier), *(eight(c * multiplier) for _, c, _, _ in TABLE),
                       eight(LAST_CHANNELS * max(1.0, multiplier)))
            if rounded == (first, *stages, last):
                return f"torchvision.models.mobilenet_v2(width_mult={multiplier}, {classes})"
    # any other widths as multiples of one multiplier, which torchvision rounds to whole numbers
    multiplier = last / LAST_CHANNELS if last > LAST_CHANNELS else first / FIRST_CHANNELS
    if (math.floor(FIRST_CHANNELS * multiplier + 0.5), math.floor(LAST_CHANNELS * max(1.0, multiplier) + 0.5)) \
            != (first, last):
        raise InputError(f"--to torchvision: its MobileNetV2 cannot have {first} channels in the first convolution and "
                         f"{last} in the last")
    # with an expansion of exactly 1 it has no such layer
    setting = [[1.000001 if t == 1 and expanded else t, c / multiplier, n, s]
               for (t, _, _, _), c, n, s in zip(TABLE, stages, repeats, strides)]
    return (f"torchvision.models.MobileNetV2({classes}, width_mult={multiplier}, round_nearest=1, "
            f"inverted_residual_setting={json.dumps(setting)})")


def _portable(checkpoint, framework):
    """All parameters. Raises InputError if the framework computes something else."""
    network = checkpoint.network
    if network.get("activation", "relu6") != "relu6":
        raise InputError(f"--to {framework}: its MobileNetV2 has ReLU6, this checkpoint {network['activation']}; --to "
                         "onnx and npz keep that")
    if network["padding"] == "same":
        raise InputError(f"--to {framework}: its MobileNetV2 pads all sides alike, this checkpoint as TensorFlow does; "
                         "--to onnx and npz keep that")
    if stage := first_shortcut(network):
        raise InputError(f"--to {framework}: its MobileNetV2 would have a shortcut in the first block of {stage}; --to "
                         "onnx and npz keep this network as it is")
    return checkpoint.arg_params | checkpoint.aux_params


def _is_expanded(params):
    return f"{IDENTITY}-conv2d_weight" in params


def _timm_widths(multiplier, depth):
    """(channels, repeats); the deeper ones keep stem, head and the depth of the first and last stage."""
    stages = tuple(eight(c * multiplier) for _, c, _, _ in TABLE)
    if depth == 1:
        return (eight(FIRST_CHANNELS * multiplier), *stages, eight(LAST_CHANNELS * max(1.0, multiplier))), REPEATS
    first, *middle, last = REPEATS
    return (FIRST_CHANNELS, *stages, LAST_CHANNELS), (first, *(math.ceil(n * depth) for n in middle), last)


def _save_state_dict(checkpoint: Checkpoint, params: Params, names: Names, model: str, path: str | Path) -> str:
    import safetensors.numpy  # not needed for .npz
    table = source_names(names, checkpoint.network["repeats"], _is_expanded(params))
    arrays = {name: np.ascontiguousarray(params[published]) for published, name in table.items()}
    counters = {name.replace(".running_var", ".num_batches_tracked"): np.zeros((), np.int64)
                for name in arrays if name.endswith(".running_var")}
    content = safetensors.numpy.save(arrays | counters, metadata={
        "format": "pt", "model": model, ENTRY: description_of(checkpoint)})
    with written_atomically(path) as partial:
        Path(partial).write_bytes(content)  # save_file would let nobody else read it
    return model

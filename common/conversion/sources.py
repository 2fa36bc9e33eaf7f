"""The parameters in each kind of file, under the published names and in MXNet's layouts."""
import json
import re
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.base.processes import confined
from common.conversion.assemble import Params
from common.conversion.names import GLUON, GLUON_FLAT, KERAS, TIMM, TORCHVISION, Names, source_names
from common.conversion.readers import DESCRIPTION, read_gluon, read_npz
from symbols.architecture import CLASSIFIER, REPEATS

IGNORED = ("num_batches_tracked", "n_averaged")  # PyTorch's counters, of BatchNorms and of a moving average
FIRST_LINEAR = "seq-0-block0-linear-batchnorm_gamma"  # has another name if the first block has an expansion

KERAS_SECONDS = 20  # of a processor, most of them for imports
# orders of the axes that turn Keras's weights into MXNet's: (out, in, height, width), (channels, 1, ...), (out, in)
KERAS_AXES = {"convolution": (3, 2, 0, 1), "depthwise": (2, 3, 0, 1), "fc": (1, 0)}


def torchvision_params(path: str | Path, ema: bool = False) -> tuple[Params, dict]:
    """({published name: array}, description), as from all functions here: of a state_dict of torchvision's.

    The description has what the file says of "strides", "padding", "image_shape" (3, H, W), "repeats", and
    "preprocessing", a dict of what it says of Preprocessing's fields: often "mean" and "std" alone. "notes" are what
    else one should know of the file. `ema`: the moving average of the weights, which the file holds too."""
    arrays, description = _state_dict(path, TORCHVISION, ema)
    repeats = description.get("repeats", REPEATS)
    return _renamed(arrays, TORCHVISION, repeats, "torchvision", path, description["notes"]), description


def timm_params(path: str | Path, ema: bool = False) -> tuple[Params, dict]:
    """Of a state_dict of timm's, with any number of blocks in each stage."""
    arrays, description = _state_dict(path, TIMM, ema)
    blocks = [int(match[1]) for match in (re.fullmatch(r"blocks\.([0-6])\.\d{1,3}\.conv_dw\.weight", name)
                                          for name in arrays) if match]
    repeats = tuple(map(blocks.count, range(len(REPEATS))))
    repeats = repeats if all(repeats) else REPEATS
    return _renamed(arrays, TIMM, repeats, "timm", path, description["notes"]), description


def _state_dict(path: str | Path, names: Names, ema: bool) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays of one network under its own names, description): the weights, or their moving average."""
    from common.conversion.state_dict import AVERAGE, read_state_dict  # here, since only this needs its package
    arrays, description = read_state_dict(path)
    first = names.first[0] + names.kernel
    groups: dict = {True: {}, False: {}}
    for name, array in arrays.items():
        groups[bool(AVERAGE.search(name))][name] = array
    there = [average for average, group in groups.items() if any(f".{name}".endswith(f".{first}") for name in group)]
    if ema and True not in there:
        raise InputError(f"{path}: holds no moving average of the weights; leave out --ema")
    description["notes"] = [] if len(there) < 2 else ["holds the weights and their moving average; " + (
        "the average is taken" if ema else "the weights are taken, --ema takes the average")]
    return _unwrapped(groups[ema or there == [True]], names, path), description


def _unwrapped(arrays: dict[str, np.ndarray], names: Names, path: str | Path) -> dict[str, np.ndarray]:
    """`arrays` of a PyTorch module that may have wrapped the network, as DataParallel, torch.compile, Lightning and
    people's own modules do, and named its one linear layer otherwise: with the names of the network alone."""
    first = names.first[0] + names.kernel
    prefixes = [name.removesuffix(first) for name in arrays if name == first or name.endswith(f".{first}")]
    bare = {name.removeprefix(*prefixes[:1] or [""]): array for name, array in arrays.items()}
    if len(prefixes) > 1 or len(bare) < len(arrays):
        listed = ", ".join(prefix or "one without a prefix" for prefix in prefixes)
        raise InputError(f"{path}: holds several networks, {listed}; save the state_dict of one")
    arrays = bare
    linear = [name.removesuffix(names.kernel) for name, array in arrays.items()
              if name.endswith(names.kernel) and array.ndim == 2]
    if names.fc + names.kernel in arrays or not linear:
        return arrays
    if len(linear) > 1:
        raise InputError(f"{path}: has several linear layers, {', '.join(linear)}; a classifier of one can be "
                         "converted")
    head, = linear
    kinds = {head + kind: names.fc + kind for kind in (names.kernel, names.bias)}
    without_bias = {} if head + names.bias in arrays else {
        names.fc + names.bias: np.zeros(len(arrays[head + names.kernel]), np.float32)}
    return {kinds.get(name, name): array for name, array in arrays.items()} | without_bias


def gluon_params(path: str | Path) -> tuple[Params, dict]:
    """Of Gluon's model zoo, by either of its ways of naming."""
    arrays = read_gluon(path)
    names = GLUON if any("." in name for name in arrays) else GLUON_FLAT
    params = _renamed(arrays, names, REPEATS, "Gluon", path)
    if params["fc_weight"].shape[2:] == (1, 1):
        params["fc_weight"] = params["fc_weight"][:, :, 0, 0]
    return params, {}


def keras_params(path: str | Path) -> tuple[Params, dict]:
    """Of Keras's .h5 or .keras, read in a process of its own; axes in Keras's order are brought into MXNet's."""
    found = confined("common.conversion.keras_file", "read_keras", path, seconds=KERAS_SECONDS)
    description = json.loads(str(found.pop(0)[1])) if found and found[0][0] == DESCRIPTION else {}
    by_name = any("/" in name for name, _ in found)
    params = _renamed(dict(found) if by_name else _keras_named(found, path), KERAS, REPEATS, "Keras", path)
    for name, array in params.items():
        if name.endswith("_weight"):
            kind = "fc" if name == "fc_weight" else "depthwise" if "-depthwise-" in name else "convolution"
            if array.ndim != len(KERAS_AXES[kind]):
                raise InputError(f"{path}: {name} has {array.ndim} dimensions; not the weights of Keras's MobileNetV2")
            params[name] = array.transpose(KERAS_AXES[kind])
    if params["fc_weight"].shape[0] == params["fc_bias"].size == 1:
        # sigmoid(x) is the second of softmax(0, x)
        params |= {name: np.concatenate([np.zeros_like(params[name]), params[name]]) for name in CLASSIFIER}
        description.setdefault("notes", []).append(
            "its one output becomes two classes: 1, to which that output is the logit, and 0, with a logit of 0")
    return params, description


def npz_params(path: str | Path) -> tuple[Params, dict]:
    """Of an .npz file with the names of a .params file, or without their `arg:` and `aux:`."""
    arrays, description = read_npz(path)
    return {name.removeprefix("arg:").removeprefix("aux:"): array for name, array in arrays.items()}, description


def tflite_params(path: str | Path) -> tuple[Params, dict]:
    """Of a .tflite file, in which BatchNorm is folded: UNIT-conv2d_bias stands for it."""
    from common.conversion.tflite import read_tflite
    return read_tflite(path)


def mxnet_params(path: str | Path) -> tuple[Params, dict]:
    """Of a checkpoint of any MXNet repository, whatever its names, with its symbol beside it."""
    from common.conversion.mxnet_symbol import read_checkpoint
    return read_checkpoint(path)


def onnx_params(path: str | Path, image_shape: tuple[int, int, int] | None = None) -> tuple[Params, dict]:
    """Of an .onnx file, for images of `image_shape` if that is given, else of the size that its input has."""
    from common.conversion.onnx_file import read_onnx
    return read_onnx(path, image_shape)


def _renamed(arrays: dict[str, np.ndarray], names: Names, repeats: tuple[int, ...], framework: str,
             path: str | Path, notes: list[str] | None = None) -> Params:
    """`arrays` under their published names. With `notes`, what can be no layer's is left out, and noted there."""
    first_expansion = not names.plain or source_names(names, repeats, True)[FIRST_LINEAR] in arrays
    table = source_names(names, repeats, first_expansion)
    params = {}
    for published, name in table.items():
        if name in arrays:
            params[published] = arrays[name]
        elif published != "fc_bias" or names.fc_has_bias:
            raise InputError(f"{path}: has no {name}; not the weights of {framework}'s MobileNetV2, or of "
                             "another depth")
    unknown = {name: array for name, array in arrays.items()
               if name not in table.values() and not name.endswith(IGNORED)}
    if notes is not None and (others := _no_layers(unknown, params["fc_weight"].shape[:1])):
        notes.append(f"left out, since they are no layer's: {', '.join(others)}")
        unknown = {name: array for name, array in unknown.items() if name not in others}
    if unknown:
        raise InputError(f"{path}: holds {next(iter(unknown))!r}, which {framework}'s MobileNetV2 does not have")
    params.setdefault("fc_bias", np.zeros(params["fc_weight"].shape[:1], np.float32))
    return params


def _no_layers(arrays: dict[str, np.ndarray], classes: tuple[int, ...]) -> list[str]:
    """Those of `arrays` that a module of Lightning's holds beside its layers: counts and means of metrics, whole or
    single numbers, and a loss's weights, one for each class, which are alone in their module."""
    modules = [name.rpartition(".")[0] for name, array in arrays.items() if array.dtype.kind == "f"]
    return [name for name, array in arrays.items() if array.ndim == 0 or array.dtype.kind in "iub"
            or array.shape == classes and modules.count(name.rpartition(".")[0]) == 1]


def _keras_named(weights, path):
    """{name in KERAS: array} of [(weight, array)] in the network's order."""
    table = list(source_names(KERAS, REPEATS, False).values())
    if len(weights) == len(table) - 2:
        raise InputError(f"{path}: has no classifier; give the file with the top")
    if len(weights) != len(table):
        raise InputError(f"{path}: has {len(weights)} arrays, Keras's MobileNetV2 has {len(table)}")
    for (weight, _), name in zip(weights, table):
        if weight not in (expected := name.split("/")[1]) and expected not in weight:
            raise InputError(f"{path}: has {weight!r} in the place of {expected} in Keras's MobileNetV2")
    return dict(zip(table, (array for _, array in weights)))

"""The weights that --pretrained-model names, and what they say of network and images, if no flag and no recipe does."""
import logging
import os
from pathlib import Path

from common.base.arguments import as_flag, as_flags
from common.base.errors import InputError, printable
from common.checkpoint.arrays import Checkpoint, network_of, widths_of
from common.checkpoint.foreign import kind_of
from common.checkpoint.params import checkpoint_files, load_checkpoint_params
from common.checkpoint.prefix import epochs_of, prefix_of
from common.checkpoint.preprocessing import load_preprocessing, preprocessing_file
from common.checkpoint.symbol import load_symbol
from common.images.options import USUAL, options_of, saved_options
from symbols.architecture import MAX_MULTIPLIER, MIN_MULTIPLIER, REPEATS, widths

# what flags that are not given stand for
NETWORK = {"channels": widths(), "repeats": REPEATS, "strides": "published", "padding": "symmetric",
           "activation": "relu6"}


def weights_of(value: str) -> str:
    """The weights that --pretrained-model names, for the functions below: FILE.params as it is, of a PREFIX that of its
    last epoch, or a name of models/zoo.toml. Raises InputError if it is none of these."""
    if os.path.isfile(value) or value.endswith(".params") or "\0" in value:
        return value
    if epochs := epochs_of(value):
        return checkpoint_files(value, epochs[-1])[1]
    if value not in _published():
        name = printable(value)
        raise InputError(f"--pretrained-model {name}: No such file, nor {name}-0000.params or of another epoch, nor a "
                         "name that `python -m common.modelzoo list` prints")
    return value


def arrays_of(weights: str) -> tuple[dict, dict]:
    """(arg_params, aux_params) as NumPy arrays, under their published names."""
    checkpoint = _converted(weights)
    return (checkpoint.arg_params, checkpoint.aux_params) if checkpoint else load_checkpoint_params(weights)


def _published() -> list[str]:
    from common.modelzoo import entries
    return list(entries())


def _converted(weights: str) -> Checkpoint | None:
    """Published weights, which are fetched if they are not here, or those of a Gluon file; None for a checkpoint of
    this network."""
    if kind_of(weights) == "gluon":
        from common.conversion.convert import convert
        checkpoint, prefix = convert(weights, "gluon"), prefix_of(weights)
        if prefix and Path(preprocessing_file(prefix)).exists():
            return checkpoint._replace(preprocessing=load_preprocessing(prefix))
        return checkpoint
    if os.path.exists(weights) or weights not in _published():
        return None
    from common.modelzoo import load_pretrained_arrays
    return load_pretrained_arrays(weights)


def inherited(path: str, known: dict) -> dict:
    """{destination: value} of what the weights in `path`, and the files of their PREFIX, say of network and images; of
    that only what is not `known`, nor what it would be without them.

    Widths and repeats are seen in the weights, strides, padding and activation in PREFIX-symbol.json; if that is
    missing, a warning tells what is assumed. Raises InputError for files that cannot be used, and if the weights are of
    another network than what is `known`.
    """
    prefix = prefix_of(path)
    symbol = Path(f"{prefix}-symbol.json") if prefix else None
    images = saved_options(prefix) if prefix else {}
    if checkpoint := _converted(path):
        network, images = {**checkpoint.network}, options_of(checkpoint.preprocessing)
        if os.path.isfile(path) and not (prefix and Path(preprocessing_file(prefix)).exists()):
            _warn(path, "does not say how its images are prepared", images, known)
        network.pop("image_shape", None)  # SAME padding is laid out anew
    elif symbol and symbol.is_file():
        network = network_of(load_symbol(symbol), load_checkpoint_params(path)[0], path)
        network.pop("image_shape", None)
    else:
        network = widths_of(load_checkpoint_params(path)[0], path)
        _warn_of_guesses(path, prefix, known)
    wanted = {name: (name, known[name]) for name in network if known.get(name) is not None}
    if "channels" not in wanted and MIN_MULTIPLIER <= known.get("multiplier", 0) <= MAX_MULTIPLIER:
        wanted["channels"] = ("multiplier", widths(known["multiplier"]))
    for name, (flag, value) in wanted.items():
        if value != network[name]:
            raise InputError(f"--{flag} {as_flag(known[flag])}: {path} is of a network with --{name} "
                             f"{as_flag(network[name])}; give that instead")
    found = {**network, **images}
    return {name: value for name, value in found.items()
            if name not in {*wanted, *known} and value != {**NETWORK, **USUAL}[name]}


def files_beside(path: str) -> list:
    """The file of these weights, and the files of their PREFIX, whether they are there or not."""
    if not os.path.exists(path) and path in _published():
        from common.modelzoo import locate
        path = str(locate(path))
    prefix = prefix_of(path)
    return [path, f"{prefix}-symbol.json", preprocessing_file(prefix)] if prefix else [path]


def _warn_of_guesses(path: str | Path, prefix: str | Path | None, known: dict) -> None:
    """Log what is assumed of weights without a symbol, which tell neither strides, padding, activation nor images."""
    unseen = {name: NETWORK[name] for name in ("strides", "padding", "activation")}
    if not prefix or not Path(preprocessing_file(prefix)).exists():
        unseen |= {name: USUAL[name] for name in ("rgb_mean", "rgb_std")}
    _warn(path, "no PREFIX-symbol.json beside it tells its strides, padding and activation", unseen, known)


def _warn(path, reason, values, known):
    if guesses := {name: value for name, value in values.items() if known.get(name) is None}:
        logging.warning("%s: %s; assuming %s", path, reason, as_flags(guesses))

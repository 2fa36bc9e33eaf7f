"""What the checkpoint of --pretrained-model says of its network and its images, if no flag and no recipe does."""
import logging
import re
from pathlib import Path

from common.base.arguments import as_flag, as_flags
from common.base.errors import InputError
from common.checkpoint.arrays import network_of, widths_of
from common.checkpoint.params import load_checkpoint_params
from common.checkpoint.prefix import PARAMS
from common.checkpoint.preprocessing import preprocessing_file
from common.checkpoint.symbol import load_symbol
from common.images.options import USUAL, saved_options
from symbols.architecture import MAX_MULTIPLIER, MIN_MULTIPLIER, REPEATS, widths

# what flags that are not given stand for
NETWORK = {"channels": widths(), "repeats": REPEATS, "strides": "published", "padding": "symmetric",
           "activation": "relu6"}


def inherited(path: str, known: dict) -> dict:
    """{destination: value} of what the weights in `path`, and the files of their PREFIX, say of network and images; of
    that only what is not `known`, nor what it would be without them.

    Widths and repeats are seen in the weights, strides, padding and activation in PREFIX-symbol.json; if that is
    missing, a warning tells what is assumed. Raises InputError for files that cannot be used, and if the weights are of
    another network than what is `known`.
    """
    prefix = _prefix_of(path)
    symbol = Path(f"{prefix}-symbol.json") if prefix else None
    arg_params, _ = load_checkpoint_params(path)
    if symbol and symbol.is_file():
        network = network_of(load_symbol(symbol), arg_params, path)
        network.pop("image_shape", None)  # SAME padding is laid out anew
    else:
        network = widths_of(arg_params, path)
        _warn_of_guesses(path, prefix, known)
    wanted = {name: (name, known[name]) for name in network if known.get(name) is not None}
    if "channels" not in wanted and MIN_MULTIPLIER <= known.get("multiplier", 0) <= MAX_MULTIPLIER:
        wanted["channels"] = ("multiplier", widths(known["multiplier"]))
    for name, (flag, value) in wanted.items():
        if value != network[name]:
            raise InputError(f"--{flag} {as_flag(known[flag])}: {path} is of a network with --{name} "
                             f"{as_flag(network[name])}; give that instead")
    found = {**network, **(saved_options(prefix) if prefix else {})}
    return {name: value for name, value in found.items()
            if name not in {*wanted, *known} and value != {**NETWORK, **USUAL}[name]}


def files_beside(path: str) -> list:
    """The weights in `path`, and the files of their PREFIX, whether they are there or not."""
    prefix = _prefix_of(path)
    return [path, f"{prefix}-symbol.json", preprocessing_file(prefix)] if prefix else [path]


def _prefix_of(path):
    match = re.fullmatch(rf"(.*){PARAMS}", path, re.DOTALL)
    return match and match[1]


def _warn_of_guesses(path: str | Path, prefix: str | Path | None, known: dict) -> None:
    """Log what is assumed of weights without a symbol, which tell neither strides, padding, activation nor images."""
    unseen = {name: NETWORK[name] for name in ("strides", "padding", "activation")}
    if not prefix or not Path(preprocessing_file(prefix)).exists():
        unseen |= {name: USUAL[name] for name in ("rgb_mean", "rgb_std")}
    if guesses := {name: value for name, value in unseen.items() if known.get(name) is None}:
        logging.warning("%s: no PREFIX-symbol.json beside it tells its strides, padding and activation; assuming %s",
                        path, as_flags(guesses))

"""Get published weights by name: those in models/ or the cache folder if they are right, else they are downloaded.

    python -m common.modelzoo list                          the known weights, and those that are here
    python -m common.modelzoo fetch published-1_0           into models/, or another of the folders below
    python -m common.modelzoo fetch keras-1_0 --from FILE   take a file that you have
    python -m common.modelzoo verify FILE                   which of them a file holds

models/zoo.toml describes each of them. They are looked for in models/, then in ~/.cache/mxnet-mobilenet-v2
(XDG_CACHE_HOME replaces ~/.cache); if the environment variable MOBILENETV2_MODELS names a folder, in that, then in
models/. They are downloaded to the first of these that can be written. PREFIX-symbol.json and PREFIX-preprocess.json
are written beside weights in MXNet's layout, which makes them a checkpoint like any other.
"""
import argparse
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.base.arguments import ArgumentParser
from common.base.errors import InputError, printable, reported
from common.checkpoint.arrays import Checkpoint, checked
from common.checkpoint.params import load_checkpoint_params
from common.util import download_file
from common.zoo.files import fetch, find, locate, take, verify
from common.zoo.manifest import FIRST_EPOCH, MANIFEST, Entry, entries, entry_of
from symbols.architecture import CLASSIFIER, REPEATS, widths

PROGRAM = "python -m common.modelzoo"
LIST = f"""Print what is known of all published weights, and their places here. Example:

    {PROGRAM} list
"""
FETCH = f"""Print the path of weights, which are downloaded and verified unless they are here. Examples:

    {PROGRAM} fetch published-1_0 timm-mobilenetv2_140
    {PROGRAM} fetch keras-1_0 --from ~/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5
"""
VERIFY = f"""Print which of the published weights a file holds, by its hash. Example:

    {PROGRAM} verify mobilenet_v2-b0353104.pth
"""
# layout: the packages, beside those of from_mxnet.py, that read it
PACKAGES = {"torchvision": ("torch", "safetensors"), "timm": ("safetensors",), "keras": ("h5py",)}


def load_pretrained_arrays(name: str, folder: str | Path | None = None, manifest: str | Path = MANIFEST,
                           **options: Any) -> Checkpoint:
    """The weights as NumPy arrays under the published names, from any layout. MXNet is not needed.

    Arguments and errors are those of `common.zoo.files.locate`; InputError also for a file that cannot be read or
    converted; if a package is missing for that, before the download.
    """
    entry = entry_of(name, manifest)
    _check_packages(entry)
    path = locate(name, folder, manifest, **options)
    if entry.layout == "mxnet":
        network = {"strides": "published", "padding": "symmetric", "repeats": REPEATS, "activation": "relu6",
                   **entry.network}
        network["channels"] = widths(network.pop("multiplier"))
        arg_params, aux_params = load_checkpoint_params(path)
        return checked(Checkpoint(network, entry.classes, arg_params, aux_params, entry.preprocessing), path)
    from common.conversion.convert import convert  # MXNet's layout needs nothing of it
    checkpoint = convert(path, entry.layout, entry.network["multiplier"],
                         image_shape=(3, entry.preprocessing.crop, entry.preprocessing.crop))
    if checkpoint.num_classes != entry.classes:
        raise InputError(f"{path}: has {checkpoint.num_classes} classes; {name} has {entry.classes}")
    return checkpoint._replace(preprocessing=entry.preprocessing)


def load_pretrained(name: str, num_classes: int | None = None, folder: str | Path | None = None,
                    manifest: str | Path = MANIFEST, **options: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(symbol, arg_params, aux_params), as `mx.model.load_checkpoint` gives them.

    For another number of classes than the weights have, the symbol has that many and arg_params lacks the classifier
    (`fc_weight`, `fc_bias`), for training to initialise. The rest is as in `load_pretrained_arrays`.
    """
    from common.find_mxnet import mx
    checkpoint, params = _with_classes(load_pretrained_arrays(name, folder, manifest, **options), num_classes)
    symbol = mx.sym.load_json(json.dumps(checkpoint.graph()))
    arg_params, aux_params = ({key: mx.nd.array(array) for key, array in group.items()} for group in params)
    return symbol, arg_params, aux_params


def load_pretrained_gluon(name: str, num_classes: int | None = None, folder: str | Path | None = None,
                          manifest: str | Path = MANIFEST, **options: Any) -> Any:
    """A `symbols.mobilenetv2_gluon.MobileNetV2` with the weights, on the processor.

    For another number of classes than the weights have, its classifier is a new one. The rest is as in
    `load_pretrained_arrays`.
    """
    from common.find_mxnet import mx
    from symbols.mobilenetv2_gluon import MobileNetV2
    checkpoint, params = _with_classes(load_pretrained_arrays(name, folder, manifest, **options), num_classes)
    net = MobileNetV2(checkpoint.num_classes, **checkpoint.network)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    parameters = net.collect_params()
    for group in params:
        for key, array in group.items():
            parameters[key].set_data(mx.nd.array(array))
    return net


def prefix_of(name: str, folder: str | Path | None = None, manifest: str | Path = MANIFEST, **options: Any) -> str:
    """PREFIX of an entry in MXNet's layout, whose epoch is 0. The rest is as in `fetch`."""
    if entry_of(name, manifest).layout != "mxnet":
        raise InputError(f"{name} is no MXNet checkpoint: fetch it, and convert it with tools/convert_weights.py")
    return str(fetch(name, folder, manifest, **options)).removesuffix(FIRST_EPOCH)


def download_model(model_name: str, dst_dir: str = "./", meta_info: dict[str, dict[str, str]] | None = None,
                   manifest: str | Path = MANIFEST) -> tuple[str | None, int]:
    """(PREFIX, epoch) of a checkpoint that is in `dst_dir` afterwards, for code that was written for MXNet's examples.

    The name is one that `list` prints, of weights in MXNet's layout, or one of `meta_info`,
    {name: {"symbol": URL, "params": URL}}. For another name: (None, 0), and a warning that names those there are.
    Raises InputError as `fetch`, and for weights in another layout.
    """
    known = entries(manifest) if meta_info is None else meta_info
    if model_name not in known:
        logging.warning("no model %r; there are %s", model_name, ", ".join(known))
        return None, 0
    if meta_info is None:
        return prefix_of(model_name, dst_dir, manifest), 0
    prefix = os.path.join(dst_dir, model_name)
    download_file(meta_info[model_name]["symbol"], f"{prefix}-symbol.json")
    download_file(meta_info[model_name]["params"], prefix + FIRST_EPOCH)
    return prefix, 0


def _check_packages(entry: Entry) -> None:
    """Raise InputError if a package that reads the entry's file is missing."""
    missing = [package for package in PACKAGES.get(entry.layout, ()) if importlib.util.find_spec(package) is None
               and (package != "torch" or entry.file.endswith(".pth"))]
    if missing:
        raise InputError(f"{entry.name}: needs {' and '.join(missing)} to be read: pip install {' '.join(missing)}")


def _with_classes(checkpoint: Checkpoint, num_classes: int | None) -> tuple[Checkpoint, tuple[dict, dict]]:
    """(the checkpoint for that many classes, its two groups of parameters without what depends on them)."""
    params = checkpoint.arg_params, checkpoint.aux_params
    if num_classes is None or num_classes == checkpoint.num_classes:
        return checkpoint, params
    params = ({key: array for key, array in params[0].items() if key not in CLASSIFIER}, params[1])
    return checkpoint._replace(num_classes=num_classes), params


def table(manifest: str | Path = MANIFEST, folder: str | Path | None = None) -> list[str]:
    """A line for each entry."""
    rows = [("name", "MB", "top-1", "top-5", "by", "licence", "hash", "here")]
    for entry in entries(manifest).values():
        size = entry.size / 1e6 if entry.size else entry.megabytes
        licence = entry.licence + ("?" if "licence" in entry.unverified else "")
        path, reason = find(entry, folder)
        here = f"{path} (another file)" if reason else str(path or "-")
        rows.append((entry.name, f"{size:.1f}" if size else "?", f"{entry.accuracy.top1:.2f}",
                     f"{entry.accuracy.top5:.2f}", entry.accuracy.kind, licence,
                     entry.hash.algorithm if entry.hash else "unknown", here))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def verify_all(files: Iterable[str | Path]) -> None:
    """Print which weights each of the files holds; any that holds none ends the program, which names them all."""
    errors = []
    for file in files:
        try:
            entry, certain = verify(file)
        except InputError as error:
            errors.append(printable(f"{PROGRAM}: error: {error}"))
        else:
            print(f"{file}: {entry.name}, by " + (str(entry.hash) if certain else
                                                  "name and format alone: no hash of it is known"))
    if errors:
        sys.exit("\n".join(errors))


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | fetch | verify")
    commands.add_parser("list", help="the known weights", description=LIST)
    fetching = commands.add_parser("fetch", help="download weights, or take them from a file", description=FETCH)
    fetching.add_argument("names", nargs="+", metavar="NAME", help="as `list` prints it")
    fetching.add_argument("--from", dest="file", metavar="FILE", help="take this file instead of downloading")
    fetching.add_argument("--folder", help="the only folder to look in and to download to")
    verifying = commands.add_parser("verify", help="print which weights a file holds", description=VERIFY)
    verifying.add_argument("files", nargs="+", metavar="FILE", help="file of weights, under any name")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.command == "list":
        print("\n".join(table()))
    elif args.command == "verify":
        verify_all(args.files)
    else:
        if args.file and len(args.names) > 1:
            raise InputError(f"--from {args.file}: takes one NAME, not {len(args.names)}")
        for name in args.names:
            path = take(name, args.file, args.folder) if args.file else fetch(name, args.folder)
            print(path)
            if entry_of(name).hash is None:
                print("no hash of it is known: only its format was checked", file=sys.stderr)


if __name__ == "__main__":
    arguments = get_args_parser().parse_args()
    with reported(PROGRAM):
        main(arguments)

"""Get published weights by name: found in models/ or in the cache folder and verified, else downloaded.

    python -m common.modelzoo list                          what there is, and what is here
    python -m common.modelzoo fetch published-1_0           into models/, or into the cache folder
    python -m common.modelzoo fetch keras-1_0 --from FILE   a file that was brought by hand
    python -m common.modelzoo verify FILE                   which of them a file is

models/zoo.toml tells of each of them. The cache folder is ~/.cache/mxnet-mobilenet-v2 (XDG_CACHE_HOME in place of
~/.cache), or the one that the environment variable MOBILENETV2_MODELS names.
"""
import json
import sys
from pathlib import Path

from common.arguments import ArgumentParser
from common.checkpoint_arrays import Checkpoint, checked
from common.errors import InputError, reported
from common.files import written_atomically
from common.params_file import checkpoint_files, load_checkpoint_params
from common.zoo.files import fault_of, fetch, find, take, verify
from common.zoo.manifest import MANIFEST, entries, entry_of
from symbols.architecture import REPEATS, widths
from symbols.mobilenetv2_json import get_graph

CLASSIFIER = ("fc_weight", "fc_bias")


def load_pretrained_arrays(name: str, folder=None, manifest=MANIFEST, **options) -> Checkpoint:
    """The weights as NumPy arrays under the published names, whatever layout they come in. MXNet is not needed.

    Arguments and errors are those of `fetch`; InputError also for a file that cannot be read or converted.
    """
    entry, path = entry_of(name, manifest), fetch(name, folder, manifest, **options)
    if entry.layout == "mxnet":
        network = {"strides": "published", "padding": "symmetric", "repeats": REPEATS, **entry.network}
        network["channels"] = widths(network.pop("multiplier"))
        return checked(Checkpoint(network, entry.classes, *load_checkpoint_params(path), entry.preprocessing), path)
    from common.conversion.convert import convert  # with h5py and safetensors, which the others do not need
    return convert(path, entry.layout, entry.network["multiplier"])._replace(preprocessing=entry.preprocessing)


def load_pretrained(name: str, num_classes: int | None = None, folder=None, manifest=MANIFEST, **options) -> tuple:
    """(symbol, arg_params, aux_params), as `mx.model.load_checkpoint` gives them.

    For another number of classes than the weights have, the symbol has that many and arg_params lacks the classifier
    (`fc_weight`, `fc_bias`), for training to initialise. The rest is as in `load_pretrained_arrays`.
    """
    from common.find_mxnet import mx
    checkpoint, params = _with_classes(load_pretrained_arrays(name, folder, manifest, **options), num_classes)
    symbol = mx.sym.load_json(json.dumps(checkpoint.graph()))
    return (symbol, *({key: mx.nd.array(array) for key, array in group.items()} for group in params))


def load_pretrained_gluon(name: str, num_classes: int | None = None, folder=None, manifest=MANIFEST, **options):
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


def prefix_of(name: str, folder=None, manifest=MANIFEST, **options) -> str:
    """PREFIX of an entry in MXNet's layout, as epoch 0: its file, and PREFIX-symbol.json made where it is not there."""
    entry = entry_of(name, manifest)
    if entry.layout != "mxnet":
        raise InputError(f"{name} is no MXNet checkpoint: fetch it, and convert it with tools/convert_weights.py")
    prefix = str(fetch(name, folder, manifest, **options)).removesuffix("-0000.params")
    symbol_file, _ = checkpoint_files(prefix, 0)
    if not Path(symbol_file).exists():
        with written_atomically(symbol_file) as partial:
            Path(partial).write_text(json.dumps(get_graph(entry.classes, **entry.network), indent=2) + "\n")
    return prefix


def _with_classes(checkpoint, num_classes) -> tuple:
    """(the checkpoint for that many classes, its two groups of parameters without what depends on them)."""
    params = checkpoint.arg_params, checkpoint.aux_params
    if num_classes is None or num_classes == checkpoint.num_classes:
        return checkpoint, params
    params = ({key: array for key, array in params[0].items() if key not in CLASSIFIER}, params[1])
    return checkpoint._replace(num_classes=num_classes), params


def table(manifest=MANIFEST, folder=None) -> list:
    """Lines that tell of each entry."""
    rows = [("name", "MB", "top-1", "top-5", "by", "licence", "hash", "here")]
    for entry in entries(manifest).values():
        size = entry.size / 1e6 if entry.size else entry.megabytes
        licence = entry.licence + ("?" if "licence" in entry.unverified else "")
        path = find(entry, folder)
        here = "-" if path is None else str(path) if not fault_of(path, entry) else f"{path} (another file)"
        rows.append((entry.name, f"{size:.1f}" if size else "?", f"{entry.accuracy.top1:.2f}",
                     f"{entry.accuracy.top5:.2f}", entry.accuracy.kind, licence,
                     entry.hash.algorithm if entry.hash else "unknown", here))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def get_args_parser():
    parser = ArgumentParser(prog="python -m common.modelzoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | fetch | verify")
    commands.add_parser("list", help="the weights that there are")
    fetching = commands.add_parser("fetch", help="download weights, or take those of a file")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    fetching.add_argument("--from", dest="file", metavar="FILE", help="a file that was brought by hand")
    fetching.add_argument("--folder", help="where to, in place of models/ or the cache folder")
    verifying = commands.add_parser("verify", help="tell which weights a file holds")
    verifying.add_argument("files", nargs="+", metavar="FILE")
    return parser


def main(args):
    if args.command == "list":
        print("\n".join(table()))
    elif args.command == "verify":
        for file in args.files:
            entry, certain = verify(file)
            print(f"{file}: {entry.name}, by " + (str(entry.hash) if certain else
                                                  "name and format alone: no hash of it is known"))
    else:
        if args.file and len(args.names) > 1:
            raise InputError(f"--from {args.file}: is for one NAME, not {len(args.names)}")
        for name in args.names:
            path = take(name, args.file, args.folder) if args.file else fetch(name, args.folder)
            print(path)
            if entry_of(name).hash is None:
                print("no hash of it is known: only its format was checked", file=sys.stderr)


if __name__ == "__main__":
    arguments = get_args_parser().parse_args()
    with reported("python -m common.modelzoo"):
        main(arguments)

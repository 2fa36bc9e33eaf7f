#!/usr/bin/env python
"""Turn an MXNet checkpoint of MobileNetV2 into a file for other frameworks. MXNet is not needed. Examples:

    python tools/export_weights.py models/imagenet1k-mnetv2-1_0 mobilenetv2.onnx --to onnx
    python tools/export_weights.py models/mobilenetv2 mobilenetv2.safetensors --epoch 235 --to torchvision
    python tools/export_weights.py models/mobilenetv2 mobilenetv2.npz --epoch 235 --to npz

tools/convert_weights.py reads .safetensors, .npz and .onnx back, to the same checkpoint.
"""
import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, not_negative
from common.base.errors import InputError, reported
from common.base.files import check_not_read, written_atomically
from common.checkpoint.arrays import check_image_size, load
from common.checkpoint.params import checkpoint_files, load_checkpoint_params
from common.checkpoint.prefix import check_no_file_name, files_read
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, preprocessing_from
from common.checkpoint.symbol import load_symbol
from common.conversion.outgoing import save_npz, save_timm, save_torchvision
from common.images.options import image_shape


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("prefix", metavar="MODEL_PREFIX", help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("out", metavar="OUT", help="file to write: .onnx, .npz, or .safetensors (torchvision, timm)")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--to", dest="kind", choices=("onnx", *SAVERS), required=True,
                        help="the framework or format of OUT")
    parser.add_argument("--overwrite", action="store_true", help="write over an existing file")
    onnx = parser.add_argument_group("onnx")
    onnx.add_argument("--image-shape", type=image_shape, help="input of the network (default: the crop that "
                      "PREFIX-preprocess.json says, else 3,224,224)")
    onnx.add_argument("--fold", action="store_true", help="fold BatchNorm into the convolutions")
    onnx.add_argument("--pixels", action="store_true", help="the input is RGB on 0..255, and the model itself "
                      "subtracts the mean and divides by the standard deviation")
    return parser


ENDINGS = {"onnx": ".onnx", "npz": ".npz", "torchvision": ".safetensors", "timm": ".safetensors"}
SAVERS = {"torchvision": save_torchvision, "timm": save_timm, "npz": save_npz}


def main(args: argparse.Namespace) -> None:
    check_no_file_name(args.prefix, "MODEL_PREFIX")
    if Path(args.out).suffix != (ending := ENDINGS[args.kind]):
        raise InputError(f"{args.out}: --to {args.kind} writes {ending} files; give a name that ends so")
    check_not_read(args.out, *files_read(args.prefix, args.epoch))
    if Path(args.out).exists() and not args.overwrite:
        raise InputError(f"{args.out}: exists; give another name, or --overwrite")
    preprocessing = load_preprocessing(args.prefix)
    if args.kind == "onnx":
        how, preprocessing = export_onnx(args, preprocessing)
    else:
        for flag, given in (("--image-shape", args.image_shape), ("--fold", args.fold), ("--pixels", args.pixels)):
            if given:
                raise InputError(f"{flag} is for --to onnx")
        how = SAVERS[args.kind](load(args.prefix, args.epoch), args.out)
    print(f"{args.out}: {how}")
    print(f"images: shorter side to {preprocessing.resize}, crop of {preprocessing.crop}, RGB on 0..255, "
          f"x = (pixel - mean) / std; mean {preprocessing.mean}, std {preprocessing.std}")


def export_onnx(args: argparse.Namespace, preprocessing: Preprocessing) -> tuple:
    """(description of the file, the preprocessing that is left to do)."""
    from common.conversion.onnx_model import to_onnx

    symbol_file, params_file = checkpoint_files(args.prefix, args.epoch)
    graph, (arg_params, aux_params) = load_symbol(symbol_file), load_checkpoint_params(params_file)
    shape = args.image_shape or (3, preprocessing.crop, preprocessing.crop)
    check_image_size(graph, arg_params, (1, *shape), symbol_file)
    try:
        model = to_onnx(graph, arg_params | aux_params, (1, *shape), args.fold, preprocessing, args.pixels)
    except InputError as error:
        raise InputError(f"{symbol_file} with {params_file}: {error}") from None
    with written_atomically(args.out) as partial:
        Path(partial).write_bytes(model.SerializeToString())
    left, = (preprocessing_from(json.loads(entry.value), args.out) for entry in model.metadata_props
             if entry.key == "preprocessing")
    return f"opset {model.opset_import[0].version}, input (N, {', '.join(map(str, shape))})", left


if __name__ == "__main__":
    with reported("export_weights.py"):
        main(get_args_parser().parse_args())

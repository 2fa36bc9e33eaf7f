#!/usr/bin/env python
"""Turn an MXNet checkpoint of MobileNetV2 into a file for other frameworks. MXNet is not needed. Examples:

    python tools/export_weights.py models/imagenet1k-mnetv2-1_0 mobilenetv2.onnx --to onnx
    python tools/export_weights.py models/mobilenetv2 mobilenetv2-int8.onnx --epoch 235 --to onnx --precision int8
    python tools/export_weights.py models/mobilenetv2 mobilenetv2.tflite --epoch 235 --to tflite
    python tools/export_weights.py models/mobilenetv2 mobilenetv2.safetensors --epoch 235 --to torchvision
    python tools/export_weights.py models/timm-140 mobilenetv2_140 --to timm
    python tools/export_weights.py models/mobilenetv2 mobilenetv2.npz --epoch 235 --to npz

tools/convert_weights.py reads .safetensors, .npz and .onnx back, to the same checkpoint, and .tflite, to the same
function. int8 takes what tools/calibrate.py has measured.
"""
import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, not_negative
from common.base.errors import InputError, reported
from common.base.files import check_not_read, written_atomically
from common.checkpoint.arrays import check_image_size, load
from common.checkpoint.params import checkpoint_files, load_checkpoint_params
from common.checkpoint.prefix import check_no_file_name, files_read
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, preprocessing_from
from common.checkpoint.symbol import load_symbol
from common.conversion.outgoing import CONFIG, WEIGHTS, save_npz, save_timm, save_timm_folder, save_torchvision
from common.images.class_names import names_file, read_synset
from common.images.options import image_shape

if TYPE_CHECKING:
    import onnx

    from common.checkpoint.int8 import Statistics


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("prefix", metavar="MODEL_PREFIX", help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("out", metavar="OUT", help="file to write: .onnx, .tflite, .npz, or .safetensors (torchvision, "
                        f"timm); for timm also a folder, with {WEIGHTS} and {CONFIG}")
    parser.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    parser.add_argument("--to", dest="kind", choices=FORMATS, required=True, help="the framework or format of OUT")
    parser.add_argument("--overwrite", action="store_true", help="write over an existing file or such a folder")
    graphs = parser.add_argument_group("onnx and tflite")
    graphs.add_argument("--precision", choices=("float32", "float16", "int8"), help="float16, of tflite: the "
                        "weights in half precision; int8: the layers in 8-bit integers, as from_mxnet.py computes them "
                        "(default: float32)")
    graphs.add_argument("--image-shape", type=image_shape, help="input of the network (default: the crop that "
                        "PREFIX-preprocess.json says, else 3,224,224)")
    graphs.add_argument("--pixels", action="store_true", help="the input is RGB on 0..255, and the model itself "
                        "subtracts the mean and divides by the standard deviation")
    onnx = parser.add_argument_group("onnx")
    onnx.add_argument("--opset", type=int, metavar="N", help="version of the operators, 13 to 23 (default: 17)")
    onnx.add_argument("--fold", action="store_true", help="fold BatchNorm into the convolutions, as int8 does")
    tflite = parser.add_argument_group("tflite")
    tflite.add_argument("--input", choices=("float32", "uint8", "int8"), help="of --precision int8; uint8: RGB on "
                        "0..255, with float32 probabilities as the output; int8: RGB less 128, with int8 probabilities "
                        "(default: float32)")
    return parser


def main(args: argparse.Namespace) -> None:
    form = FORMATS[args.kind]
    check_no_file_name(args.prefix, "MODEL_PREFIX")
    check_flags(args, form)
    check_out(args, form)
    how, preprocessing = form.write(args)
    print(f"{args.out}: {how}")
    print(f"images: shorter side to {preprocessing.resize}, crop of {preprocessing.crop}, RGB on 0..255, "
          f"x = (pixel - mean) / std; mean {preprocessing.mean}, std {preprocessing.std}")


def check_flags(args: argparse.Namespace, form: "Format") -> None:
    """Refuse what would be ignored."""
    for flag in {flag: None for other in FORMATS.values() for flag in other.flags}:
        if flag not in form.flags and getattr(args, flag) not in (None, False):
            kinds = " and ".join(kind for kind, other in FORMATS.items() if flag in other.flags)
            raise InputError(f"--{flag.replace('_', '-')} is for --to {kinds}")


def check_out(args: argparse.Namespace, form: "Format") -> None:
    """Raise InputError unless OUT can be written, and is not read here."""
    out = Path(args.out)
    ending = out.suffix if out.suffix[1:].isalpha() else ""  # no number is one
    if ending not in form.endings:
        what = " or ".join(f"{ending} files" if ending else "folders" for ending in form.endings)
        raise InputError(f"{out}: --to {args.kind} writes {what}; give such a name")
    check_not_read(out, *files_read(args.prefix, args.epoch))
    if out.exists() and not args.overwrite:
        raise InputError(f"{out}: exists; give another name, or --overwrite")
    if out.exists() and not ending and (out.is_file() or set(os.listdir(out)) - {WEIGHTS, CONFIG}):
        raise InputError(f"{out}: holds other things than {WEIGHTS} and {CONFIG}; give a new folder")


def export_onnx(args: argparse.Namespace) -> tuple[str, Preprocessing]:
    """(description of the file, the preprocessing that is left to do), as of all functions of FORMATS."""
    from common.conversion.onnx_build import OPSET, OPSETS
    from common.conversion.onnx_model import to_onnx

    if args.precision == "float16":
        raise InputError("--precision float16 is for --to tflite")
    opset, integers = OPSET if args.opset is None else args.opset, args.precision == "int8"
    if opset not in OPSETS:
        raise InputError(f"--opset {opset}: give {OPSETS[0]} to {OPSETS[-1]}")
    symbol_file, params_file = checkpoint_files(args.prefix, args.epoch)
    graph, (arg_params, aux_params) = load_symbol(symbol_file, with_softmax=False), load_checkpoint_params(params_file)
    preprocessing = load_preprocessing(args.prefix)
    shape = args.image_shape or (3, preprocessing.crop, preprocessing.crop)
    check_image_size(graph, arg_params, (1, *shape), symbol_file)
    try:
        model = to_onnx(graph, arg_params | aux_params, (1, *shape), args.fold or integers, preprocessing, args.pixels,
                        opset)
    except InputError as error:
        raise InputError(f"{symbol_file} with {params_file}: {error}") from None
    if integers:
        model = in_int8(model, args)
    with written_atomically(args.out) as partial:
        Path(partial).write_bytes(model.SerializeToString())
    about = {entry.key: entry.value for entry in model.metadata_props}
    _, classes = model.graph.output[0].type.tensor_type.shape.dim
    return (f"opset {opset}, {args.precision or 'float32'}, input data (N, {', '.join(map(str, shape))}), output "
            f"{model.graph.output[0].name} (N, {classes.dim_value}): {about['output']}",
            preprocessing_from(json.loads(about["preprocessing"]), args.out))


def in_int8(model: "onnx.ModelProto", args: argparse.Namespace) -> "onnx.ModelProto":
    """`model` with its layers in integers, by the checkpoint's calibration."""
    from common.conversion.onnx_int8 import channels_of, quantized

    return quantized(model, calibration(args, channels_of(model)))


def calibration(args: argparse.Namespace, channels: dict[str, int]) -> "dict[str, Statistics]":
    """What was measured of the layers of `channels`, as load_calibration takes them, their outputs included."""
    from common.checkpoint.int8 import calibration_file, how_to_calibrate, load_calibration

    statistics = load_calibration(args.prefix, args.epoch, channels)
    if any(entry.output is None for entry in statistics.values()):
        raise InputError(f"{calibration_file(args.prefix, args.epoch)}: lacks the ranges of the layers' outputs; make "
                         f"it again with: {how_to_calibrate(args.prefix, args.epoch)}")
    return statistics


def export_tflite(args: argparse.Namespace) -> tuple[str, Preprocessing]:
    from common.conversion.tflite_model import layers_of, to_tflite

    precision, input_type = args.precision or "float32", args.input or "float32"
    if input_type != "float32" and precision != "int8":
        raise InputError(f"--input {input_type} needs --precision int8")
    checkpoint, (symbol_file, params_file) = load(args.prefix, args.epoch), checkpoint_files(args.prefix, args.epoch)
    preprocessing = checkpoint.preprocessing
    shape = args.image_shape or (3, preprocessing.crop, preprocessing.crop)
    check_image_size(checkpoint.graph(), checkpoint.arg_params, (1, *shape), symbol_file)
    names, size = names_file(None, args.prefix), max(shape[1:])
    class_names = read_synset(names, checkpoint.num_classes) if names else None
    statistics = calibration(args, layers_of(checkpoint)) if precision == "int8" else None
    try:
        content = to_tflite(checkpoint, shape, precision, statistics, input_type, args.pixels, class_names)
    except InputError as error:
        raise InputError(f"{symbol_file} with {params_file}: {error}") from None
    with written_atomically(args.out) as partial:
        Path(partial).write_bytes(content)
    preprocessing = preprocessing._replace(resize=preprocessing.resize_for(size), crop=size)
    if args.pixels or args.input in ("uint8", "int8"):
        preprocessing = preprocessing._replace(mean=(128 * (args.input == "int8"),) * 3, std=(1, 1, 1))
    height, width = shape[1:]
    return (f"{precision}, input data (1, {height}, {width}, 3) of {input_type}, output softmax "
            f"(1, {checkpoint.num_classes}) of {'int8' if args.input == 'int8' else 'float32'}: probabilities"
            f"{f', with the class names of {names}' if names else ''}", preprocessing)


def export_arrays(save: Callable) -> Callable[[argparse.Namespace], tuple[str, Preprocessing]]:
    """A function of FORMATS, by one of common.conversion.outgoing."""
    def export(args):
        checkpoint = load(args.prefix, args.epoch)
        return save(checkpoint, args.out), checkpoint.preprocessing
    return export


def export_timm(args: argparse.Namespace) -> tuple[str, Preprocessing]:
    checkpoint, names = load(args.prefix, args.epoch), names_file(None, args.prefix)
    if Path(args.out).suffix == ".safetensors":
        return save_timm(checkpoint, args.out), checkpoint.preprocessing
    return (save_timm_folder(checkpoint, args.out, read_synset(names, checkpoint.num_classes) if names else None),
            checkpoint.preprocessing)


class Format(NamedTuple):
    """What is written: how OUT may end ("" is a folder), by what, and the flags that it takes."""
    endings: tuple[str, ...]
    write: Callable[[argparse.Namespace], tuple[str, Preprocessing]]
    flags: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format((".onnx",), export_onnx, ("opset", "precision", "image_shape", "fold", "pixels")),
    "tflite": Format((".tflite",), export_tflite, ("precision", "image_shape", "pixels", "input")),
    "torchvision": Format((".safetensors",), export_arrays(save_torchvision)),
    "timm": Format((".safetensors", ""), export_timm),
    "npz": Format((".npz",), export_arrays(save_npz)),
}

if __name__ == "__main__":
    with reported("export_weights.py"):
        main(get_args_parser().parse_args())

#!/usr/bin/env python
"""Turn MobileNetV2 weights of another framework into an MXNet checkpoint, exactly. Neither MXNet nor (except for .pth
files) the framework is needed; nothing is unpickled. Examples:

    python tools/convert_weights.py mobilenet_v2-b0353104.pth models/torchvision --from torchvision
    python tools/convert_weights.py model.safetensors models/timm-140 --from timm --multiplier 1.4
    python tools/convert_weights.py mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_160.h5 models/keras-0_35 \\
        --from keras --image-shape 3,160,160

It writes OUT_PREFIX-symbol.json, OUT_PREFIX-0000.params and OUT_PREFIX-preprocess.json, which training, evaluation and
from_mxnet.py follow. The first block has an expansion, as in the published network: an identity if the source has none.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, positive, positive_amount
from common.base.errors import InputError, reported
from common.base.files import check_not_read
from common.checkpoint.arrays import save
from common.checkpoint.prefix import check_prefix, files_under
from common.conversion.convert import BACKGROUND, KINDS, convert
from common.conversion.mxnet_symbol import files_beside
from common.images.options import PREPROCESSING, image_shape
from symbols.architecture import ACTIVATIONS, PADDINGS, STRIDES


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="file of weights: .pth or .safetensors of torchvision and "
                        "timm, .h5 or .keras, .params of Gluon's model zoo, or of any MXNet "
                        "repository with PREFIX-symbol.json beside it, .tflite, .onnx, .npz")
    parser.add_argument("prefix", metavar="OUT_PREFIX", help="prefix of the checkpoint to write")
    parser.add_argument("--from", dest="kind", choices=KINDS, required=True, help="the framework or format of SOURCE")
    parser.add_argument("--overwrite", action="store_true", help="write over an existing checkpoint")
    network = parser.add_argument_group("network")
    network.add_argument("--multiplier", type=positive_amount, help="the width multiplier that SOURCE should have "
                         "(default: any)")
    network.add_argument("--strides", choices=STRIDES, help="of an .npz file that does not say (default: published)")
    network.add_argument("--padding", choices=PADDINGS, help="of an .npz file that does not say (default: symmetric)")
    network.add_argument("--activation", choices=ACTIVATIONS, help="of an .npz file that does not say (default: "
                         "relu6)")
    network.add_argument("--ema", action="store_true", help="of a .pth file that holds the weights and their moving "
                         "average, take the average")
    network.add_argument("--keep-background", action="store_true", help=f"keep class 0 of the {BACKGROUND:,} of a "
                         ".tflite file, which is none of the others")
    images = parser.add_argument_group("images")
    images.add_argument("--image-shape", type=image_shape, help="shape of the images, for which SAME padding is laid "
                        "out (default: what SOURCE says; else 3,224,224, or an error with SAME padding)")
    images.add_argument("--resize", type=positive, help="length of an image's shorter side before the crop (default: "
                        "what SOURCE says, else 256 for 224, in that proportion)")
    for flag, kind, text in PREPROCESSING:
        if flag in ("rgb-mean", "rgb-std"):
            images.add_argument(f"--{flag}", type=kind, help=f"{text} (default: what SOURCE says, else what is usual "
                                "for --from)")
    return parser


def main(args: argparse.Namespace) -> None:
    check_prefix(args.prefix, "OUT_PREFIX")
    read = (args.source, *(files_beside(args.source) if args.kind == "mxnet" else ()))
    for end in ("symbol.json", "0000.params", "preprocess.json"):
        check_not_read(f"{args.prefix}-{end}", *read)
    if not args.overwrite and (there := files_under(args.prefix)):
        raise InputError(f"{there[0]}: exists; give another OUT_PREFIX, or --overwrite")
    checkpoint = convert(args.source, args.kind, multiplier=args.multiplier, strides=args.strides,
                         padding=args.padding, activation=args.activation, image_shape=args.image_shape,
                         resize=args.resize, mean=args.rgb_mean, std=args.rgb_std,
                         keep_background=args.keep_background, ema=args.ema, tell=print)
    save(checkpoint, args.prefix)
    preprocessing = checkpoint.preprocessing
    padding = "symmetric padding"
    if checkpoint.network["padding"] == "same":
        padding = "SAME padding for {1}x{2}".format(*checkpoint.network["image_shape"])
    print(f"{args.prefix}-0000.params: {checkpoint.num_classes} classes, widths {checkpoint.network['channels']}, "
          f"{checkpoint.network['activation']}, {padding}")
    print(f"images: shorter side to {preprocessing.resize}, crop of {preprocessing.crop}, mean {preprocessing.mean}, "
          f"std {preprocessing.std}")


if __name__ == "__main__":
    with reported("convert_weights.py"):
        main(get_args_parser().parse_args())

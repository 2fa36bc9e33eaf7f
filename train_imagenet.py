#!/usr/bin/env python
"""Train MobileNetV2 on ImageNet, or on any images, packed in RecordIO.

The defaults are the published schedule of the original script: 480 epochs, learning rate 0.045 x 0.98 each epoch,
images packed with a shorter side of 480 pixels and scaled by 0.533 to 1.0 before the crop. Examples:

    python train_imagenet.py --data-train train.rec --data-val val.rec --gpus 0,1 --model-prefix models/mobilenetv2
    python train_imagenet.py --benchmark 1 --batch-size 32
"""
import importlib
import logging
import sys

from common.arguments import ArgumentParser, amount
from common.errors import InputError, reported
from symbols.architecture import PADDINGS, STRIDES

NETWORKS = ("mobilenetv2", "mobilenetv2_gluon")


def get_args_parser():
    from common.data import add_data_args, add_data_aug_args
    from common.fit import add_fit_args

    parser = ArgumentParser(description=__doc__)
    network = parser.add_argument_group("network")
    network.add_argument("--network", choices=NETWORKS, default=NETWORKS[0], help="Symbol or Gluon definition")
    network.add_argument("--multiplier", type=amount, default=1.0, help="width multiplier, 0.1 to 2")
    network.add_argument("--strides", choices=STRIDES, default="published",
                         help="stride table; first: that of the first public version")
    network.add_argument("--padding", choices=PADDINGS, default="symmetric",
                         help="of 3x3 convolutions; same: as TensorFlow pads")
    add_fit_args(parser)
    add_data_args(parser)
    add_data_aug_args(parser)
    return parser


def main(args):
    from common.fit import fit

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr,
                        force=True)
    try:
        network = importlib.import_module(f"symbols.{args.network}").get_symbol(
            args.num_classes, args.multiplier, args.strides, args.padding, args.image_shape)
    except ValueError as error:
        raise InputError(str(error)) from None
    fit(args, network)


if __name__ == "__main__":
    with reported("train_imagenet.py"):
        main(get_args_parser().parse_args())

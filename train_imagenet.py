#!/usr/bin/env python
"""Train MobileNetV2 on ImageNet, or on any images, packed in RecordIO.

A recipe (recipes/*.toml, docs/training.md) says what is computed, and every value of it is a flag. Without one, the
defaults are those of the original script: 480 epochs, learning rate 0.045 x 0.98 each epoch, images packed with a
shorter side of 480 pixels and scaled by 0.533 to 1.0 before the crop. Examples:

    python train_imagenet.py --data-train train.rec --data-val val.rec --gpus 0,1 --model-prefix models/mobilenetv2
    python train_imagenet.py --recipe published-1_0 --data-train train.rec --data-val val.rec --model-prefix models/x
    python train_imagenet.py --recipe published-1_0 --data-train train.rec --data-val val.rec --model-prefix models/x \\
        --resume
    python train_imagenet.py --benchmark 1 --batch-size 32
"""
import os
from contextlib import ExitStack
from importlib import import_module

from common.base.arguments import ArgumentParser
from common.base.errors import InputError, log_to_stderr, reported


def get_args_parser() -> ArgumentParser:
    from common import data
    from common.training.options import ELSEWHERE, add_fit_args, add_recipe_args

    parser = ArgumentParser(description=__doc__, elsewhere=ELSEWHERE)
    add_recipe_args(parser)
    add_fit_args(parser)
    data.add_data_args(parser)
    data.add_data_aug_args(parser)
    data.set_data_aug_level(parser, 2)
    parser.set_defaults(num_epochs=480, batch_size=96, lr=0.045, lr_factor=0.98, wd=4e-5, top_k=5, disp_batches=20,
                        resize=None, min_random_scale=None)  # of 480 pixels, 256 for a crop of 224
    return parser


def main(arguments: list[str] | None = None) -> dict:
    """Train as the command line says (None: that of the program); returns what `common.fit.fit` measured."""
    from common import data
    from common.training.recipe import parse

    args = parse(get_args_parser(), arguments)
    from common import fit  # with MXNet

    try:
        network = import_module(f"symbols.{args.network}").get_symbol(**vars(args))
    except ValueError as error:
        raise InputError(str(error)) from None
    return fit.fit(args, network, data.get_rec_iter)


if __name__ == "__main__":
    with ExitStack() as stack:
        if "DMLC_ROLE" in os.environ:
            # a scheduler or server serves here until the run ends
            from common.training.distributed import no_waiting_at_exit
            stack.enter_context(no_waiting_at_exit())
        stack.enter_context(reported("train_imagenet.py"))
        log_to_stderr()
        main()

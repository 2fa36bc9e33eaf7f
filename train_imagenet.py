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
import importlib
import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import replace

from common.base.arguments import ArgumentParser
from common.base.errors import InputError, reported


def get_args_parser() -> ArgumentParser:
    from common.training.options import add_train_args

    parser = ArgumentParser(description=__doc__)
    add_train_args(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = get_args_parser()
    given, args = parser.given(arguments), parser.parse_args(arguments)
    from common.data.iterators import TrainingSet, training_set
    from common.data.options import BENCHMARK_BATCHES
    from common.find_mxnet import contexts
    from common.fit import Run
    from common.images.dataset import classes_beside
    from common.images.preprocess import one_opencv_thread
    from common.training.distributed import Workers
    from common.training.plan import Plan
    from common.training.recipe import resolve
    from common.training.run_summary import run_summary
    from common.training.state import newest_state

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr,
                        force=True)
    state = newest_state(args.model_prefix) if args.resume and args.model_prefix and not args.benchmark else None
    num_classes = None if args.benchmark or not args.data_train else classes_beside(args.data_train)
    recipe = resolve(parser, given, state.info["recipe"] if state else None, num_classes)
    if state and state.epoch >= recipe.epochs and (not args.data_val or "validation" in state.info):
        logging.info("%s is finished: %d of %d epochs are completed (--num-epochs goes further)", args.model_prefix,
                     state.epoch, recipe.epochs)
        return
    settings = recipe.settings(args, 0)
    try:
        network = importlib.import_module(f"symbols.{settings.network}").get_symbol(
            settings.num_classes, settings.multiplier, settings.strides, settings.padding, settings.image_shape,
            settings.channels, settings.repeats)
    except ValueError as error:
        raise InputError(str(error)) from None
    if settings.dtype == "float16" and not args.gpus:
        raise InputError("--dtype float16: MXNet has its convolutions for GPUs only; give --gpus too")
    devices = contexts(args.gpus)
    if args.benchmark:
        recipe = replace(recipe, stages=({**recipe.stages[0], "epochs": 1, "warmup_epochs": 0.0, "mixup": 0.0},))
        images = TrainingSet((("synthetic images", ""),), BENCHMARK_BATCHES * settings.batch_size)
    else:
        images = training_set(args)
        if num_classes not in (None, settings.num_classes):
            logging.warning("dataset.json beside %s lists %d classes, the network has %d", images, num_classes,
                            settings.num_classes)
        if args.num_examples not in (None, images.examples):
            logging.info("The learning rate's schedule takes %d images for an epoch (--num-examples), which trains on "
                         "all %d there are", args.num_examples, images.examples)
    workers = Workers(args.kv_store, args.gc_type, args.gc_threshold)
    if workers.rank:
        logging.getLogger().setLevel(logging.WARNING)
    plan = Plan(recipe, images, workers.count, args.num_examples)
    run = Run(args, plan, network, devices, workers, state)
    for line in run_summary(args, plan, network, resolve(parser, {})):
        logging.info(line)
    with one_opencv_thread():
        if args.test_io:
            run.measure_input()
        else:
            run.train()


if __name__ == "__main__":
    with ExitStack() as stack:
        if "DMLC_ROLE" in os.environ:
            # a scheduler or server serves here until the run ends
            from common.training.distributed import no_waiting_at_exit
            stack.enter_context(no_waiting_at_exit())
        stack.enter_context(reported("train_imagenet.py"))
        main()

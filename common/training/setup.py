"""A run as it is decided before it begins: all that can be refused is refused here, and nothing is written."""
import argparse
import logging
from dataclasses import dataclass, replace

import numpy as np

from common.base.errors import InputError
from common.find_mxnet import contexts, mx
from common.training.best import outcome
from common.training.class_weights import class_weights_of
from common.training.distributed import Workers
from common.training.loading import DataLoader, StageImages, load_stages
from common.training.module import check_batch_size
from common.training.optimizer import check_optimizer
from common.training.recipe import Recipe, default_flags, recipe_of
from common.training.saved_state import TrainingState, newest_state
from common.training.schedule import Schedule
from common.training.starting_point import begin, check_model_prefix, check_not_overwritten, resume
from common.training.teacher import Teacher, load_teacher


@dataclass(frozen=True)
class Setup:
    """`args`: all flags; `stages`: the images of each stage of the schedule's recipe; `state`: where the run begins;
    `pipeline`: {name: value} of what its batches depend on; `top_k`: of the second accuracy, 0 for none; `teacher`,
    `class_weights`: as for TrainedModule."""
    args: argparse.Namespace
    network: mx.sym.Symbol
    devices: list
    workers: Workers
    schedule: Schedule
    stages: list[StageImages]
    state: TrainingState
    pipeline: dict
    top_k: int
    teacher: Teacher | None
    class_weights: np.ndarray | None

    def settings(self, stage: int) -> argparse.Namespace:
        return self.schedule.recipe.settings(self.args, stage)

    @property
    def saves(self) -> bool:
        """Whether there are to be checkpoints."""
        return bool(self.args.model_prefix) and not self.args.benchmark

    @property
    def writes(self) -> bool:
        """Whether this worker writes them."""
        return self.saves and self.workers.rank == 0


def prepare(args: argparse.Namespace, network: mx.sym.Symbol, data_loader: DataLoader, arg_params: dict | None = None,
            aux_params: dict | None = None) -> Setup | None:
    """The run that `common.fit.fit` is asked for; None if it is finished already. Raises InputError."""
    args, recipe = _complete(args, network)
    check_model_prefix(args)
    state = newest_state(args.model_prefix) if args.resume and not args.benchmark else None
    if state and state.epoch >= recipe.epochs and (not args.data_val or "validation" in state.info):
        logging.info("%s is finished: %d of %d epochs are completed (--num-epochs goes further)", args.model_prefix,
                     state.epoch, recipe.epochs)
        for line in outcome(args.model_prefix, state.info.get("best"), state.epoch):
            logging.info(line)
        return None
    settings = recipe.settings(args, -1)  # with the size of images that the checkpoint is for
    if args.dtype == "float16" and not args.gpus:
        raise InputError("--dtype float16: MXNet has its convolutions for GPUs only; give --gpus too")
    check_not_overwritten(settings, recipe.file, resumed=state is not None)
    check_optimizer(settings)
    devices = contexts(args.gpus)
    workers = Workers(args.kv_store, args.gc_type, args.gc_threshold)

    stages = load_stages(data_loader, recipe, args, workers)
    for images in stages:
        check_batch_size(images.batch_size, devices)
    for images, given in ((stages[0].train, ()), (stages[0].validation, (args.check_data,))):
        if hasattr(images, "check"):
            images.check(*given)
    data_shape = (1, *stages[-1].train.provide_data[0][1][1:])
    classes = _classes(network, data_shape, settings.num_classes)
    recipe = replace(recipe, common={**recipe.common, "num_classes": classes}, stages=tuple(
        {**stage, "batch_size": images.batch_size} for stage, images in zip(recipe.stages, stages)))
    schedule = Schedule(recipe, [images.batches for images in stages], workers.count, args.num_examples)
    pipeline = {**getattr(stages[0].train, "conditions", {}), "workers": workers.count, "batches": schedule.batches,
                "num_examples": args.num_examples}
    settings = recipe.settings(args, -1)
    weights = class_weights_of(settings, stages[0].train)
    teacher = load_teacher(settings, stages[0].train.provide_data[0][1], classes, devices) if settings.teacher else None
    if teacher:
        pipeline["teacher"] = teacher.digest
    _say_what_may_surprise(args, settings, pipeline)

    if state:
        state = resume(args, schedule, network, state, pipeline, data_shape)
    else:
        state = begin(args, schedule, network, stages[-1].train, devices[0])
        if arg_params is not None:
            _check_shapes(network, arg_params, data_shape)
            state.arg_params, state.aux_params = arg_params, aux_params or {}
    if len({tuple(position) for position in workers.gather(state.position).tolist()}) > 1:
        raise InputError("--model-prefix: the workers see different checkpoints; put it on storage that all share")
    return Setup(args, network, devices, workers, schedule, stages, state, pipeline, min(args.top_k, classes), teacher,
                 weights)


def _complete(args, network):
    """(all flags, the recipe) of a script's flags."""
    recipe = getattr(args, "recipe", None)
    args = argparse.Namespace(**{**default_flags(), **vars(args)})
    if not isinstance(recipe, Recipe):
        recipe = recipe_of(args, mobilenetv2="first-3x3-conv-conv2d_weight" in network.list_arguments())
    if args.benchmark:
        recipe = replace(recipe, stages=({**recipe.stages[0], "epochs": 1, "warmup_epochs": 0.0, "mixup": 0.0,
                                          "cutmix": 0.0},))
    return args, recipe


def _classes(network, data_shape, wanted):
    """The number of classes of the network. Raises InputError unless it is as many as are `wanted`, if that is not
    None, and its only output is (N, classes)."""
    try:
        (_, classes), = network.infer_shape(data=data_shape)[1]
    except (ValueError, TypeError, mx.base.MXNetError):
        raise InputError(f"the network's outputs are {', '.join(network.list_outputs())}: training here takes one, of "
                         f"shape (N, classes) for images of {data_shape[1:]}") from None
    if wanted not in (None, classes):
        raise InputError(f"--num-classes {wanted}, but the network has {classes}")
    return classes


def _check_shapes(network, arg_params, data_shape):
    """Raise InputError if a weight to start from is not of the network's shape."""
    for name, shape in zip(network.list_arguments(), network.infer_shape(data=data_shape)[0]):
        if name in arg_params and arg_params[name].shape != shape:
            raise InputError(f"arg_params: {name} has shape {arg_params[name].shape}, but the network needs {shape}; "
                             "leave it out to begin it anew")


def _say_what_may_surprise(args, settings, pipeline):
    height, width = settings.image_shape[1:]
    if args.model_prefix and height != width:
        logging.warning("--image-shape 3,%d,%d is not square: PREFIX-preprocess.json holds its longer side alone; give "
                        "it to eval_imagenet.py and from_mxnet.py too", height, width)
    examples = pipeline.get("examples")
    if examples and args.num_examples not in (None, examples):
        logging.info("The learning rate's schedule takes %d images for an epoch (--num-examples), which trains on all "
                     "%d there are", args.num_examples, examples)

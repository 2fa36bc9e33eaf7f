"""Where a run begins: from nothing, from weights, or from the checkpoint that it was interrupted after."""
import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from common.base.arguments import as_flag
from common.base.errors import InputError
from common.base.files import check_not_read
from common.checkpoint.ndarrays import fitting, load_params_for, start_params
from common.checkpoint.params import checkpoint_files
from common.checkpoint.prefix import check_prefix, files_under
from common.checkpoint.preprocessing import load_preprocessing, preprocessing_file
from common.find_mxnet import mx
from common.images.options import preprocessing_of
from common.images.recordio import files_of
from common.training.best import best_prefix
from common.training.optimizer import NOT_EXACT
from common.training.pretrained import arrays_of, files_beside, weights_of
from common.training.saved_state import TrainingState, halves, plain_checkpoints, positions, stem
from common.training.schedule import Schedule, quiet
from common.training.teacher import teacher_file
from common.training.training_symbol import params_before
from common.training.unfolding import unfold


def check_model_prefix(args: argparse.Namespace) -> None:
    """An epoch is too long to learn only at its end that the checkpoint cannot be written."""
    prefix = args.model_prefix
    if not prefix:
        for flag, given in (("--resume", args.resume), ("--load-epoch", args.load_epoch is not None)):
            if given:
                raise InputError(f"{flag} needs --model-prefix")
        return
    check_prefix(prefix, "--model-prefix")
    if positions(best_prefix(prefix)):
        raise InputError(f"--model-prefix {prefix}: {best_prefix(prefix)} is the prefix of another run, and this one "
                         "keeps its best there; move its files away, or give another prefix")


def check_not_overwritten(settings: argparse.Namespace, recipe: Path | None, resumed: bool) -> None:
    """Raise InputError if the run would write over, or remove in time, a file that it reads; `recipe`: that of
    --recipe."""
    inputs: list = [recipe, *files_of(settings.data_train, settings.data_train_idx),
              *files_of(settings.data_val, settings.data_val_idx)]
    if settings.pretrained_model and settings.load_epoch is None and not resumed:
        inputs += files_beside(weights_of(settings.pretrained_model))
    if settings.teacher:
        inputs += files_beside(teacher_file(settings.teacher))
    for file in files_under(settings.model_prefix) if settings.model_prefix and not settings.benchmark else ():
        check_not_read(file, *inputs)


def begin(args: argparse.Namespace, schedule: Schedule, network: mx.sym.Symbol, images: mx.io.DataIter,
          device: mx.Context) -> TrainingState:
    """The state of a run that does not go on with an earlier one; `images`: those it trains on last, from which folded
    weights get their statistics on `device`."""
    prefix, settings = args.model_prefix, schedule.recipe.settings(args, -1)
    if args.benchmark:
        return TrainingState()
    if args.load_epoch is not None and args.load_epoch >= schedule.recipe.epochs:
        raise InputError(f"--num-epochs {schedule.recipe.epochs}: {args.load_epoch} epochs are completed already")
    if args.resume:
        if plain := plain_checkpoints(prefix):
            file, epoch = plain[-1]
            raise InputError(f"--resume: {file} holds weights alone, no state of training; --load-epoch {epoch} starts "
                             "from them")
        logging.info("Nothing to resume at %s: starting from the beginning", prefix)
    elif prefix and not args.overwrite:
        begins = (-1 if args.load_epoch is None else args.load_epoch, 0)
        for name in (prefix, f"{prefix}-ema") if settings.ema else (prefix,):
            there = [*positions(name), *halves(name), *((epoch, 0) for _, epoch in plain_checkpoints(name))]
            if there and max(there) > begins:
                raise InputError(f"--model-prefix {name}: has checkpoints up to {stem(*max(there))}; give --resume "
                                 "to go on with that run, --overwrite 1 to write over them, or another prefix")
    if prefix and not args.overwrite and args.load_epoch is None and (best := plain_checkpoints(best_prefix(prefix))):
        raise InputError(f"--model-prefix {prefix}: {best[-1][0]} is there, of a run whose checkpoints are not; give "
                         "--overwrite 1 to write over it, or another prefix")
    state, data_shape = TrainingState(args.load_epoch or 0), (1, *images.provide_data[0][1][1:])
    weights = None
    if args.load_epoch is not None:
        if settings.pretrained_model:
            logging.info("Starting from epoch %d of %s, not from --pretrained-model", args.load_epoch, prefix)
        state.arg_params, state.aux_params = load_params_for(network, prefix, args.load_epoch, data_shape)
        compare_preprocessing(prefix, settings)
        weights = checkpoint_files(prefix, args.load_epoch)[1]
    elif settings.pretrained_model:
        weights = weights_of(settings.pretrained_model)
        state.arg_params, state.aux_params = start_params(network, arrays_of(weights), weights, data_shape)
    if weights:
        frozen = params_before(network, settings.train_from) if settings.train_from else ()
        unfold(network, state.arg_params, state.aux_params, frozen, images, device, weights)
    return state


def compare_preprocessing(prefix: str | Path, settings: argparse.Namespace) -> None:
    """Warn if PREFIX-preprocess.json is not what the run that goes on trains with, and is going to write there."""
    file, ours = Path(preprocessing_file(prefix)), preprocessing_of(settings)
    try:
        same = not file.exists() or load_preprocessing(prefix) == ours
    except InputError:
        same = False
    if not same:
        logging.warning("%s does not say what this run trains with, and is going to: resize %d, crop %d, mean %s, std "
                        "%s", file, ours.resize, ours.crop, as_flag(ours.mean), as_flag(ours.std))


def stale_positions(args: argparse.Namespace) -> list:
    """Checkpoints that a run which begins would mix with its own."""
    if not args.model_prefix:
        return []
    return [position for position in positions(args.model_prefix) if position > (args.load_epoch or 0, 0)]


def metrics_file(prefix: str | Path) -> Path:
    return Path(f"{prefix}-metrics.jsonl")


def resume(args: argparse.Namespace, schedule: Schedule, network: mx.sym.Symbol, state: TrainingState,
           pipeline: dict, data_shape: Sequence[int]) -> TrainingState:
    """`state`, a checkpoint that was read, made ready to go on from, with warnings of all that is not as it was.

    `pipeline`: what else the images depend on; `data_shape`: as for `begin`. Raises InputError if it cannot go on.
    """
    at = f"{args.model_prefix}-{stem(*state.position)}"
    before, settings = state.info["recipe"], schedule.recipe.settings(args, -1)
    if "resize" in pipeline and "resize" not in state.info["pipeline"]:
        raise InputError(f"--resume: {at} is of an earlier version, which scaled images as they are stored and left "
                         f"out the last ones of an epoch; --load-epoch {state.epoch} starts from its weights")
    if before["common"].get("optimizer") != settings.optimizer:
        raise InputError(f"--optimizer {settings.optimizer}: the run to resume has "
                         f"{before['common'].get('optimizer')}; --load-epoch {state.epoch} starts from its weights")
    for line in schedule.recipe.differences(before):
        logging.warning("The recipe is not that of %s: %s", at, line)
    for key, value in pipeline.items():
        if (old := state.info["pipeline"].get(key)) != value:
            logging.warning("Not as in %s: %s %s -> %s; the result will differ", at, key, old, value)
    compare_preprocessing(args.model_prefix, settings)
    if settings.optimizer in NOT_EXACT:
        logging.warning("--optimizer %s has state that is not saved; the result will differ", settings.optimizer)
    updates = schedule.updates_before(*state.position)
    stage = schedule.recipe.stage_of(state.epoch)
    if state.batch and (updates != state.updates or pipeline.get("examples") != state.info["pipeline"].get("examples")
                        or schedule.global_batch(stage) != state.info["pipeline"].get("global_batch")):
        raise InputError(f"--resume: {at} is inside an epoch, whose batches have changed with the batch size, the "
                         f"images or the workers; give them as they were, or --load-epoch {state.epoch}")
    state.arg_params, state.aux_params = fitting(network, (state.arg_params, state.aux_params), f"{at}.params",
                                                 data_shape)
    if state.average:
        state.average = fitting(network, state.average, f"the average of {at}", data_shape)
    with quiet():
        schedule.scheduler(updates + 1)  # it catches up
    logging.info("Resuming from %s: %d epochs%s are completed", at, state.epoch,
                 f" and {state.batch} batches" if state.batch else "")
    return state

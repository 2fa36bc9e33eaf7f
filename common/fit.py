"""The training loop, with the signature that MXNet's image-classification examples give it. A script of one's own:

    from common import data, fit

    parser = argparse.ArgumentParser()
    fit.add_fit_args(parser)
    data.add_data_args(parser)
    data.add_data_aug_args(parser)
    args = parser.parse_args()
    fit.fit(args, symbol, data.get_rec_iter)

What a run has beside its loop (checkpoints, signals, several workers, what it says) is in common/training/.
"""
import argparse
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from common.base.errors import InputError, Stopped, printable
from common.evaluation.score import score
from common.find_mxnet import mx
from common.images.preprocess import one_opencv_thread
from common.training.distributed import Do, Order
from common.training.loading import DataLoader
from common.training.options import add_fit_args as add_flags
from common.training.options import no_network
from common.training.run import Run, begun, logged
from common.training.run_summary import run_summary
from common.training.schedule import quiet
from common.training.setup import Setup, prepare


def add_fit_args(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags that `fit` reads. What cannot be used ends such a script with one line."""
    sys.excepthook = _one_line
    return add_flags(parser)


def fit(args: argparse.Namespace, network: mx.sym.Symbol, data_loader: DataLoader,
        logger: logging.Logger | None = None, arg_params: dict | None = None, aux_params: dict | None = None,
        batch_end_callback: Callable | Sequence[Callable] | None = None) -> dict:
    """Train `network`, whose output is (N, classes), as the flags `args` say; returns {"train": {...}, "validation":
    {...}}, loss and accuracies of the last epoch.

    `data_loader(flags, kv)` gives (training, validation or None) iterators, as `common.data.get_rec_iter`; it is called
    once for each stage of a recipe, with the flags of that stage. A training iterator with `seek(epoch, batch)` is
    resumed at any batch; another DataIter is reset for each epoch, and resumed at the ends of epochs.
    `logger`: gets what is logged, too. `arg_params`, `aux_params`: weights to start from; what they lack is drawn anew.
    `batch_end_callback`: called after each batch with an mx.model.BatchEndParam. Raises InputError for what cannot be
    used, before training begins if it can be known then, and if the loss is not finite; Stopped on a signal.
    """
    callbacks = batch_end_callback or ()
    callbacks = callbacks if isinstance(callbacks, Sequence) else [callbacks]
    with logged(logger):
        setup = prepare(args, network, data_loader, arg_params, aux_params)
        if setup is None:
            return {}
        if setup.workers.rank:
            logging.getLogger().setLevel(logging.WARNING)
        for line in run_summary(setup):
            logging.info(line)
        with one_opencv_thread():
            return measure_input(setup) if setup.args.test_io else train(setup, callbacks)


def train(setup: Setup, callbacks: Sequence[Callable] = ()) -> dict:
    """From where the run begins, or goes on, to its last epoch."""
    with begun(setup, callbacks) as run:
        if setup.args.resume and run.start.epoch and not run.start.batch and "validation" not in run.info:
            validate(run, run.start.epoch - 1, saved=True)  # the run ended before it could
        for epoch in range(run.start.epoch, setup.schedule.recipe.epochs):
            order = train_one_epoch(run, epoch)
            run.module.share_statistics()
            saved = run.save_after(epoch, order)
            validate(run, epoch, saved)
        run.finish()
        return run.report.measured


def train_one_epoch(run: Run, epoch: int) -> Order:
    """Forward, backward, update and score of each batch of an epoch; returns what the workers agreed on at the last."""
    module, report = run.module, run.report
    images, batches = run.begin_epoch(epoch), run.stage(epoch).batches
    for done in range(run.first_batch(epoch) + 1, batches + 1):
        with report.waiting():
            batch = images.next()
        module.forward_backward(batch)
        module.update()
        scored, lr = module.score(batch, run.top_k), module.learning_rate()
        order = run.workers.agree(run.wish(scored))
        if order.do == Do.FAIL or not math.isfinite(scored.loss):
            raise run.diverged(f"the loss is {scored.mean_loss:g}", epoch, done)
        report.batch(scored, lr, module.updates)
        run.call_back(epoch, done, batch)
        if order.do != Do.GO_ON and done < batches:
            module.share_statistics()
            run.save(epoch, done)
            if order.do == Do.STOP:
                raise run.stopped(order.signal, f"after batch {done} of {batches} of epoch {epoch}")
    with suppress(StopIteration):
        images.next()  # the end, at which an iterator frees its memory
    with quiet():
        lr_end = run.schedule.lr_end(epoch)
    report.end_epoch(lr, lr_end, module.updates)
    return order


def validate(run: Run, epoch: int, saved: bool) -> None:
    """Score the weights, and their average, after an epoch; `saved`: there is a checkpoint of it, which notes them."""
    images = run.stage(epoch).validation
    if images is None:
        return
    scores = {}
    for name, params in run.module.versions().items():
        predict = run.unless_stopped(run.module.predictor(params, images.provide_data))
        telling = run.report.validating(epoch, getattr(images, "num_images", None))
        scores[name] = run.workers.total(score(predict, images, run.top_k, telling))
    run.report.validation(epoch, scores, run.module.updates)
    if saved:
        run.note(epoch, scores)


def measure_input(setup: Setup) -> dict:
    """Read an epoch of training images; returns {"images_per_s": speed}."""
    epoch = setup.state.epoch
    stage = setup.stages[setup.schedule.recipe.stage_of(epoch)]
    stage.train.seek(epoch, 0)
    began = time.monotonic()
    for done in range(1, stage.batches + 1):
        stage.train.next().data[0].wait_to_read()
        speed = done * stage.batch_size / (time.monotonic() - began)
        if done % setup.args.disp_batches == 0 or done == stage.batches:
            logging.info("Batch [%d]\tSpeed: %.2f samples/sec", done, speed)
    return {"images_per_s": speed}


def _one_line(kind, error, trace):
    """What ends a script: one line of an InputError, or of a run that was stopped, a traceback of a defect."""
    network = getattr(error, "name", None) or ""  # of a module that is not there
    if isinstance(error, (InputError, Stopped)):
        print(printable(f"error: {error}"), file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError) and network.startswith("symbols."):
        print(f"error: --network: {no_network(network.removeprefix('symbols.'))}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)

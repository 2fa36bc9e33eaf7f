"""Train a network through the stages of a recipe, so that a run can end at any moment and go on exactly."""
import argparse
import logging
import math
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import replace

from tqdm.contrib.logging import logging_redirect_tqdm

from common.base.errors import InputError, Stopped
from common.base.processes import StopRequest
from common.checkpoint.preprocessing import save_preprocessing
from common.data.heads import check_heads
from common.data.iterators import augmentation_of, evaluation_iter, resize_of, synthetic_iter, training_iter
from common.data.options import decoding_threads
from common.evaluation.score import score
from common.find_mxnet import mx
from common.images.class_names import names_beside, save_synset
from common.images.options import preprocessing_of
from common.training.distributed import FAILED, SAVE, Workers
from common.training.mixup import MixupIter
from common.training.optimizer import check_optimizer
from common.training.plan import Plan, quiet
from common.training.report import Report
from common.training.run_start import (
    begin,
    check_model_prefix,
    check_not_overwritten,
    metrics_file,
    resume,
    stale_positions,
)
from common.training.state import (
    TrainingState,
    describe_again,
    finite,
    prune,
    remove,
    save_state,
    set_aside,
    sole_writer,
    stem,
)
from common.training.trainer import Trainer, check_batch_size


class Run:
    """The run of a `plan` by this worker.

    `args`: the flags; `devices`: MXNet contexts; `workers`: common.training.distributed.Workers; `state`: the
    checkpoint to resume, as it was read, or None. Raises InputError for what cannot be used, before training starts
    where it can be known then.
    """

    def __init__(self, args: argparse.Namespace, plan: Plan, network: mx.sym.Symbol, devices: list, workers: Workers,
                 state: TrainingState | None = None) -> None:
        self.args, self.plan, self.network, self.devices, self.workers = args, plan, network, devices, workers
        check_model_prefix(args)
        check_not_overwritten(plan.recipe.settings(args, 0), resumed=state is not None)
        check_optimizer(plan.recipe.settings(args, 0))
        # what else the images of an epoch depend on
        self.pipeline = {"examples": plan.images.examples, "workers": workers.count, "data_backend": args.data_backend,
                         "resize": resize_of(plan.recipe.settings(args, 0)), "batches": plan.batches,
                         "num_examples": args.num_examples,
                         **({"data_nthreads": decoding_threads(args)} if args.data_backend == "mxnet" else {})}
        self.state = resume(args, plan, network, state, self.pipeline) if state else begin(args, plan, network)
        if len({tuple(position) for position in workers.gather(self.state.position).tolist()}) > 1:
            raise InputError("--model-prefix: the workers see different checkpoints; put it on storage that all share")
        self.info = self.state.info
        self.settings = plan.recipe.settings(args, plan.recipe.stage_of(self.state.epoch))
        self.top_k = min(args.top_k, self.settings.num_classes)
        self.saves = bool(args.model_prefix) and not args.benchmark
        self.writes = self.saves and workers.rank == 0
        height, width = self.settings.image_shape[1:]
        if self.writes and height != width:
            logging.warning("--image-shape 3,%d,%d is not square: PREFIX-preprocess.json holds its longer side alone; "
                            "give it to eval_imagenet.py and from_mxnet.py too", height, width)
        for settings in (plan.recipe.settings(args, stage) for stage in range(len(plan.recipe.stages))):
            check_batch_size(settings.batch_size, devices)
            if not args.benchmark:
                augmentation_of(settings, plan.images)  # the slips of a stage that is days away too
        self.synset = names_beside(args.data_train, self.settings.num_classes) if self.writes else None
        self.validation = None
        if args.data_val and not args.benchmark:
            self.validation = evaluation_iter(self.settings, self.settings.num_classes, workers.rank, workers.count)
            self.validation.check(args.check_data)
        if args.data_backend == "mxnet" and not args.benchmark:  # which ends the process on what it does not like
            check_heads(plan.images.files, self.settings.num_classes, workers.rank, workers.count)

    def train(self) -> None:
        """Train to the end. Raises Stopped where a signal asks for it, InputError where the loss is not finite."""
        with ExitStack() as stack:
            stack.enter_context(logging_redirect_tqdm())
            if self.writes:
                stack.enter_context(sole_writer(self.args.model_prefix))
                for position in stale_positions(self.args) if not self.args.resume else ():
                    remove(self.args.model_prefix, position)
                set_aside(self.args.model_prefix, self.state.position)
            self.stop = stack.enter_context(StopRequest())
            start = self.state
            self.trainer = Trainer(self.network, self.settings, start, self._shapes(self.settings), self.plan.scheduler,
                                   self.devices, self.workers, self.plan.updates_before(*start.position))
            self.report = stack.enter_context(Report(
                self.args.disp_batches, self.top_k, self.plan.images_left,
                metrics_file(self.args.model_prefix) if self.writes else None,
                self.args.resume or start.position > (0, 0),
                self.args.tensorboard if self.workers.rank == 0 else None, self.trainer.updates))
            self.report.begin_run(*start.position, recipe=self.plan.recipe.as_json())
            self._saved = time.monotonic()
            if self.args.resume and start.epoch and not start.batch and "validation" not in self.info:
                self._validate(start.epoch - 1, saved=True)  # the run ended before it could
            for epoch in range(start.epoch, self.plan.recipe.epochs):
                order = self._train_epoch(epoch, start.batch if epoch == start.epoch else 0)
                self.trainer.share_statistics()
                self.info.pop("validation", None)
                due = (epoch + 1) % self.args.save_period == 0 or epoch + 1 == self.plan.recipe.epochs
                if due or order > SAVE:
                    self._save(epoch + 1, 0)
                if order > SAVE:
                    raise Stopped(order, f"stopped by {_name(order)} at the end of epoch {epoch}; {self._last()}")
                self._validate(epoch, saved=due)
            logging.info("Finished: %d epochs are completed", self.plan.recipe.epochs)

    def measure_input(self) -> None:
        """Read an epoch of training images, and tell how fast that was."""
        batches, began = self.plan.batches[self.plan.recipe.stage_of(self.state.epoch)], time.monotonic()
        images = self._images(self.settings, self.state.epoch, 0)
        for done in range(1, batches + 1):
            images.next().data[0].wait_to_read()
            if done % self.args.disp_batches == 0 or done == batches:
                logging.info("Batch [%d]\tSpeed: %.2f samples/sec", done,
                             done * self.settings.batch_size / (time.monotonic() - began))

    def _train_epoch(self, epoch, first):
        """From batch number `first` on; returns what the workers agreed on at the last batch."""
        stage = self.plan.recipe.stage_of(epoch)
        settings, batches = self.plan.recipe.settings(self.args, stage), self.plan.batches[stage]
        self.trainer.begin_stage(self._shapes(settings))
        images = self._images(settings, epoch, first)
        self.report.begin_epoch(epoch, self.plan.recipe.epochs, first, batches, self.plan.global_batch(stage),
                                self.info.pop("progress", None))
        for done in range(first + 1, batches + 1):
            with self.report.waiting():
                batch = images.next()
            self.trainer.step(batch)
            score, lr = self.trainer.score(batch, self.top_k), self.trainer.learning_rate()
            order = self.workers.agree(self._wish() if math.isfinite(score.loss) else FAILED)
            if order == FAILED or not math.isfinite(score.loss):
                self._diverged(f"the loss is {score.mean_loss:g}", epoch, done)
            self.report.batch(score, lr, self.trainer.updates)
            if order and done < batches:
                self.trainer.share_statistics()
                if self.saves:
                    self._save(epoch, done)
                if order > SAVE:
                    raise Stopped(order, f"stopped by {_name(order)} after batch {done} of {batches} of epoch {epoch}; "
                                  + self._last())
        with suppress(StopIteration):
            images.next()  # the end, at which the iterator frees its memory
        with quiet():
            lr_end = self.plan.lr_end(epoch)
        self.report.end_epoch(lr, lr_end, self.trainer.updates)
        return order

    def _wish(self):
        """A signal's number, or SAVE after the minutes of --save-every."""
        due = self.writes and self.args.save_every and time.monotonic() - self._saved >= 60 * self.args.save_every
        return self.stop.wish or (SAVE if due else 0)

    def _images(self, settings, epoch, first):
        """The batches of an epoch from number `first` on."""
        if self.args.benchmark:
            return synthetic_iter(settings)
        images = training_iter(settings, self.plan.images, epoch, self.workers.rank, self.workers.count, first)
        if images.to_read_over:
            logging.info("Reading over %d batches of epoch %d, which are done", images.to_read_over, epoch)
        for _ in range(images.to_read_over):
            images.next()
            if self.stop.wish and self.workers.count == 1:
                raise Stopped(self.stop.wish, f"stopped by {_name(self.stop.wish)} before it went on; {self._last()}")
        if settings.mixup:
            images = MixupIter(images, settings.mixup, settings.num_classes, settings.label_smoothing,
                               (settings.seed, epoch, self.workers.rank), first)
        return images

    def _shapes(self, settings):
        """(data, label) of a batch."""
        label = (settings.batch_size, settings.num_classes) if settings.mixup else (settings.batch_size,)
        return (settings.batch_size, *settings.image_shape), label

    def _validate(self, epoch, saved):
        """Score the weights, and their average, after an epoch; the checkpoint, if it was saved, is told the result."""
        if self.validation is None:
            return
        versions = {"": self.trainer.params()}
        if self.trainer.average:
            versions["ema-"] = self.trainer.averaged_params()
        scores = {}
        for name, params in versions.items():
            predict = self.trainer.predictor(params, self.validation.provide_data[0].shape)
            scores[name] = self.workers.total(score(self._unless_stopped(predict), self.validation, self.top_k))
        self.report.validation(epoch, scores, self.trainer.updates)
        if not saved:
            return
        self.info["validation"] = {f"{name}top-1": version.top_1 for name, version in scores.items()}
        top_1 = list(scores.values())[-1].top_1
        if "best" not in self.info or top_1 > self.info["best"]["top-1"]:
            self.info["best"] = {"epoch": epoch + 1, "top-1": top_1}
        if self.writes:
            describe_again(self.args.model_prefix, self.state)
            self._prune()

    def _unless_stopped(self, predict):
        """`predict`, which a signal interrupts; workers of several finish, and stop together after the next batch."""
        def predict_unless_stopped(data):
            if self.stop.wish and self.workers.count == 1:
                raise Stopped(self.stop.wish, f"stopped by {_name(self.stop.wish)} in validation; " + self._last())
            return predict(data)
        return predict_unless_stopped

    def _last(self):
        if not self.saves:
            return "nothing is saved without --model-prefix"
        if not self.state.updates:
            return "nothing was saved yet"
        return f"{self.args.model_prefix}-{stem(*self.state.position)} is the last checkpoint; --resume goes on from it"

    def _diverged(self, what, epoch, batch):
        raise InputError(f"epoch {epoch}, batch {batch}, learning rate {self.trainer.learning_rate():g}: {what}; "
                         f"{self._last()}; give a lower --lr or a longer --warmup-epochs"
                         + (", or a lower --loss-scale" if self.settings.dtype == "float16" else ""))

    def _save(self, epoch, batch):
        """Worker 0 writes; the others take it as written from now on."""
        position = TrainingState(epoch, batch, self.trainer.updates, info=self.info)
        if self.writes:
            average, (arg_params, aux_params) = self.trainer.averaged_params(), self.trainer.params()
            if not finite(arg_params, aux_params, *(average or ())):
                self._diverged("the weights are not finite", *((epoch, batch) if batch else (epoch - 1, "the last")))
            stage = self.plan.recipe.stage_of(epoch)
            self.info.update(recipe=self.plan.recipe.as_json(),
                             pipeline={**self.pipeline, "global_batch": self.plan.global_batch(stage)},
                             **({"progress": self.report.progress} if batch else {}))
            for name in ("", "-ema") if average else ("",):
                save_preprocessing(f"{self.args.model_prefix}{name}", preprocessing_of(self.settings))
                if self.synset:
                    save_synset(f"{self.args.model_prefix}{name}", self.synset)
            path = save_state(self.args.model_prefix, replace(
                position, arg_params=arg_params, aux_params=aux_params, average=average,
                optimizer=self.trainer.optimizer_state()), self.network)
            logging.info('Saved checkpoint to "%s"', path)
            self.info.pop("progress", None)
        self.state, self._saved = position, time.monotonic()
        if self.writes:
            self._prune()

    def _prune(self):
        prune(self.args.model_prefix, self.args.keep, self.state.position, self.info.get("best", {}).get("epoch"))


def _name(number):
    return signal.Signals(number).name

"""A run in progress: what happens around its loop. Checkpoints, the wish to stop, what is said of it."""
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from tqdm.contrib.logging import logging_redirect_tqdm

from common.base.errors import InputError, Stopped, log_to_stderr
from common.base.processes import StopRequest
from common.checkpoint.preprocessing import save_preprocessing
from common.evaluation.score import Score
from common.find_mxnet import mx
from common.images.class_names import save_synset
from common.training.best import better, keep_best, outcome, remove_best
from common.training.distributed import Do, Order
from common.training.loading import StageImages
from common.training.mixup import MixedIter
from common.training.module import TrainedModule
from common.training.report import Report
from common.training.saved_state import (
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
from common.training.setup import Setup
from common.training.starting_point import metrics_file, stale_positions


class Run:
    """`setup`: what was decided before; `start`: where the run begins; `saved`: the last checkpoint; `callbacks`:
    called after each batch, as Module.fit does."""

    def __init__(self, setup: Setup, module: TrainedModule, report: Report, stop: StopRequest,
                 callbacks: Sequence[Callable]) -> None:
        self.setup, self.module, self.report, self.stop = setup, module, report, stop
        self.args, self.schedule, self.workers, self.top_k = setup.args, setup.schedule, setup.workers, setup.top_k
        self.start = self.saved = setup.state
        self.info, self._saved_at = setup.state.info, time.monotonic()
        self._callbacks, self._metric = callbacks, mx.metric.CompositeEvalMetric(["accuracy", "ce"])

    def stage(self, epoch: int) -> StageImages:
        return self.setup.stages[self.schedule.recipe.stage_of(epoch)]

    def first_batch(self, epoch: int) -> int:
        """The batch of an epoch that the run goes on from, counted from 0."""
        return self.start.batch if epoch == self.start.epoch else 0

    def begin_epoch(self, epoch: int) -> mx.io.DataIter:
        """The batches of an epoch, those left of it if it is the first one of a run that goes on."""
        number = self.schedule.recipe.stage_of(epoch)
        settings, stage, first = self.setup.settings(number), self.stage(epoch), self.first_batch(epoch)
        images = stage.train
        images.seek(epoch, first)
        self._read_over(images, epoch)
        if settings.mixup or settings.cutmix:
            images = MixedIter(images, settings.mixup, settings.cutmix, settings.num_classes, settings.label_smoothing,
                               (settings.seed, epoch, self.workers.rank), first)
        self.module.begin_stage(images.provide_data, images.provide_label)
        self.report.begin_epoch(epoch, self.schedule.recipe.epochs, first, stage.batches,
                                self.schedule.global_batch(number), self.info.pop("progress", None))
        self._metric.reset()
        return images

    def _read_over(self, images, epoch):
        """Read the batches that an iterator has before the one it was to go to."""
        before = getattr(images, "to_read_over", 0)
        if before:
            logging.info("Reading over %d batches of epoch %d, which are done", before, epoch)
        for _ in range(before):
            images.next()
            if self.stop.wish and self.workers.count == 1:
                raise self.stopped(self.stop.wish, "before it went on")

    def wish(self, score: Score) -> Order:
        """What this worker wishes to do after a batch of that score."""
        if not math.isfinite(score.loss):
            return Order(Do.FAIL)
        if self.stop.wish:
            return Order(Do.STOP, self.stop.wish)
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.setup.writes and self.args.save_every and minutes >= self.args.save_every
        return Order(Do.SAVE if due else Do.GO_ON)

    def call_back(self, epoch: int, batch_number: int, batch: mx.io.DataBatch) -> None:
        """Call who asked to be called, with the accuracy and cross-entropy of the epoch so far."""
        if self._callbacks:
            self.module.update_metric(self._metric, batch)
        for callback in self._callbacks:
            callback(mx.model.BatchEndParam(epoch=epoch, nbatch=batch_number, eval_metric=self._metric,
                                            locals={"run": self}))

    def save(self, epoch: int, batch: int = 0) -> None:
        """Save after `epoch` epochs and `batch` batches of the next one. Worker 0 writes; the others take it as
        written."""
        setup, prefix = self.setup, self.args.model_prefix
        if not setup.saves or batch and not self.stage(epoch).resumable:
            return
        position = TrainingState(epoch, batch, self.module.updates, info=self.info)
        if setup.writes:
            average, (arg_params, aux_params) = self.module.averaged_params(), self.module.params()
            if not finite(arg_params, aux_params, *(average or ())):
                last = (epoch, batch) if batch else (epoch - 1, "the last")
                raise self.diverged("the weights are not finite", *last)
            stage = self.schedule.recipe.stage_of(epoch)
            self.info.update(recipe=self.schedule.recipe.as_json(),
                             pipeline={**setup.pipeline, "global_batch": self.schedule.global_batch(stage)},
                             **({"progress": self.report.progress} if batch else {}))
            for name in (prefix, f"{prefix}-ema") if average else (prefix,):
                self._describe_images(name)
            path = save_state(prefix, replace(position, arg_params=arg_params, aux_params=aux_params, average=average,
                                              optimizer=self.module.optimizer_state()), setup.network)
            logging.info('Saved checkpoint to "%s"', path)
            self.info.pop("progress", None)
        self.saved, self._saved_at = position, time.monotonic()
        self._prune()

    def _describe_images(self, prefix):
        """PREFIX-preprocess.json and PREFIX-synset.txt, as far as the images' iterator tells."""
        images = self.setup.stages[-1].train
        if preprocessing := getattr(images, "preprocessing", None):
            save_preprocessing(prefix, preprocessing)
        if names := getattr(images, "class_names", None):
            save_synset(prefix, names)

    def save_after(self, epoch: int, order: Order) -> bool:
        """Save at the end of an epoch, if it is due or the run is to stop, which raises Stopped; whether it was due."""
        due = (epoch + 1) % self.args.save_period == 0 or epoch + 1 == self.schedule.recipe.epochs
        self.info.pop("validation", None)
        if due or order.do == Do.STOP:
            self.save(epoch + 1)
        if order.do == Do.STOP:
            raise self.stopped(order.signal, f"at the end of epoch {epoch}")
        return due

    def note(self, epoch: int, scores: dict[str, Score]) -> None:
        """Write the scores after an epoch into its checkpoint, which is kept as long as it is the best."""
        self.info["validation"] = {f"{name}top-1": version.top_1 for name, version in scores.items()}
        before = self.info.get("best")
        if best := better(before, epoch + 1, scores):
            self.info["best"] = best
        if self.setup.writes:
            describe_again(self.args.model_prefix, self.saved)
            if best and best != before:  # after a kill in between the run that goes on does it
                keep_best(self.args.model_prefix, best)
        self._prune()

    def finish(self) -> None:
        """Say what came of it."""
        epochs = self.schedule.recipe.epochs
        logging.info("Finished: %d epochs are completed", epochs)
        for line in outcome(self.args.model_prefix, self.info.get("best"), epochs) if self.setup.saves else ():
            logging.info(line)

    def _prune(self):
        if self.setup.writes:
            prune(self.args.model_prefix, self.args.keep, self.saved.position, self.info.get("best", {}).get("epoch"))

    def unless_stopped(self, predict: Callable) -> Callable:
        """`predict`, which a signal interrupts; workers of several finish, and stop together after the next batch."""
        def predict_unless_stopped(data):
            if self.stop.wish and self.workers.count == 1:
                raise self.stopped(self.stop.wish, "in validation")
            return predict(data)
        return predict_unless_stopped

    def stopped(self, number: int, when: str) -> Stopped:
        return Stopped(number, f"stopped by {signal.Signals(number).name} {when}; {self._last()}")

    def diverged(self, what: str, epoch: int, batch: int | str) -> InputError:
        scale = ", or a lower --loss-scale" if self.args.dtype == "float16" else ""
        return InputError(f"epoch {epoch}, batch {batch}, learning rate {self.module.learning_rate():g}: {what}; "
                          f"{self._last()}; give a lower --lr or a longer --warmup-epochs{scale}")

    def _last(self):
        if not self.setup.saves:
            return "nothing is saved without --model-prefix"
        if not self.saved.updates:
            return "nothing was saved yet"
        return (f"{self.args.model_prefix}-{stem(*self.saved.position)} is the last checkpoint; --resume goes on from "
                "it")


@contextmanager
def begun(setup: Setup, callbacks: Sequence[Callable] = ()) -> Iterator[Run]:
    """A run within this block: it alone writes to its prefix, and a signal only asks it to stop."""
    args, schedule, start = setup.args, setup.schedule, setup.state
    stage = schedule.recipe.stage_of(start.epoch)
    with ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        if setup.writes:
            stack.enter_context(sole_writer(args.model_prefix))
            for position in stale_positions(args) if not args.resume else ():
                remove(args.model_prefix, position)
            set_aside(args.model_prefix, start.position)
            if not start.info:  # it begins
                remove_best(args.model_prefix)
            elif "best" in start.info:
                keep_best(args.model_prefix, start.info["best"])
        stop = stack.enter_context(StopRequest())
        settings, images = setup.settings(stage), setup.stages[stage].train
        mixed = settings.mixup or settings.cutmix
        label = MixedIter.label(images, settings.num_classes) if mixed else images.provide_label
        module = TrainedModule(setup.network, settings, start, (images.provide_data, label), schedule.scheduler,
                               setup.devices, setup.workers, schedule.updates_before(*start.position),
                               setup.teacher, setup.class_weights)
        report = stack.enter_context(Report(
            args.disp_batches, setup.top_k, schedule.images_left,
            metrics_file(args.model_prefix) if setup.writes else None, args.resume or start.position > (0, 0),
            args.tensorboard if setup.workers.rank == 0 else None, module.updates))
        report.begin_run(*start.position, recipe=schedule.recipe.as_json())
        yield Run(setup, module, report, stop, callbacks)


@contextmanager
def logged(logger: logging.Logger | None) -> Iterator[None]:
    """Within this block what is logged goes to the handlers of `logger` too, and to standard error if nothing was set
    up for it."""
    log_to_stderr()
    root, theirs = logging.getLogger(), logger.handlers if logger else []
    level, more = root.level, [handler for handler in theirs if handler not in root.handlers]
    for handler in more:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)  # which a worker of several may have raised
        for handler in more:
            root.removeHandler(handler)

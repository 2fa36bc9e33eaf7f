"""A recipe laid out over the images there are: batches and updates of every epoch, and the learning rate of every
update, by MXNet's own schedulers."""
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.base.errors import InputError
from common.find_mxnet import mx
from common.images.dataset import batches_in_epoch
from common.training.recipe import Recipe, lr_step_epochs


class Schedule:
    """`batches`: those of an epoch for one worker, for each stage. `scheduler`: the learning rate of each update, for
    which an epoch has `num_examples` images of all workers, as in MXNet's examples (None: those of its batches).

    Raises InputError if the rates do not fit.
    """

    def __init__(self, recipe: Recipe, batches: Sequence[int], workers: int = 1,
                 num_examples: int | None = None) -> None:
        self.recipe, self.batches, self.workers = recipe, list(batches), workers
        scheduled = [batches_in_epoch(num_examples, stage["batch_size"], workers)
                     for stage in recipe.stages] if num_examples else self.batches
        self.scheduler = make_scheduler(recipe, scheduled, workers, self.batches)

    def global_batch(self, stage: int) -> int:
        """Images in a batch of all workers."""
        return self.recipe.stages[stage]["batch_size"] * self.workers

    def updates_before(self, epoch: int, batch: int) -> int:
        """Updates of the run before this batch of this epoch, both counted from 0."""
        return sum(batches * epochs for batches, epochs in zip(self.batches, self._epochs(0, epoch))) + batch

    def images_left(self, epoch: int, batch: int) -> int:
        """Images of all workers from there to the end of the run."""
        left = sum(batches * epochs * self.global_batch(stage) for stage, (batches, epochs)
                   in enumerate(zip(self.batches, self._epochs(epoch, self.recipe.epochs))))
        return left - batch * self.global_batch(self.recipe.stage_of(epoch))

    def lr_end(self, epoch: int) -> float:
        """The rate after the decay that ends an epoch. The scheduler only goes forward."""
        stage = self.recipe.stage_of(epoch)
        return self.scheduler.after(stage, (epoch - self.recipe.first_epoch(stage) + 1) * self.batches[stage])

    def _epochs(self, begin, end):
        """How many epochs from `begin` to `end` belong to each stage."""
        for i, stage in enumerate(self.recipe.stages):
            first = self.recipe.first_epoch(i)
            yield max(0, min(end, first + stage["epochs"]) - max(begin, first))


class StageScheduler(mx.lr_scheduler.LRScheduler):
    """Hands each update to the scheduler of its stage, which counts from the beginning of that stage.

    `stages`: [(first update, counted from 1 over the run, scheduler)]. MXNet's schedulers only go forward.
    """

    def __init__(self, stages: Sequence[tuple]) -> None:
        super().__init__(stages[0][1].base_lr)
        self._stages = stages

    def __call__(self, num_update: int) -> float:
        num_update = max(num_update, 1)  # some of MXNet's optimizers ask before their first update
        first, scheduler = max((stage for stage in self._stages if stage[0] <= num_update), key=lambda stage: stage[0])
        return scheduler(num_update - first + 1)

    def after(self, stage: int, updates: int) -> float:
        """The rate of a stage after this many of its updates, that is, of the next one if the stage went on."""
        return self._stages[stage][1](updates + 1)


def make_scheduler(recipe: Recipe, scheduled: Sequence[int], workers: int, batches: Sequence[int]) -> StageScheduler:
    """For each stage of the recipe the batches that the rate takes for an epoch, and those that an epoch has. Raises
    InputError for values that do not fit."""
    stages, first = [], 1
    for stage, in_epoch, trained in zip(recipe.stages, scheduled, batches):
        stages.append((first, _stage_scheduler({**stage, **scaled_rates(recipe, stage, workers)}, in_epoch)))
        first += stage["epochs"] * trained
    return StageScheduler(stages)


def scaled_rates(recipe: Recipe, stage: dict, workers: int = 1) -> dict:
    """The rates of a stage, in proportion to the global batch if the recipe says which one they are meant for (the
    linear rule of Goyal et al., 2017)."""
    meant_for = recipe.common["lr_for_batch"]
    ratio = stage["batch_size"] * workers / meant_for if meant_for else 1
    return {key: stage[key] * ratio for key in ("lr", "lr_final", "warmup_lr")}


def _stage_scheduler(stage, batches):
    total, lr = stage["epochs"] * batches, stage["lr"]
    warmup = round(stage["warmup_epochs"] * batches)
    if warmup >= total and warmup:
        raise InputError(f"--warmup-epochs {stage['warmup_epochs']:g}: leaves nothing of a stage of {stage['epochs']} "
                         "epochs; give less, or 0 for none")
    if warmup and stage["warmup_lr"] > lr:
        raise InputError(f"--warmup-lr {stage['warmup_lr']:g} is more than the rate {lr:g} to which it rises")
    options = dict(base_lr=lr, warmup_steps=warmup, warmup_begin_lr=stage["warmup_lr"] if warmup else 0)
    if stage["lr_mode"] == "cosine":
        return mx.lr_scheduler.CosineScheduler(total, final_lr=stage["lr_final"], **options)
    if stage["lr_mode"] == "poly":
        return mx.lr_scheduler.PolyScheduler(total, final_lr=stage["lr_final"], pwr=stage["lr_power"], **options)
    if stage["lr_factor"] > 1:
        raise InputError(f"--lr-factor {stage['lr_factor']:g}: give a factor above 0, and 1 at most")
    steps = [step * batches for step in lr_step_epochs(stage) or range(1, stage["epochs"] + 1)]
    return mx.lr_scheduler.MultiFactorScheduler(step=steps, factor=stage["lr_factor"], **options)


@contextmanager
def quiet() -> Iterator[None]:
    """Within this block MXNet does not log: its schedulers do every change of the rate, when they catch up too, and
    lbsgd its settings."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

"""What a data loader gives for each stage of a recipe: batches to train on, and images to validate with."""
import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from common.base.errors import InputError
from common.find_mxnet import mx
from common.images.dataset import batches_in_epoch
from common.training.distributed import Workers
from common.training.recipe import Recipe

# (flags of a stage, key-value store) -> (training, validation or None), as `common.data.get_rec_iter`
DataLoader = Callable[[argparse.Namespace, mx.kvstore.KVStore], tuple]


@dataclass(frozen=True)
class StageImages:
    """`train`: an iterator with `seek(epoch, batch)`; `resumable`: it can go to a batch inside an epoch. `batches`: in
    an epoch, the same for all workers."""
    train: mx.io.DataIter
    validation: mx.io.DataIter | None
    batches: int
    resumable: bool

    @property
    def batch_size(self) -> int:
        return self.train.provide_data[0][1][0]


class ResetIter(mx.io.DataIter):
    """`images`, an iterator that can only begin anew, as epochs of `batches` batches. If it ends before, it begins
    again."""

    def __init__(self, images: mx.io.DataIter, batches: int) -> None:
        self.provide_data, self.provide_label = ([mx.io.DataDesc(*desc) for desc in descs]
                                                 for descs in (images.provide_data, images.provide_label))
        super().__init__(self.provide_data[0][1][0])
        self._images, self._batches, self._given = images, batches, 0

    def __str__(self) -> str:
        return iterator_name(self._images)

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Go to the beginning of an epoch, whichever it is."""
        assert not batch
        self._images.reset()
        self._given = 0

    def next(self) -> mx.io.DataBatch:
        if self._given == self._batches:
            raise StopIteration
        self._given += 1
        try:
            return self._images.next()
        except StopIteration:
            self._images.reset()
            return self._images.next()


def iterator_name(images: mx.io.DataIter) -> str:
    """What it reads, if it says so, or its class."""
    return type(images).__name__ if type(images).__str__ is object.__str__ else str(images)


def load_stages(data_loader: DataLoader, recipe: Recipe, args: argparse.Namespace, workers: Workers) -> list:
    """The StageImages of each stage of the recipe, all with the last one's validation: scores can be compared, and the
    checkpoint is for images of that size. What the flags `args` ask for and cannot have is an InputError now, of a
    stage that is days away too."""
    store = workers.store()
    stages = [_stage(data_loader(recipe.flags(args, i), store), args.num_examples, workers)
              for i in range(len(recipe.stages))]
    return [replace(stage, validation=stages[-1].validation) for stage in stages]


def _stage(loaded, num_examples, workers):
    train, validation = loaded
    if len(train.provide_data) != 1 or len(train.provide_label) != 1:
        raise InputError("the data loader's batches have several inputs or labels; training here takes one of each")
    resumable = hasattr(train, "seek")
    batches = getattr(train, "batches", 0) or _count(train, num_examples, workers.count)
    batches = int(workers.gather([batches]).min())
    if not batches:
        raise InputError("the data loader gives no batch")
    if not resumable:
        train = ResetIter(train, batches)
        logging.info("%s has no seek(epoch, batch): it is reset for each epoch, of %d batches, and the run can only be "
                     "resumed at the end of one", train, batches)
    return StageImages(train, validation, batches, resumable)


def _count(images, num_examples, workers):
    """Batches in an epoch, by --num-examples or else by a pass."""
    if num_examples:
        return batches_in_epoch(num_examples, images.provide_data[0][1][0], workers)
    images.reset()
    return sum(1 for _ in images)

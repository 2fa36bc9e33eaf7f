"""Mixup (Zhang et al., 2017) and CutMix (Yun et al., 2019): each image of a batch is mixed with the one before it, and
so are their labels."""
import math
from collections.abc import Sequence

import numpy as np

from common.data.memory import memory_of
from common.find_mxnet import mx


class MixedIter(mx.io.DataIter):
    """The batches of `images`, mixed in place, with targets (N, num_classes) in place of labels.

    `mixup` and `cutmix` are the alpha of each, 0 for none; if there are both, either is as likely for a batch. The
    chance of batch b is that of the numbers (*seeds, b), so that a run resumed at any batch sees the same.
    `label_smoothing` is as in `common.training.training_symbol`: SoftmaxOutput leaves targets as they are.
    """

    def __init__(self, images: mx.io.DataIter, mixup: float, cutmix: float, num_classes: int, label_smoothing: float,
                 seeds: Sequence[int], batch: int = 0) -> None:
        super().__init__(images.batch_size)
        self._images, self._num_classes = images, num_classes
        self._ways = [(way, alpha) for way, alpha in ((mixed_up, mixup), (cut_and_mixed, cutmix)) if alpha]
        off = label_smoothing / max(num_classes - 1, 1)
        self._values = dict(on_value=1 - label_smoothing, off_value=off)
        self._seeds, self._batch = seeds, batch
        self.provide_data = images.provide_data
        self.provide_label = self.label(images, num_classes)

    @staticmethod
    def label(images: mx.io.DataIter, num_classes: int) -> list:
        """What the targets for these images are named, and their shape."""
        (name, shape, *_), = images.provide_label
        return [mx.io.DataDesc(name, (shape[0], num_classes))]

    def next(self) -> mx.io.DataBatch:
        batch = self._images.next()
        rng = np.random.default_rng([*self._seeds, self._batch])
        self._batch += 1
        way, alpha = self._ways[rng.integers(len(self._ways)) if len(self._ways) > 1 else 0]
        targets = mx.nd.one_hot(batch.label[0], self._num_classes, **self._values)
        way(memory_of(batch.data[0]), memory_of(targets), alpha, rng)
        return mx.io.DataBatch(batch.data, [targets], pad=batch.pad)


def mixed_up(data: np.ndarray, targets: np.ndarray, alpha: float, rng: np.random.Generator) -> None:
    """Data x (N, ...) become l x + (1 - l) y, y the image before each, l from Beta(alpha, alpha); so do targets."""
    share = rng.beta(alpha, alpha)
    for array in (data, targets):
        _blend(array, share)


def cut_and_mixed(data: np.ndarray, targets: np.ndarray, alpha: float, rng: np.random.Generator) -> None:
    """One box of data (N, C, H, W) becomes that of the image before each. The box has its centre anywhere and, before
    the image cuts it, the area 1 - l, l from Beta(alpha, alpha); targets are weighed by the area that it has."""
    share = rng.beta(alpha, alpha)
    box = []
    for side in data.shape[2:]:
        centre, half = int(rng.integers(side)), int(0.5 * math.sqrt(1 - share) * side)
        box.append((max(centre - half, 0), min(centre + half, side)))
    (top, bottom), (left, right) = box
    area = (bottom - top) * (right - left) / math.prod(data.shape[2:])
    if not area:
        return

    def with_box(mine, other):
        mine[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    _with_the_one_before(data, with_box)
    _blend(targets, 1 - area)


def _blend(array, share):
    """Each x of an array becomes share x + (1 - share) y, y the one before it."""
    def blended(mine, other):
        mine *= share
        mine += (1 - share) * other
    _with_the_one_before(array, blended)


def _with_the_one_before(array, change):
    """change(x, the one before it) for each x of an array, in place and in the processor's cache. The last is the one
    before the first."""
    last = array[-1].copy()
    for i in reversed(range(len(array))):
        change(array[i], array[i - 1] if i else last)

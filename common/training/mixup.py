"""Mixup (Zhang et al., 2017) and CutMix (Yun et al., 2019): each image of a batch is mixed with another one, and so are
their labels."""
import math
from collections.abc import Sequence

import numpy as np

from common.find_mxnet import mx


class MixedIter(mx.io.DataIter):
    """The batches of `images`, mixed, with targets (N, num_classes) in place of labels.

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
        data, targets = way(batch.data[0], targets, alpha, rng)
        return mx.io.DataBatch([data], [targets], pad=batch.pad)


def mixed_up(data: mx.nd.NDArray, targets: mx.nd.NDArray, alpha: float, rng: np.random.Generator) -> tuple:
    """(data, targets): of data (N, ...) and a random order of it: l x + (1 - l) y, l from Beta(alpha, alpha)."""
    share, order = rng.beta(alpha, alpha), mx.nd.array(rng.permutation(len(data)))
    return _weighed(data, order, share), _weighed(targets, order, share)


def cut_and_mixed(data: mx.nd.NDArray, targets: mx.nd.NDArray, alpha: float, rng: np.random.Generator) -> tuple:
    """(data, targets): data (N, C, H, W), in which one box of all images is that of a random order of them. The box has
    its centre anywhere and, before the image cuts it, the area 1 - l, l from Beta(alpha, alpha); targets are weighed by
    the area that it has."""
    share, order = rng.beta(alpha, alpha), mx.nd.array(rng.permutation(len(data)))
    box = []
    for side in data.shape[2:]:
        centre, half = int(rng.integers(side)), int(0.5 * math.sqrt(1 - share) * side)
        box.append((max(centre - half, 0), min(centre + half, side)))
    (top, bottom), (left, right) = box
    area = (bottom - top) * (right - left)
    if not area:
        return data, targets
    mixed = data.copy()
    mixed[:, :, top:bottom, left:right] = data[:, :, top:bottom, left:right].take(order)
    return mixed, _weighed(targets, order, 1 - area / math.prod(data.shape[2:]))


def _weighed(array, order, share):
    mixed = array.take(order)  # changed in place: memory for a batch costs more than its arithmetic
    mixed *= 1 - share
    mixed += share * array
    return mixed

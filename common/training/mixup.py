"""Mixup (Zhang et al., 2017): each image of a batch is blended with another one, and so are their labels."""
from collections.abc import Sequence

import numpy as np

from common.find_mxnet import mx


class MixupIter(mx.io.DataIter):
    """The batches of `images`, mixed, with targets (N, num_classes) in place of labels.

    Of each batch x and a random order of it y: lambda x + (1 - lambda) y, lambda from Beta(alpha, alpha). The chance
    of batch b is that of the numbers (*seeds, b), so that a run resumed at any batch sees the same.
    `label_smoothing` is as in `common.training.training_symbol`: SoftmaxOutput leaves targets as they are.
    """

    def __init__(self, images: mx.io.DataIter, alpha: float, num_classes: int, label_smoothing: float,
                 seeds: Sequence[int], batch: int = 0) -> None:
        super().__init__(images.batch_size)
        self._images, self._alpha, self._num_classes = images, alpha, num_classes
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
        share, order = rng.beta(self._alpha, self._alpha), mx.nd.array(rng.permutation(self.batch_size))

        def mixed(array):
            return share * array + (1 - share) * array.take(order)
        targets = mx.nd.one_hot(batch.label[0], self._num_classes, **self._values)
        return mx.io.DataBatch([mixed(batch.data[0])], [mixed(targets)], pad=batch.pad)

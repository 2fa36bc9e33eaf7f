"""Training images from RecordIO by simplejpeg, libjpeg-turbo and OpenCV, in threads: several times as fast as
ImageRecordIter, and each image is augmented for itself."""
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from common.base.errors import ImageError, InputError
from common.data.augmentation import DRAWS, Augmentation
from common.data.jpeg_box import open_image
from common.data.memory import memory_of
from common.data.pixels import normalise
from common.data.random_erasing import erase
from common.find_mxnet import mx
from common.images.recordio import check_label, read_record, record_offsets, unpack_image

IMAGES_OF_A_TASK = 8


@lru_cache(maxsize=2)
def offsets_of(files: tuple[tuple[str, str], ...]) -> tuple[np.ndarray, np.ndarray]:
    """(where each record begins, the number of its file) of [(record file, its index or "")], in their order."""
    offsets = [record_offsets(*file) for file in files]
    return np.concatenate(offsets), np.repeat(np.arange(len(files)), [len(found) for found in offsets])


def epoch_order(records: int, wanted: int, seed: int, epoch: int) -> np.ndarray:
    """Numbers of the `wanted` records of an epoch of all workers, in random order; none again before all were."""
    passes = range(-(-wanted // records))
    return np.concatenate([np.random.default_rng((seed, epoch, again)).permutation(records)
                           for again in passes])[:wanted]


class TrainingImages(mx.io.DataIter):
    """Batches of the records `numbers`, counted over `files`, [(record file, its index or "")]: random crops, float32
    (batch_size, 3, height, width), RGB, less `mean`, over `std`.

    Batch b, counted from 0 in the epoch, draws from np.random.default_rng((*key, b)): neither the number of threads nor
    the batch an epoch is entered at, `first`, changes an image. `threads` of them prepare the next batches; at most
    `ahead` + 1 are in memory. Raises InputError at the record that is not an image of one of the classes.
    """

    to_read_over = 0

    def __init__(self, files: tuple[tuple[str, str], ...], numbers: np.ndarray, batch_size: int,
                 augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], num_classes: int,
                 threads: int | None, key: Sequence[int], first: int = 0) -> None:
        super().__init__(batch_size)
        self._offsets, self._file_of = offsets_of(files)
        self._numbers = numbers.reshape(-1, batch_size)
        self._augmentation, self._mean, self._std = augmentation, mean, std
        self._num_classes, self._key = num_classes, key
        shape = (batch_size, 3, augmentation.height, augmentation.width)
        self.provide_data = [mx.io.DataDesc("data", shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", (batch_size,))]
        self._files = [open(rec, "rb", buffering=0) for rec, _ in files]  # noqa: SIM115 - read as long as this lives
        self._sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._pool = ThreadPoolExecutor(threads)
        self.ahead = 1 + -(-2 * threads * IMAGES_OF_A_TASK // batch_size)  # two tasks for each thread wait
        self._batches, self._begun = iter(range(first, len(self._numbers))), deque()

    def next(self) -> mx.io.DataBatch:
        while len(self._begun) < self.ahead and (batch := next(self._batches, None)) is not None:
            self._begun.append(self._begin(batch))
        if not self._begun:
            self._pool.shutdown()
            raise StopIteration
        (data, label), tasks = self._begun.popleft()
        try:
            for task in tasks:
                task.result()
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            raise
        return mx.io.DataBatch([data], [label], pad=0)

    def _begin(self, batch):
        """((data, labels), tasks that write them) of a batch."""
        arrays = [mx.nd.empty(desc.shape) for desc in (*self.provide_data, *self.provide_label)]
        data, labels = map(memory_of, arrays)
        rng = np.random.default_rng((*self._key, batch))
        # those of ImageRecordIter's options first: the crops are the same with others and without
        draws = np.hstack([rng.random((self.batch_size, count)) for count in (DRAWS, self._augmentation.more_draws)])
        return arrays, [
            self._pool.submit(self._prepare, self._numbers[batch, part], draws[part], data[part], labels[part])
            for part in (slice(at, at + IMAGES_OF_A_TASK) for at in range(0, self.batch_size, IMAGES_OF_A_TASK))]

    def _prepare(self, numbers, draws, data, labels):
        for i, number in enumerate(numbers.tolist()):
            file = self._file_of[number]
            try:
                record, _ = read_record(self._files[file].fileno(), self._sizes[file], int(self._offsets[number]))
                _, labels[i], content = unpack_image(record)
                check_label(float(labels[i]), self._num_classes)
                draw = iter(draws[i].tolist()).__next__
                crop = self._augmentation(open_image(content), draw)
            except ValueError as error:  # InputError among them
                at = f"{self._files[file].name}: record {number - int(np.searchsorted(self._file_of, file))}"
                raise InputError(f"{at}{':' * isinstance(error, ImageError)} {error}") from None
            normalise(crop, self._mean, self._std, data[i])
            if self._augmentation.random_erase:
                erase(data[i], self._augmentation.random_erase, draw)

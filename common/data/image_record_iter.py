"""ImageRecordIter, MXNet's own reader of training images, made exact for a seed, and bounded in memory."""
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.base.errors import InputError, last_line
from common.find_mxnet import mx
from common.images.recordio import check_label

# with seed_aug, without which several threads give other images each time, it augments the images at the same place of
# all its batches alike: small batches are read many at a time
IMAGES_AT_A_TIME = 256


def images_at_a_time(batch_size: int, batches: int, images: int) -> int:
    """The size of the batches that batches of `batch_size` are cut from, of which an epoch has `batches`; `images`:
    those there are."""
    return max(min(IMAGES_AT_A_TIME // batch_size, batches, images // batch_size), 1) * batch_size


def image_record_iter(**options: Any) -> mx.io.DataIter:
    """ImageRecordIter, which looks at every file beside the records, and fails if one is renamed meanwhile, as
    another worker's checkpoint is: it is then made again."""
    for _ in range(20):
        try:
            return mx.io.ImageRecordIter(**options)
        except mx.base.MXNetError as error:
            if "GetPathInfo" not in str(error) or not os.path.exists(options["path_imgrec"]):
                raise
            time.sleep(0.05)
    return mx.io.ImageRecordIter(**options)


class CutBatches(mx.io.DataIter):
    """`batches` batches of `batch_size`, cut from the larger ones of `images`, which reads `source`, from its beginning
    again when it ends; what is wrong with one of them is an InputError. A batch holds until the next one is asked for.
    The `to_read_over` first ones are not wanted, but can only be read.
    """

    def __init__(self, images: mx.io.DataIter, batches: int, batch_size: int, num_classes: int, source: str | Path,
                 to_read_over: int = 0) -> None:
        super().__init__(batch_size)
        self.to_read_over = to_read_over
        self._images, self._num_classes, self._source = images, num_classes, source
        self._batches = self._cut(batches)
        self.provide_data, self.provide_label = ([mx.io.DataDesc(desc.name, (batch_size, *desc.shape[1:]))
                                                  for desc in descs]
                                                 for descs in (images.provide_data, images.provide_label))

    def next(self) -> mx.io.DataBatch:
        return next(self._batches)

    def _cut(self, batches):
        left, begun_again = batches, False
        while left:
            with reading(self._source):
                try:
                    read = self._images.next()
                except StopIteration:
                    begun_again = True
                    self._images.reset()
                    read = self._images.next()
            for label in read.label[0].asnumpy():
                self._check(label)
            for first in range(0, min(self._images.batch_size, left * self.batch_size), self.batch_size):
                left -= 1
                part = slice(first, first + self.batch_size)
                yield mx.io.DataBatch([read.data[0][part]], [read.label[0][part]], pad=0)
        # ImageRecordIter frees the batch it gave last at its end alone, which is near unless it began again
        if not begun_again:
            with suppress(mx.base.MXNetError):
                for _ in self._images:
                    pass

    def _check(self, label):
        try:
            check_label(label, self._num_classes)
        except InputError as error:
            raise InputError(f"{self._source}: a record {error}") from None


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Within this block an error of MXNet's is an InputError that names the file it reads."""
    try:
        yield
    except mx.base.MXNetError as error:
        raise InputError(f"{source}: MXNet cannot read an image, or not with these options: {last_line(error)}") \
            from None

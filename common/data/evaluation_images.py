"""The images of a RecordIO file as evaluation sees them: every one once, in order, prepared as for deployment."""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.find_mxnet import mx
from common.preprocess import decode, preprocess
from common.preprocessing_file import Preprocessing
from common.recordio import check_label, check_records, read_records, unpack_image


class EvaluationIter(mx.io.DataIter):
    """Batches of `common.preprocess.preprocess`ed images; `pad` of the last batch says how many places are empty,
    `index` the images' numbers in the file, from 0.

    For 256 : 224 the numbers are those of ImageRecordIter(resize=256, inter_method=3), which cannot be used for this:
    it skips in the next pass the images it borrowed to fill the last batch, cannot have batches of more than twice the
    images, and ends the process without a word on an image that it cannot decode. The next batch is decoded, by
    `threads` threads, while the network computes.

    Of `parts` workers, number `part` (from 0) has the records part, part + parts, part + 2 * parts, ...; the last ones
    may have one fewer, or none. `num_images` is how many they are, None where no index tells.

    Raises InputError for a file that is not whole, and at the record that is not an image of one of the classes.
    """

    def __init__(self, rec: str | Path, idx: str | Path, batch_size: int, image_shape: Sequence[int],
                 preprocessing: Preprocessing, num_classes: int, threads: int | None, part: int = 0,
                 parts: int = 1) -> None:
        if not 0 <= part < parts:
            raise ValueError(f"part {part} of {parts}")
        super().__init__(batch_size)
        _, records = check_records(rec, idx)
        self.num_images = None if records is None else len(range(part, records, parts))
        self._rec, self._num_classes, self._part, self._parts = rec, num_classes, part, parts
        self._image_shape, self._preprocessing = image_shape, preprocessing
        self._pool = ThreadPoolExecutor(threads)
        self.provide_data = [mx.io.DataDesc("data", (batch_size, *image_shape))]
        self.provide_label = [mx.io.DataDesc("softmax_label", (batch_size,))]
        self.reset()

    def reset(self) -> None:
        self._records = islice(enumerate(read_records(self._rec)), self._part, None, self._parts)
        self._pending = None  # until a pass begins

    def next(self) -> mx.io.DataBatch:
        if self._pending is None:
            self._pending = self._decode_next_batch()
        if not self._pending:
            raise StopIteration
        images = [future.result() for future in self._pending]
        numbers = np.array([number for number, _, _ in images])
        self._pending = self._decode_next_batch()
        data = np.zeros((self.batch_size, *self._image_shape), np.float32)
        labels = np.zeros(self.batch_size, np.float32)
        for i, (_, label, image) in enumerate(images):
            data[i], labels[i] = image, label
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(labels)], pad=self.batch_size - len(images),
                               index=numbers)

    def _decode_next_batch(self):
        return [self._pool.submit(self._decode, number, record)
                for number, (_, record) in islice(self._records, self.batch_size)]

    def _decode(self, number, record):
        """(number, label, prepared image (1, 3, H, W)) of a record, counted from 0."""
        try:
            _, label, content = unpack_image(record)
            check_label(label, self._num_classes)
            # not turned as EXIF says: nor does ImageRecordIter in training, and packing has done it
            image = decode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is None:
                raise InputError("is not an image, or a damaged one")
            return number, label, preprocess(image, self._image_shape, self._preprocessing)
        except InputError as error:
            raise InputError(f"{self._rec}: record {number} {error}") from None

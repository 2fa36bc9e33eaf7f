"""The images of a RecordIO file as evaluation sees them: every one once, in order, prepared as for deployment."""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from common.base.errors import ImageError
from common.checkpoint.preprocessing import Preprocessing
from common.data.heads import check_heads
from common.find_mxnet import mx
from common.images.decoding import decode
from common.images.preprocess import preprocess
from common.images.recordio import check_label, check_records, read_files, record_files, record_named, unpack_image


class EvaluationIter(mx.io.DataIter):
    """Batches of images, prepared by `common.images.preprocess`; `pad` of the last batch says how many places are
    empty, `index` the images' numbers, from 0, in `rec` and `idx`, as `common.images.recordio.record_files` takes them.

    For 256 : 224 the numbers of images that are not enlarged are those of ImageRecordIter(resize=256, inter_method=3),
    which cannot be used for this: it skips in the next pass the images it borrowed to fill the last batch, cannot have
    batches of more than twice the images, and ends the process without a word on an image that it cannot decode. The
    next batch is decoded, by `threads` threads, while the network computes.

    Of `parts` workers, number `part` (from 0) has the records part, part + parts, part + 2 * parts, ...; the last ones
    may have one fewer, or none. `num_images` is how many they are, None if no index tells.

    Raises InputError for a file that is incomplete, and at the record that is not an image of one of the classes. With
    `skip_damaged` those that cannot be decoded are left out of the batches; `skipped` is how many, in a pass so far.
    """

    def __init__(self, rec: str | Path, idx: str, batch_size: int, image_shape: Sequence[int],
                 preprocessing: Preprocessing, num_classes: int, threads: int | None, part: int = 0,
                 parts: int = 1, skip_damaged: bool = False) -> None:
        if not 0 <= part < parts:
            raise ValueError(f"part {part} of {parts}")
        super().__init__(batch_size)
        self._files = record_files(str(rec), idx)
        counts = [check_records(*file)[1] for file in self._files]
        self.num_images = None if None in counts else len(range(part, sum(counts), parts))
        self._num_classes, self._part, self._parts = num_classes, part, parts
        self._image_shape, self._preprocessing, self._skip_damaged = image_shape, preprocessing, skip_damaged
        self._pool = ThreadPoolExecutor(threads)
        self.provide_data = [mx.io.DataDesc("data", (batch_size, *image_shape))]
        self.provide_label = [mx.io.DataDesc("softmax_label", (batch_size,))]
        self.reset()

    def __str__(self) -> str:
        return ", ".join(rec for rec, _ in self._files)

    def check(self, decode: bool) -> None:
        """Raise InputError for a label that is no class's, or an image that is refused for its header. With `decode`
        for all that a pass raises it for; `skipped` then says how many images it leaves out."""
        check_heads(self._files, self._num_classes, self._part, self._parts, self._skip_damaged)
        if decode:
            self.reset()
            for _ in self:
                pass

    def reset(self) -> None:
        self.skipped = 0
        self._batches = self._pass()

    def next(self) -> mx.io.DataBatch:
        return next(self._batches)

    def _pass(self):
        """The batches; while one is used the next one is decoded."""
        records = islice(enumerate(read_files(self._files)), self._part, None, self._parts)
        begun = self._begin(records)
        while begun:
            decoded = [task.result() for task in begun]
            begun = self._begin(records)
            images = [image for image in decoded if image is not None]
            self.skipped += len(decoded) - len(images)
            if images:
                yield self._batch(images)

    def _begin(self, records):
        return [self._pool.submit(self._decode, number, *place, record)
                for number, (*place, _, record) in islice(records, self.batch_size)]

    def _batch(self, images):
        data = np.zeros((self.batch_size, *self._image_shape), np.float32)
        labels = np.zeros(self.batch_size, np.float32)
        for i, (_, label, image) in enumerate(images):
            data[i], labels[i] = image, label
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(labels)], pad=self.batch_size - len(images),
                               index=np.array([number for number, _, _ in images]))

    def _decode(self, number, rec, number_in_file, record):
        """(number, label, prepared image (1, 3, H, W)) of a record, counted from 0; None for one to leave out."""
        try:
            with record_named(rec, number_in_file):
                _, label, content = unpack_image(record)
                check_label(label, self._num_classes)
                # not turned as EXIF says: nor does ImageRecordIter in training, and packing has done it
                image = decode(content, upright=False)
                return number, label, preprocess(image, self._image_shape, self._preprocessing)
        except ImageError:
            if self._skip_damaged:
                return None
            raise

"""Many images through a network: read and decoded in parallel with it, answered in the order they come, into a table.

What is in memory does not grow with the number of images: a few batches, and the names in the folder that is walked.
"""
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from common.base.errors import InputError, last_line, printable
from common.base.files import listed, read_bytes
from common.base.machine import usable_processors
from common.checkpoint.preprocessing import Preprocessing
from common.evaluation.answers import check_finite, top_answers
from common.images.decoding import MAX_BYTES, decode
from common.images.preprocess import USUAL, one_opencv_thread, preprocess
from common.inference.tables import TOP

# the last four cannot be read, which is reported
SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2",
                      ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif", ".ico"))
AHEAD = 2  # batches that are decoded while the network computes one: images differ in size


class Answer(NamedTuple):
    """To an image: probabilities (classes,), float32, or the reason why it cannot be read."""
    path: str
    probabilities: np.ndarray | None
    error: str | None


def images_in(paths: Iterable[str]) -> Iterator[str]:
    """The files among `paths` as they are, and the files with the suffix of an image in the folders among them.

    Folders are walked depth first, sorted by name. Names that begin with a dot and links to folders are left out.

    Raises InputError for a folder that cannot be read.
    """
    for path in map(str, paths):
        if os.path.isdir(path):
            yield from _images_below(path)
        else:
            yield path


def _images_below(folder):
    for entry in listed(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _images_below(entry.path)
        elif Path(entry.name).suffix.lower() in SUFFIXES and (entry.is_file() or not os.path.exists(entry.path)):
            yield entry.path  # links that lead nowhere too: who reads them reports that


def classify_images(paths: Iterable[str], predict: Callable, data_shape: Sequence[int],
                    preprocessing: Preprocessing = USUAL, threads: int | None = None) -> Generator[Answer, None, None]:
    """An Answer to each image of `paths`, in order.

    `predict(data)`: float32 of `data_shape` (N, 3, H, W) in, probabilities (N, classes) out. It is always given N
    images; what stands in places that are left over, or belong to images that cannot be read, does not matter.
    `threads` decode (default: usable_processors()) the batches after the one that it computes.
    Raises InputError if the output is not finite.
    """
    batch_size, image_shape = data_shape[0], data_shape[1:]
    buffers = deque(np.zeros(data_shape, np.float32) for _ in range(1 + AHEAD))
    paths, decoding = iter(paths), deque()
    pool = ThreadPoolExecutor(threads or usable_processors(), "decode")
    with one_opencv_thread():
        try:
            while True:
                while buffers and (batch := list(islice(paths, batch_size))):
                    data = buffers.popleft()
                    decoding.append((batch, data, [pool.submit(_fill, place, path, image_shape, preprocessing)
                                                   for place, path in zip(data, batch)]))
                if not decoding:
                    return
                batch, data, reasons = decoding.popleft()
                reasons = [reason.result() for reason in reasons]
                yield from _answers(batch, reasons, predict(data))
                buffers.append(data)
        finally:
            pool.shutdown(cancel_futures=True)


def _fill(place, path, image_shape, preprocessing):
    """Prepare an image in its place of a batch; returns the reason why that is not possible, or None."""
    try:
        content = read_bytes(path, MAX_BYTES)
        place[:] = preprocess(decode(content, upright=True), image_shape, preprocessing)[0]
    except OSError as error:
        return error.strerror or last_line(error)
    except (InputError, cv2.error, MemoryError) as error:
        return last_line(error).removeprefix(f"{path}: ")
    return None


def _answers(batch, reasons, probabilities):
    for path, reason, row in zip(batch, reasons, probabilities):
        if reason is None:
            check_finite(path, row)
        yield Answer(path, row if reason is None else None, reason)


class Done(NamedTuple):
    classified: int
    broken: int
    seconds: float

    def __str__(self) -> str:
        return (f"{self.classified} images in {self.seconds:.1f} s, {self.classified / self.seconds:.1f} images/s"
                + (f"; {self.broken} could not be read" if self.broken else ""))


def tabulate(images: Iterable, total: int, write: Callable, names: Sequence[str], bar: bool = True,
             **network: Any) -> Done:
    """Classify `images`, of which there are `total`, and `write(path, top, error)` each, as `answers_table` does.

    `names`: of the classes. `network`: the further arguments of `classify_images`. `bar`: whether to show a progress
    bar if standard error is a terminal, as it should not beside a table that is written to the same terminal.
    """
    counts = {"classified": 0, "broken": 0}
    start = time.perf_counter()
    with closing(classify_images(images, **network)) as answers, \
            tqdm(total=total, unit=" images", dynamic_ncols=True, disable=None if bar else True) as shown:
        for path, probabilities, error in answers:
            counts["classified" if error is None else "broken"] += 1
            if error is None:
                top = top_answers(probabilities, TOP)
                write(path, [(int(label), names[label], probabilities[label]) for label in top], None)
            else:
                tqdm.write(f"{printable(path)}: passed over: {error}", file=sys.stderr)
                write(path, [], error)
            shown.update()
    return Done(**counts, seconds=time.perf_counter() - start)

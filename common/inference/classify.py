"""Many images through a network: read and decoded in parallel with it, answered in the order they come.

What is in memory does not grow with the number of images: a few batches, and the names in the folder that is walked.
"""
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.base.errors import InputError, last_line
from common.base.files import listed, read_bytes
from common.base.machine import usable_processors
from common.checkpoint.preprocessing import Preprocessing
from common.evaluation.answers import check_finite
from common.images.decoding import MAX_BYTES, decode
from common.images.preprocess import USUAL, one_opencv_thread, preprocess

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2",
                      ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif", ".ico"))  # the last four to be told of
AHEAD = 2  # batches that are decoded while the network computes one: images differ in size


class Answer(NamedTuple):
    """Of an image: probabilities (classes,), float32, or the reason why it cannot be read."""
    path: str
    probabilities: np.ndarray | None
    error: str | None


def images_in(paths: Iterable[str]) -> Iterator[str]:
    """The files among `paths` as they are, and those with the suffix of an image in the folders among them, which are
    walked depth first, sorted by name, without what begins with a dot and without following links to folders.

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
            yield entry.path  # links that lead nowhere too, for whoever reads them to tell of


def classify_images(paths: Iterable[str], predict: Callable, data_shape: Sequence[int],
                    preprocessing: Preprocessing = USUAL, threads: int | None = None) -> Generator[Answer, None, None]:
    """An Answer to each image of `paths`, in order.

    `predict(data)`: float32 of `data_shape` (N, 3, H, W) in, probabilities (N, classes) out. It is always given N
    images; what stands in the places that are left over, and in those of images that cannot be read, does not matter.
    `threads` decode (default: usable_processors()) the batches after the one that it computes.
    Raises InputError where the output is not finite.
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

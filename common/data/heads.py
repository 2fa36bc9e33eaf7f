"""What the heads of RecordIO files' images tell: what is wrong with them, before it is hours into a run; how many there
are of each class."""
from collections.abc import Sequence
from itertools import islice

import numpy as np

from common.base.errors import ImageError
from common.images.decoding import image_size
from common.images.recordio import (
    HEAD,
    IMAGE_HEADER,
    check_label,
    read_files,
    read_records,
    record_named,
    unpack_image,
)


def check_heads(files: Sequence[tuple[str, str]], num_classes: int, part: int = 0, parts: int = 1,
                skip_damaged: bool = False) -> None:
    """Raise InputError for the first record of `files`, as `common.images.recordio.record_files` gives them, whose
    label is no class's or, unless `skip_damaged`, whose image is refused for what its header claims. Of `parts`
    workers, number `part` looks at the records part, part + parts, ..."""
    for rec, number, offset, head in islice(read_files(files, HEAD), part, None, parts):
        with record_named(rec, number):
            _, label, content = unpack_image(head)
            check_label(label, num_classes)
            if skip_damaged:
                continue
            try:
                image_size(content)
            except ImageError:  # not if the header is longer than what was read
                image_size(unpack_image(next(read_records(rec, offset))[1])[2])


def class_counts(files: Sequence[tuple[str, str]], num_classes: int) -> np.ndarray:
    """(num_classes,): how many records of `files`, as for `check_heads`, have each label. Raises InputError for a label
    that is no class's."""
    counts = np.zeros(num_classes, np.int64)
    for rec, number, _, head in read_files(files, IMAGE_HEADER.size + 4):  # 4: where a flag says that labels follow
        with record_named(rec, number):
            _, label, _ = unpack_image(head)
            check_label(label, num_classes)
        counts[int(label)] += 1
    return counts

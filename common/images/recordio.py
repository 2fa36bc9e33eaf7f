"""RecordIO files of images: their records written and read, and checked before MXNet reads them.

MXNet's own reader ends the process on a truncated file, so `check_records` looks first.
"""
import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.base.errors import ImageError, InputError
from common.base.files import check_regular, listed

MAGIC = struct.pack("<I", 0xCED7230A)
WHOLE, FIRST, MIDDLE, LAST = range(4)  # kinds of parts of a record (dmlc-core, include/dmlc/recordio.h)
NUMBER_AT = 16  # in a record: after the magic number, the length, the flag and the label
HEAD = 4096  # bytes of a payload that hold the label and, mostly, the size of an image
IMAGE_HEADER = struct.Struct("<IfQQ")  # flag: 0 for one label; label; number; 0 (MXNet, python/mxnet/recordio.py)


def image_record(label: float, number: int, encoded: bytes) -> bytearray:
    """An encoded image as MXNet's MXIndexedRecordIO.write_idx(number, pack(IRHeader(0, label, number, 0), encoded))
    writes it."""
    return _framed(IMAGE_HEADER.pack(0, label, number, 0) + encoded)


def set_number(record: bytearray, number: int) -> None:
    """Give a record of `image_record` another number."""
    struct.pack_into("<Q", record, NUMBER_AT, number)


def _framed(payload):
    """A record: its length, the payload, zeros to a multiple of four bytes. Where the payload holds the magic number at
    such a multiple, it is cut there into parts, and the number left out."""
    words = np.frombuffer(payload, "<u4", len(payload) // 4)
    cuts = [4 * int(word) for word in np.flatnonzero(words == struct.unpack("<I", MAGIC)[0])]
    kinds = (FIRST, *[MIDDLE] * (len(cuts) - 1), LAST) if cuts else (WHOLE,)
    pieces = []
    for kind, start, end in zip(kinds, (0, *(cut + 4 for cut in cuts)), (*cuts, len(payload))):
        pieces += [MAGIC, struct.pack("<I", kind << 29 | end - start), payload[start:end]]
    return bytearray().join([*pieces, bytes(-len(payload) % 4)])


def read_records(rec: str | Path, at: int = 0, head: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(offset, payload) of each record of a file from the one at byte `at`; of a payload no more than `head` bytes.

    Raises InputError if there is something else.
    """
    with open(rec, "rb", buffering=0) as file:
        size, number = os.fstat(file.fileno()).st_size, 0
        if head:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while at < size:
            try:
                payload, end = read_record(file.fileno(), size, at, head)
            except ValueError:
                raise InputError(f"{rec}: damaged at byte {at}, after {number} records; copy or pack it again"
                                 if at else f"{rec}: not a RecordIO file") from None
            yield at, payload
            at, number = end, number + 1


def read_files(files: Iterable[tuple[str, str]], head: int | None = None) -> Iterator[tuple[str, int, int, bytes]]:
    """(file, number in it, offset, payload) of each record of `record_files`, one file after the other."""
    for rec, _ in files:
        for number, (offset, payload) in enumerate(read_records(rec, head=head)):
            yield rec, number, offset, payload


def read_record(descriptor: int, size: int, at: int, head: int | None = None) -> tuple:
    """(payload, where the next record begins) of the record at byte `at` of an open file of `size` bytes; of the
    payload no more than `head` bytes. Raises ValueError if there is none."""
    parts: list[bytes] = []
    kind, held = None, 0
    while kind not in (WHOLE, LAST):
        framing = os.pread(descriptor, 8, at)
        expected = (WHOLE, FIRST) if kind is None else (MIDDLE, LAST)
        word, = struct.unpack("<4xI", framing) if len(framing) == 8 else (-1,)
        kind, length = word >> 29, word & (1 << 29) - 1
        padded = length + (-length % 4)
        if framing[:4] != MAGIC or kind not in expected or at + 8 + padded > size:
            raise ValueError(f"cannot be read: there is none at byte {at}")
        if head is None or held < head:
            wanted = length if head is None else min(length, head - held)
            parts.append(os.pread(descriptor, wanted, at + 8))
            held += wanted + len(MAGIC)
        at += 8 + padded
    return MAGIC.join(parts), at


def unpack_image(payload: bytes) -> tuple[int, float, bytes]:
    """(number, label, encoded image) of a record with one label. Raises InputError, without a subject, for others."""
    if len(payload) < IMAGE_HEADER.size:
        raise InputError("is not one of images")
    labels, label, number, _ = IMAGE_HEADER.unpack_from(payload)
    if labels > 1 or labels and len(payload) < IMAGE_HEADER.size + 4 * labels:
        raise InputError(f"has {labels} labels instead of one")
    if labels:
        label, = struct.unpack_from("<f", payload, IMAGE_HEADER.size)
    return number, label, payload[IMAGE_HEADER.size + 4 * labels:]


def check_label(label: float, num_classes: int) -> None:
    """Raise InputError, without a subject, unless the label of a record is the number of a class."""
    if not (0 <= label < num_classes and label == int(label)):
        raise InputError(f"has label {label:g}, but the network's classes are 0 to {num_classes - 1}: these are not "
                         "its images, or --num-classes is wrong")


@contextmanager
def record_named(rec: str | Path, number: int) -> Iterator[None]:
    """An InputError of `unpack_image` or `check_label`, or an ImageError, in this block names its record."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{rec}: record {number}: {error}") from None
    except InputError as error:
        raise InputError(f"{rec}: record {number} {error}") from None


def record_offsets(rec: str | Path, idx: str | Path = "") -> np.ndarray:
    """Where each record of a file begins, in its order: as the index says; without one the file is read
    through."""
    if not idx:
        return np.fromiter((at for at, _ in read_records(rec, head=1)), np.int64)
    return np.sort(_read_index(idx))


def record_files(given: str, given_idx: str = "") -> list[tuple[str, str]]:
    """[(record file, its index or "")] that a flag names: a file, several with commas between, or a folder
    with the parts of one set, which are taken in the order of their names.

    Raises InputError for a folder without record files or with those of several sets, such as train and val, and if
    there are not as many indices as files.
    """
    if os.path.isdir(given):
        files = [entry.path for entry in listed(given) if entry.name.endswith(".rec")]
        sets = sorted({re.sub(r"[-_.]*\d.*", "", Path(file).stem) for file in files})
        if not files:
            raise InputError(f"{given}: no .rec files in it")
        if len(sets) > 1:
            raise InputError(f"{given}: holds the records of several sets ({', '.join(sets)}); name files, with commas "
                             "between")
    else:
        files = [given] if os.path.exists(given) else given.split(",")
    indices = given_idx.split(",") if given_idx and len(files) > 1 else [given_idx] * len(files)
    if len(indices) != len(files):
        raise InputError(f"{given_idx}: {len(indices)} indices for {len(files)} record files; give one for each, with "
                         "commas between")
    return list(zip(files, indices))


def files_of(given: str | None, given_idx: str = "") -> list[str]:
    """All files that may be read for what `record_files` takes, whether they exist or not; none for None."""
    return [file for rec, idx in (record_files(given, given_idx) if given else ())
            for file in (rec, idx or str(Path(rec).with_suffix(".idx")), list_file(rec))]


def list_file(rec: str | Path) -> str:
    """The .lst file beside records, which says what each was made from."""
    return str(Path(rec).with_suffix(".lst"))


def folder_of(given: str) -> Path:
    """The folder of the (first of the) record files that `record_files` takes."""
    return Path(given) if os.path.isdir(given) else Path(record_files(given)[0][0]).parent


def check_records(rec: str | Path, idx: str | Path = "") -> tuple:
    """(index, number of records) of a complete RecordIO file: "" and None if there is no index.

    `idx` is its index; if it is empty, the one beside `rec` is taken, if there is one. Raises InputError for files that
    are missing, truncated or do not belong together. Of a file of any size only the first and last record are read.
    """
    if not Path(rec).name:
        raise InputError(f"{str(rec)!r}: not the name of a RecordIO file")
    check_regular(rec)
    beside = Path(rec).with_suffix(".idx")
    idx = idx or (str(beside) if beside.exists() else "")
    try:
        with open(rec, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise InputError(f"{rec}: empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content[:4] != MAGIC:
                    raise InputError(f"{rec}: not a RecordIO file")
                if size % 4 or _end_of_part(content, _last_aligned(content, MAGIC)) != size:
                    raise InputError(f"{rec}: truncated (its last record is not complete); copy or pack it again")
                return idx, _check_index(idx, rec, content) if idx else None
    except OSError as error:
        raise InputError(f"{rec}: {error.strerror}") from None


def _read_index(idx):
    """Where each record begins, int64, in the order of the index: numbers and offsets with white space between them, as
    MXNet's ImageRecordIter reads it."""
    check_regular(idx)
    try:
        with open(idx, encoding="ascii") as file:
            return np.fromiter((int(line.split()[1]) for line in file if not line.isspace()), np.int64)
    except OSError as error:
        raise InputError(f"{idx}: {error.strerror}") from None
    except (ValueError, IndexError, OverflowError):
        raise InputError(f"{idx}: not an index of a RecordIO file") from None


def _last_aligned(content, magic):
    """Start of the last part of a record: the magic number occurs nowhere else at a multiple of four bytes."""
    at = content.rfind(magic)
    while at % 4:
        at = content.rfind(magic, 0, at + len(magic) - 1)
    return at


def _end_of_part(content, start, kinds=(WHOLE, LAST)):
    """Where the part of a record at `start` ends; None if it is not one of these kinds of parts."""
    if content[start:start + 4] != MAGIC or start + 8 > len(content):
        return None
    word, = struct.unpack_from("<I", content, start + 4)
    kind, length = word >> 29, word & (1 << 29) - 1
    return start + 8 + (length + 3 & ~3) if kind in kinds else None


def _check_index(idx, rec, content):
    """Number of records that the index lists. Raises InputError if one is listed twice, or the last one does not end at
    the end of `rec`."""
    offsets = _read_index(idx)
    if len(offsets) and not (offsets % 4).any() and offsets.min() >= 0 and offsets.max() < len(content) \
            and len(np.unique(offsets)) == len(offsets):
        at = int(offsets.max())
        while (following := _end_of_part(content, at, kinds=(FIRST, MIDDLE))) is not None:
            at = following
        if _end_of_part(content, at) == len(content):
            return len(offsets)
    raise InputError(f"{idx}: does not list the records of {rec}; the two do not belong together, or one of them "
                     "is not a complete copy")

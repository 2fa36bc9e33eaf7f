"""RecordIO files of images: packed from folders, and checked before MXNet reads them.

MXNet's own reader ends the whole process on a truncated file, so `check_records` looks first.
"""
import mmap
import os
import random
import struct
from contextlib import ExitStack
from pathlib import Path

from common.errors import InputError
from common.files import written_atomically
from common.preprocess import read_image, resize_shorter_side

MAGIC = struct.pack("<I", 0xCED7230A)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def pack_folder(folder, prefix, short_side=480, quality=95, shuffle_seed=None) -> int:
    """Pack `folder/<class>/*` into PREFIX.rec, .idx and .lst; returns the number of images.

    Classes are numbered in the order of their folders' names. Images are reduced to `short_side` pixels on their
    shorter side (never enlarged) and stored as JPEG of `quality`, in the order of a shuffle by `shuffle_seed`, or
    sorted where it is None. Raises InputError for an image that cannot be read, and leaves no file behind.
    """
    from common.find_mxnet import mx

    items = _list_images(Path(folder))
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(items)
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        lst, idx, rec = (files.enter_context(written_atomically(f"{prefix}.{kind}")) for kind in ("lst", "idx", "rec"))
        with open(lst, "w", encoding="utf-8") as file:
            file.writelines(f"{i}\t{label:f}\t{path.relative_to(folder)}\n" for i, (path, label) in enumerate(items))
        records = mx.recordio.MXIndexedRecordIO(idx, rec, "w")
        for i, (path, label) in enumerate(items):
            image = read_image(path)
            if min(image.shape[:2]) > short_side:
                image = resize_shorter_side(image, short_side)
            header = mx.recordio.IRHeader(0, float(label), i, 0)
            records.write_idx(i, mx.recordio.pack_img(header, image, quality=quality, img_fmt=".jpg"))
        records.close()
        check_records(rec, idx)  # MXNet does not say that a disk was full
    return len(items)


def _list_images(folder):
    try:
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    items = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).iterdir())
             if path.suffix.lower() in IMAGE_SUFFIXES]
    if not items:
        raise InputError(f"{folder}: no images in folders of classes ({folder}/<class>/*.jpg)")
    return items


def check_records(rec, idx="") -> tuple:
    """(index, number of records) of a RecordIO file that is whole: "" and None where there is no index.

    `idx` is its index; where it is empty, the one beside `rec` is taken, if there is one. Raises InputError for files
    that are missing, truncated or do not belong together. Reads the first and the last record only, whatever the size.
    """
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
                    raise InputError(f"{rec}: truncated (its last record is not whole); copy or pack it again")
                return idx, _check_index(idx, rec, content) if idx else None
    except OSError as error:
        raise InputError(f"{rec}: {error.strerror}") from None


def _last_aligned(content, magic):
    """Start of the last part of a record: the magic number occurs nowhere else at a multiple of four bytes."""
    at = content.rfind(magic)
    while at % 4:
        at = content.rfind(magic, 0, at + len(magic) - 1)
    return at


def _end_of_part(content, start, kinds=(0, 3)):
    """Where the part of a record at `start` ends (dmlc-core, include/dmlc/recordio.h); None if it is not one of these
    kinds of parts: 0 is a whole record, 1, 2 and 3 are the first, a middle and the last part of one."""
    if content[start:start + 4] != MAGIC or start + 8 > len(content):
        return None
    word, = struct.unpack_from("<I", content, start + 4)
    kind, length = word >> 29, word & (1 << 29) - 1
    return start + 8 + (length + 3 & ~3) if kind in kinds else None


def _check_index(idx, rec, content):
    """Number of records that the index lists: all of them, as far as its last one ends where `rec` ends."""
    try:
        with open(idx, encoding="ascii") as file:
            offsets = [int(line.split("\t")[1]) for line in file]
    except OSError as error:
        raise InputError(f"{idx}: {error.strerror}") from None
    except (ValueError, IndexError):
        raise InputError(f"{idx}: not an index of a RecordIO file") from None
    if offsets and all(0 <= offset < len(content) and offset % 4 == 0 for offset in offsets):
        at = max(offsets)
        while (following := _end_of_part(content, at, kinds=(1, 2))) is not None:
            at = following
        if _end_of_part(content, at) == len(content):
            return len(offsets)
    raise InputError(f"{idx}: does not list the records of {rec}; the two do not belong together, or one of them was "
                     "not copied whole")

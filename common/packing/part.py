"""One part of a data set, train or val, from its source into RecordIO, in the order of a key.

The names in a folder are sorted in memory, and the images read in that order. An archive passes by once, so that its
images are sorted on disk: each record goes to one of a few buckets by the range that its key falls into, then one
bucket after the other is sorted and written.
"""
import os
import struct
import zlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext

from common.base.digest import FollowedDigest, digest
from common.base.errors import InputError
from common.images.recordio import image_record, set_number
from common.packing.jpeg import to_jpeg
from common.packing.progress import in_order, progress
from common.packing.sources import ArchiveSource, FolderSource, keyed_hash
from common.packing.unfinished import BUFFER, STATE, Unfinished

KINDS = ("rec", "idx", "lst")
BUCKET_BYTES = 256 << 20
MAX_BUCKETS = 128
KEYS = 1 << 64
ENTRY = struct.Struct("<HII")  # in a bucket: lengths of the path and of the record, which follow; CRC-32 of both

Record = bytearray | InputError  # of an image, or the reason why it is skipped
Records = Generator[tuple[str, int, Record], None, None]  # (path, label, record), from the one that is due


def pack(part: str, source: FolderSource | ArchiveSource, work: Unfinished, options: dict, strict: bool,
         workers: int) -> None:
    """Write PART.rec, .idx and .lst to the folder of `work`, from where that left off. `options`: short_side, quality,
    enlarge and seed; `strict`: an image that cannot be packed is an InputError."""
    packing = PartPacking(part, source, work, options, strict, workers)
    state = packing.state
    going_on = " (going on)" if state.position or state.taken else ""
    print("\n".join([f"{part}: {source.path}, {len(source.classes)} classes{going_on}",
                     *(f"{part}: {note}" for note in source.notes)]), flush=True)
    if strict and state.skipped:
        packing.skip(*state.skipped[0])
    if state.files:
        return
    records = folder_records(packing, source) if isinstance(source, FolderSource) else archive_records(packing, source)
    rec, idx, lst = names = [f"{part}.{kind}" for kind in KINDS]
    for name in names:
        work.append(name, b"")
    written = sum(state.images)
    with closing(records), FollowedDigest(work.folder / rec, "sha256") as sha256:
        for path, label, record in records:
            if isinstance(record, InputError):
                packing.skip(path, record)
            else:
                set_number(record, written)
                work.append(idx, f"{written}\t{work.length(rec)}\n".encode())
                work.append(lst, f"{written}\t{label:f}\t{path}\n".encode())
                work.append(rec, record)
                sha256.advance(work.length(rec) - BUFFER)
                state.images[label] += 1
                written += 1
            state.taken += 1
            work.commit_if_due()
        if not written:
            first = next((f" ({path}: {reason})" for path, reason in state.skipped), "")
            raise InputError(f"{source.path}: none of its images can be packed{first}")
        work.flush()
        digests = [sha256.result(work.length(rec)), *(digest(work.folder / name, "sha256") for name in (idx, lst))]
    state.files = {name: {"bytes": work.length(name), "sha256": sha256} for name, sha256 in zip(names, digests)}
    work.settle()


class PartPacking:
    """What a part is packed from and to, and how."""

    def __init__(self, part: str, source: FolderSource | ArchiveSource, work: Unfinished, options: dict, strict: bool,
                 workers: int) -> None:
        self.part, self.source, self.work, self.workers = part, source, work, workers
        self.state = work.parts[part]
        self._strict, self._seed = strict, options["seed"]
        self._jpeg_options = [options[name] for name in ("short_side", "quality", "enlarge")]

    def skip(self, path: str, reason: InputError | str) -> None:
        if self._strict:
            raise InputError(f"{self.source.path}: {path}: {reason} (an error because of --strict)")
        self.state.skipped.append([path, str(reason)])

    def key(self, path: str, label: int) -> int:
        """Number below KEYS that decides the place in the order: of training images a hash, of others the class."""
        if self.part == "train":
            return keyed_hash(f"{self._seed}/{path}")
        return label * KEYS // len(self.source.classes)

    def record(self, content: bytes | InputError, label: int) -> Record:
        if isinstance(content, InputError):
            return content
        try:
            return image_record(label, 0, to_jpeg(content, *self._jpeg_options))
        except InputError as error:
            return error


def folder_records(packing: PartPacking, source: FolderSource) -> Records:
    state, workers = packing.state, packing.workers
    order = sorted(source.images, key=lambda image: (packing.key(*image), image[0]))

    def record_of(image):
        path, label = image
        return packing.record(source.read(path), label)

    with ThreadPoolExecutor(workers) as pool, \
            progress(f"{packing.part}: writing", len(order), state.taken) as show:
        for (path, label), record in in_order(pool, workers, record_of, order[state.taken:]):
            yield path, label, record
            show(state.taken, state.taken)


def archive_records(packing: PartPacking, source: ArchiveSource) -> Records:
    state, work = packing.state, packing.work
    if state.bucket is None:
        _fill_buckets(packing, source)
        state.bucket = 0
        work.settle()
    done = sum(state.images)
    with progress(f"{packing.part}: writing", state.sorted, done) as show:
        while state.bucket < state.buckets:
            name = _bucket(packing, state.bucket)
            for path, label, record in _sorted_bucket(packing, name):
                yield path, label, record
                done += 1
                show(done, done)
            work.remove(name)
            state.bucket, state.taken = state.bucket + 1, 0
            work.commit()
    if done != state.sorted:
        raise work.damaged(STATE)


def _fill_buckets(packing, source):
    state, work = packing.state, packing.work
    state.buckets = state.buckets or min(MAX_BUCKETS, 1 + source.size // BUCKET_BYTES)

    def record_of(image):
        return packing.record(image.content, image.label)

    with ThreadPoolExecutor(packing.workers) as pool, \
            nullcontext() if state.md5 else FollowedDigest(source.path, "md5") as md5:
        with progress(f"{packing.part}: reading", source.size, state.position) as show:
            for image, record in in_order(pool, packing.workers, record_of, source.images(state.position)):
                if isinstance(record, InputError):
                    packing.skip(image.path, record)
                else:
                    key, path = packing.key(image.path, image.label), image.path.encode("utf-8", "surrogateescape")
                    crc32 = zlib.crc32(record, zlib.crc32(path))
                    work.append(_bucket(packing, key * state.buckets // KEYS),
                                ENTRY.pack(len(path), len(record), crc32) + path + record)
                    state.sorted += 1
                state.position = image.end
                if md5:
                    md5.advance(image.end)
                show(image.end, state.sorted)
                work.commit_if_due()
        if md5:
            what = f"{packing.part}: reading again, for the MD5, what an earlier run has read"
            with progress(what, source.size) as show:
                state.md5 = md5.result(source.size, show)


def _bucket(packing, number):
    return f"{packing.part}.bucket-{number:03d}"


def _sorted_bucket(packing, name):
    """(path, label, record) of each image in a bucket, from the one that is due."""
    if not packing.work.length(name):
        return
    with open(packing.work.folder / name, "rb") as file:
        for _, path, label, at, length, crc32 in sorted(_entries(packing, name, file))[packing.state.taken:]:
            record = bytearray(length)
            read = os.preadv(file.fileno(), [record], at)
            if read < length or zlib.crc32(record, zlib.crc32(path.encode("utf-8", "surrogateescape"))) != crc32:
                raise packing.work.damaged(name)
            yield path, label, record


def _entries(packing, name, file):
    """(key, path, label, offset of the record, its length, CRC-32) of each image in the file of a bucket."""
    at, size = 0, packing.work.length(name)
    labels = {wnid: label for label, wnid in enumerate(packing.source.classes)}
    while at < size:
        file.seek(at)
        try:
            path_length, length, crc32 = ENTRY.unpack(file.read(ENTRY.size))
            path = file.read(path_length).decode("utf-8", "surrogateescape")
            label = labels[path.split("/")[0]]
        except (struct.error, KeyError):
            raise packing.work.damaged(name) from None
        at += ENTRY.size + path_length
        if at + length > size:
            raise packing.work.damaged(name)
        yield packing.key(path, label), path, label, at, length, crc32
        at += length

"""One part of a data set, train or val, from its source into RecordIO: an external sort.

First every image goes to one of a few buckets on disk, by the range that its key falls into: of an archive, which
passes by once, the record that will be written, of a folder the name. Then one bucket after the other is sorted by key
and written. Workers make the records, in whichever of the two passes reads the images. Memory does not grow with them.
"""
import hashlib
import json
import os
import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from common.base.digest import FollowedDigest, digest
from common.base.errors import InputError
from common.images.recordio import NUMBER_AT, image_record, set_number
from common.packing.journal import BUFFER, Journal, is_count
from common.packing.jpeg import to_jpeg
from common.packing.names import check_listable
from common.packing.progress import in_order, progress
from common.packing.sources import Source

BUCKET_BYTES = 256 << 20
SKIPPED = "skipped"
ENTRY = struct.Struct("<QIHI")  # in a bucket: key, label, lengths of the path and of the record, which follow
KEYS = 1 << 64
NO_FILES = ("", ".", "..")
SHORTEST = NUMBER_AT + 8  # bytes of a record that can be given a number
KINDS = ("rec", "idx", "lst")
PHASES = ("sort", "write", "done")
MAX_BUCKETS = 128
COUNTS = ("done", "sorted", "bucket", "taken", "seen", "written")
MD5, SHA256 = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}")


class PartPacking:
    """`run` goes on where the folder `work` says; leaving the context commits nothing."""

    def __init__(self, part: str, source: Source, work: Path, options: dict[str, int], strict: bool, workers: int,
                 commit_seconds: float, md5: str | None = None) -> None:
        self._part, self._source, self._options = part, source, options
        self._strict, self._workers, self._commit_seconds = strict, workers, commit_seconds
        self._journal = Journal(work)
        buckets = min(MAX_BUCKETS, 1 + source.expected_bytes // BUCKET_BYTES)
        self._state = self._journal.state or new_state(source, buckets)
        if not is_state(self._state, part, source):
            raise self._journal.damaged()
        self._state["md5"] = self._state["md5"] or md5
        self._committed = time.monotonic()

    def __enter__(self) -> "PartPacking":
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def run(self) -> dict:
        """{"images": of each class, "skipped": [[name, reason], ...], "md5": of the source where it is an archive,
        "files": {name: {"bytes", "sha256"}}} of the finished files, which are in the folder `work`."""
        if self._strict and (skipped := self._skipped()):
            self._refuse(*skipped[0])
        going_on = " (going on)" if self._journal.state else ""
        print(f"{self._part}: {self._source.path}, {len(self._source.classes)} classes{going_on}", flush=True)
        for note in self._source.notes:
            print(f"{self._part}: {note}", flush=True)
        if self._state["phase"] != "done":
            if self._state["phase"] == "sort":
                self._sort()
            self._write()
            self._state["phase"] = "done"
            for name in self._state["files"]:
                self._journal.keep(name)
            self._journal.commit(self._state)
            self._journal.flush()
        return {**self._state, "skipped": sorted(self._skipped())}

    def _source_md5(self):
        known = self._state["md5"] or not self._source.is_archive
        return nullcontext() if known else FollowedDigest(self._source.path, "md5")

    def _refuse(self, name, reason):
        raise InputError(f"{self._source.path}: {name}: {reason} (an error because of --strict)")

    def _skipped(self):
        if not self._journal.length(SKIPPED):
            return []
        try:
            with open(self._journal.folder / SKIPPED, encoding="ascii") as file:
                skipped = [json.loads(line) for line in file]
            if all(isinstance(name, str) and isinstance(reason, str) for name, reason in skipped):
                return skipped
        except (ValueError, TypeError, RecursionError):
            pass
        raise self._journal.damaged(SKIPPED)

    def _skip(self, path, reason):
        if self._strict:
            self._refuse(path, str(reason))
        self._journal.append(SKIPPED, json.dumps([path, str(reason)]).encode() + b"\n")

    def _record(self, load, label):
        """The record of the image that load() gives, or the InputError that says why it cannot be packed."""
        try:
            jpeg = to_jpeg(load(), *(self._options[name] for name in ("short_side", "quality", "enlarge")))
        except InputError as error:
            return error
        return image_record(label, 0, jpeg)

    def _commit_if_due(self):
        if time.monotonic() - self._committed >= self._commit_seconds and not self._journal.committing:
            self._journal.commit(self._state)
            self._committed = time.monotonic()

    # from the source to buckets

    def _sort(self):
        state, source = self._state, self._source
        what = f"{self._part}: {'reading' if source.is_archive else 'listing'}"
        with ThreadPoolExecutor(self._workers) as pool, self._source_md5() as md5:
            images = source.images(state["position"])
            if source.is_archive:
                records = in_order(pool, self._workers, lambda image: self._record(image.load, image.label), images)
            else:
                records = ((image, b"") for image in images)
            with progress(what, source.size, state["done"]) as show:
                self._fill_buckets(records, md5, show)
            if md5:
                with progress(f"{self._part}: reading again, for the MD5, what an earlier run has read",
                              source.size) as show:
                    state["md5"] = md5.result(source.size, show)
        state["phase"] = "write"
        self._journal.commit(state)

    def _fill_buckets(self, records, md5, show):
        state = self._state
        for image, record in records:
            if isinstance(record, InputError):
                self._skip(image.path, record)
            else:
                path, key = image.path.encode("utf-8", "surrogateescape"), self._key(image)
                self._journal.append(self._bucket(key * state["buckets"] // KEYS),
                                     ENTRY.pack(key, image.label, len(path), len(record)) + path + record)
                state["sorted"] += 1
            state.update(position=image.after, done=image.done)
            if md5:
                md5.advance(image.done)
            show(image.done, state["sorted"])
            self._commit_if_due()

    def _key(self, image):
        """Number below KEYS that decides the place in the order: of the training images a hash, of others the class."""
        if self._part == "train":
            text = f"{self._options['seed']}/{image.path}".encode("utf-8", "surrogateescape")
            return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        return image.label * KEYS // len(self._source.classes)

    @staticmethod
    def _bucket(number: int) -> str:
        return f"bucket-{number:03d}"

    # from buckets to RecordIO

    def _write(self):
        state, journal = self._state, self._journal
        rec, idx, lst = (f"{self._part}.{kind}" for kind in KINDS)
        for name in (rec, idx, lst):
            journal.append(name, b"")
        journal.flush()
        with ThreadPoolExecutor(self._workers) as pool, FollowedDigest(journal.folder / rec, "sha256") as sha256, \
                progress(f"{self._part}: writing", state["sorted"], state["seen"]) as show:
            while state["bucket"] < state["buckets"]:
                bucket = self._bucket(state["bucket"])
                for path, label, record in self._records(bucket, pool):
                    if isinstance(record, InputError):
                        self._skip(path, record)
                    else:
                        set_number(record, state["written"])
                        journal.append(idx, f"{state['written']}\t{journal.length(rec)}\n".encode())
                        journal.append(lst, f"{state['written']}\t{label:f}\t{path}\n".encode())
                        journal.append(rec, record)
                        state["written"] += 1
                        state["images"][label] += 1
                        sha256.advance(journal.length(rec) - BUFFER)
                    state["taken"] += 1
                    state["seen"] += 1
                    show(state["seen"], state["seen"])
                    self._commit_if_due()
                state.update(bucket=state["bucket"] + 1, taken=0)
                journal.remove(bucket)
                journal.commit(state)
            journal.flush()
            if state["seen"] != state["sorted"]:
                raise journal.damaged()
            if not state["written"]:
                first = next((f" ({name}: {reason})" for name, reason in self._skipped()), "")
                raise InputError(f"{self._source.path}: none of its images can be packed{first}")
            digests = {rec: sha256.result(journal.length(rec))}
        digests.update((name, digest(journal.folder / name, "sha256")) for name in (idx, lst))
        state["files"] = {name: {"bytes": journal.length(name), "sha256": digests[name]} for name in digests}

    def _records(self, bucket, pool):
        """(path, label, record) of each image in a bucket, by key and path, from the one that is due."""
        if not self._journal.length(bucket):
            return
        with open(self._journal.folder / bucket, "rb") as file:
            entries = [(path.decode("utf-8", "surrogateescape"), label, at, length)
                       for _, path, label, at, length in sorted(self._entries(file))[self._state["taken"]:]]
            if self._source.is_archive:
                for path, label, at, length in entries:
                    record = bytearray(length)
                    os.preadv(file.fileno(), [record], at)
                    yield path, label, record
            else:
                def read(entry):
                    return self._record(lambda: self._source.load(entry[0]), entry[1])

                for (path, label, *_), record in in_order(pool, self._workers, read, entries):
                    yield path, label, record

    def _entries(self, bucket):
        """(key, path, label, offset of the record, its length) of each image in a bucket's file."""
        at, size = 0, os.fstat(bucket.fileno()).st_size
        while at < size:
            bucket.seek(at)
            try:
                key, label, path_length, length = ENTRY.unpack(bucket.read(ENTRY.size))
                path = bucket.read(path_length)
                at += ENTRY.size + path_length
                self._check_entry(path.decode("utf-8", "surrogateescape"), label, length)
                if at + length > size:
                    raise ValueError
            except (struct.error, IndexError, ValueError):
                raise self._journal.damaged(Path(bucket.name).name) from None
            yield key, path, label, at, length
            at += length

    def _check_entry(self, path, label, length):
        """Raises IndexError or ValueError for one that cannot be packed, or of an image that is not of the source."""
        folder, _, name = path.rpartition("/")
        if folder != self._source.classes[label] or name in NO_FILES or "\0" in name:
            raise ValueError
        if self._source.is_archive:
            check_listable(path)
            if length < SHORTEST:
                raise ValueError


def new_state(source: Source, buckets: int) -> dict:
    return {"phase": "sort", "position": None, "done": 0, "buckets": buckets, "sorted": 0,  # the first pass
            "bucket": 0, "taken": 0, "seen": 0, "written": 0,  # the second: images of the bucket, and of all of them
            "images": [0] * len(source.classes), "md5": None, "files": {}}


def is_state(state: dict, part: str, source: Source) -> bool:
    """Whether `state` can be that of packing `part` from `source`: with it nothing is read or written elsewhere than
    without."""
    if state.keys() != new_state(source, 1).keys() or not all(is_count(state[name]) for name in COUNTS):
        return False
    position, images, files = state["position"], state["images"], state["files"]
    names = [f"{part}.{kind}" for kind in KINDS] if state["phase"] == "done" else []
    return (state["phase"] in PHASES
            and (position is None or isinstance(position, list) and len(position) in (1, 2)
                 and all(is_count(at, source.size) for at in position))
            and is_count(state["buckets"], MAX_BUCKETS) and state["bucket"] <= state["buckets"]
            and isinstance(images, list) and len(images) == len(source.classes) and all(map(is_count, images))
            and sum(images) == state["written"] <= state["seen"] <= state["sorted"]
            and (state["md5"] is None or _is_text(state["md5"], MD5))
            and isinstance(files, dict) and sorted(files) == sorted(names)
            and all(isinstance(file, dict) and file.keys() == {"bytes", "sha256"} and is_count(file["bytes"])
                    and _is_text(file["sha256"], SHA256) for file in files.values()))


def _is_text(value, pattern):
    return isinstance(value, str) and pattern.fullmatch(value) is not None

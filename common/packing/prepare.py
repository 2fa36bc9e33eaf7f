"""A folder of archives or images into train.rec and val.rec: every image once, in an order that the seed alone decides.

What is done is committed every few seconds, so that a run that was killed goes on where it was.
"""
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shutil
import stat
import sys
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import check_not_read, written_atomically
from common.base.machine import usable_processors
from common.images.dataset import FORMAT, NAME, read_dataset
from common.images.preprocess import one_opencv_thread
from common.packing.find import PARTS, SYNSET, class_names, find_sources
from common.packing.imagenet import ARCHIVES
from common.packing.journal import damaged, read_sealed, sealed
from common.packing.part import KINDS, PartPacking
from common.packing.progress import progress

WORK = ".prepare"  # in the output folder, until the data set is finished
LOCK, IDENTITY = "lock", "identity.json"  # in it: the first that is there, and the last that goes
BEGINNING = re.compile(rf"\.{IDENTITY}\.\d+\.partial")
COMMIT_SECONDS = 15
PACKAGES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")


def prepare(source_dir: str | Path, out_dir: str | Path, *, short_side: int = 480, quality: int = 95,
            enlarge: bool = False, seed: int = 0, workers: int | None = None, strict: bool = False,
            any_count: bool = False, verify_first: bool = False, synset: str | Path | None = None,
            commit_seconds: float = COMMIT_SECONDS) -> dict:
    """Pack what `source_dir` holds (see `find_sources`, for `synset` too) into `out_dir`; returns what its dataset.json
    says.

    Writes {train,val}.{rec,idx,lst}, synset.txt, skipped.csv and, last, dataset.json. Training records are in the
    order of a hash of `seed` and their path, validation records in that of their path. Images that cannot be read are
    listed in skipped.csv, or with `strict` an error. A rerun with the same arguments goes on where a killed run was
    (`workers`, `strict`, `any_count` and `verify_first` may differ), and makes the same bytes.

    Raises InputError for sources that are not whole, for an `out_dir` that holds something else, and for a full disk.
    """
    if not 1 <= quality <= 100:
        raise InputError(f"quality {quality}: give 1 to 100")
    if verify_first and any_count:
        raise InputError("--verify-first compares with the sums of ImageNet's archives, --any-count is for other sets")
    out = Path(out_dir)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder")
    check_not_read(out / WORK, source_dir)
    check_not_read(out / "synset.txt", synset)
    names = class_names(synset or SYNSET)
    sources = find_sources(source_dir, any_count, synset)
    for source in sources.values():
        if not source.is_archive and out.resolve().is_relative_to(source.path.resolve()):
            raise InputError(f"{out}: lies in {source.path}, whose folders are classes; choose another folder")
    options: dict = {"short_side": short_side, "quality": quality, "enlarge": enlarge, "seed": seed}
    if synset:
        options["synset_sha256"] = hashlib.sha256("\n".join(names.values()).encode()).hexdigest()
    identity = {"format": FORMAT, "options": options, "versions": _versions(),
                "sources": {part: source.identity for part, source in sources.items()}}
    if (finished := _finished(out, identity)) is not None:
        print(f"{out / NAME}: finished already, with these options and of images of these names and sizes; to make it "
              "again, remove it and its records")
        return finished
    with _work_folder(out, identity) as work, one_opencv_thread():
        verified = _verify(sources) if verify_first else {}
        parts = {}
        for part, source in sources.items():
            with PartPacking(part, source, work / part, options, strict, workers or usable_processors(), commit_seconds,
                             verified.get(part)) as packing:
                parts[part] = packing.run()
        for part, source in sources.items():
            _check_md5(part, source, parts[part], strict, any_count)
        return _publish(out, work, sources, parts, identity, names)


def _versions():
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _finished(out, identity):
    """The description of the data set in `out`, where it is the one asked for; None where there is none."""
    dataset = read_dataset(out)
    if dataset is None:
        return None
    asked = _portable(identity)
    if difference := _difference(*({name: it.get(name) for name in ("options", "sources")} for it in (dataset, asked))):
        raise InputError(f"{out / NAME}: there is a data set already, made with other {difference}; choose another "
                         "folder, or remove it and its records")
    for part in dataset["parts"].values():
        for name, file in part["files"].items():
            if not _is_there(out / name, file):
                raise InputError(f"{out / name}: not there, or not as {NAME} beside it says; remove {NAME} and what is "
                                 "left of its files, to make them again")
    with suppress(OSError):
        if not _foreign(out / WORK):
            _remove(out / WORK)  # a run that was killed at its very end leaves it
    return dataset


def _is_there(path, file):
    """Whether `path` is a file of the size that its entry in dataset.json has."""
    return path.is_file() and path.stat().st_size == file["bytes"]


def _portable(identity):
    """`identity` without what differs between two copies of the same files."""
    sources = {part: {name: value for name, value in source.items() if name != "modified"}
               for part, source in identity["sources"].items()}
    return {**identity, "sources": sources}


def _difference(before, now):
    """The first thing that differs, as "options.quality: 95 instead of 90"; "" where nothing does."""
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old != new and isinstance(old, dict) and isinstance(new, dict):
            return f"{name}.{_difference(old, new)}"
        if old != new:
            return f"{name}: {old} instead of {new}"
    return ""


@contextmanager
def _work_folder(out, identity):
    """OUT/.prepare, which belongs to this process alone and to this `identity`."""
    work = out / WORK
    written = (*(f"{part}.{kind}" for part in PARTS for kind in KINDS), "synset.txt", "skipped.csv", NAME)
    if not os.path.lexists(work) and (found := [out / name for name in written if (out / name).exists()]):
        raise InputError(f"{found[0]}: exists, and nothing says how it was made; move it away, or choose another "
                         "folder")
    out.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        work.mkdir()
    _check_own(work, [path for path in (work, work / LOCK) if os.path.lexists(path)])
    with open(os.open(work / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644), "r+b", buffering=0) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{out}: another run is at work in this folder") from None
        if foreign := _foreign(work):
            raise InputError(f"{foreign}: no part of a data set that is being made; move {work} away, or choose "
                             "another folder")
        _check_own(work, work.rglob("*"))
        path = work / IDENTITY
        try:
            begun = read_sealed(path, work)
        except FileNotFoundError:
            begun = identity
            with written_atomically(path) as partial:
                Path(partial).write_text(sealed(identity), encoding="utf-8")
        if not isinstance(begun, dict):
            raise damaged(path, work)
        if difference := _difference(begun, identity):
            raise InputError(f"{work}: begun with other {difference}; go on with that, or remove it to begin again")
        try:
            yield work
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(f"{out}: the disk is full; make space and run the same command again: it goes on where it "
                             "was") from None
        except KeyboardInterrupt:
            print(f"{out}: run the same command again to go on", file=sys.stderr)
            raise


def _foreign(work):
    """Something in the work folder of a data set, where it is none; None where it is."""
    names = sorted(os.listdir(work))
    begun = IDENTITY in names
    return next((work / name for name in names if not (begun or name == LOCK or BEGINNING.fullmatch(name))), None)


def _remove(work):
    """A work folder; what tells that it is one goes last."""
    for path in sorted(work.iterdir(), key=lambda path: path.name in (LOCK, IDENTITY)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    work.rmdir()


def _check_own(work, paths):
    """What is written, cut off and removed below `work` is to be there and nowhere else."""
    for path in paths:
        is_folder = path == work or path.parent == work and path.name in PARTS
        if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(path.lstat().st_mode):
            raise InputError(f"{path}: a link, or not what belongs there; remove {work} to begin again")


def _verify(sources):
    """{part: MD5} of the archives that are to be ImageNet's. Raises InputError for one that is not."""
    verified = {}
    for part, source in sources.items():
        if source.is_archive:
            with progress(f"{source.path.name}: MD5", source.size) as show:
                verified[part] = digest(source.path, "md5", show)
            if verified[part] != ARCHIVES[part].md5:
                raise InputError(_damaged(part, source, verified[part]))
            print(f"{source.path.name}: MD5 {verified[part]}, the official one")
    return verified


def _damaged(part, source, md5):
    return f"{source.path}: its MD5 is {md5}, not the official {ARCHIVES[part].md5}: damaged, or another set"


def _check_md5(part, source, result, strict, any_count):
    if not result["md5"]:
        return
    if result["md5"] == ARCHIVES[part].md5:
        print(f"{source.path.name}: MD5 {result['md5']}, the official one")
    elif any_count:
        print(f"{source.path.name}: MD5 {result['md5']}")
    elif strict:
        raise InputError(_damaged(part, source, result["md5"]))
    else:
        print(f"warning: {_damaged(part, source, result['md5'])}", file=sys.stderr)


def _publish(out, work, sources, parts, identity, names):
    """Give the finished files their names, the description last; a run that was killed here does the rest again.
    `names`: {class: its line in synset.txt}, of those that have one."""
    classes = next(iter(sources.values())).classes
    _place(work, out, "synset.txt", "".join(f"{names.get(name, name)}\n" for name in classes))
    skipped = io.StringIO(newline="")
    writer = csv.writer(skipped)
    writer.writerow(("part", "name", "reason"))
    dataset = {**_portable(identity), "classes": list(classes), "parts": {}}
    for part, result in parts.items():
        writer.writerows((part, *skip) for skip in result["skipped"])
        for name in result["files"]:
            if (work / part / name).exists():
                os.replace(work / part / name, out / name)
            if not _is_there(out / name, result["files"][name]):
                raise InputError(f"{out / name}: was moved away or changed; remove {work} to begin again")
        count = sum(result["images"])
        dataset["parts"][part] = {"images": count, "skipped": len(result["skipped"]), "source_md5": result["md5"],
                                  "images_of_class": dict(zip(classes, result["images"])), "files": result["files"]}
        print(f"{out / part}.rec: {count} images of {sum(map(bool, result['images']))} classes, "
              f"{len(result['skipped'])} skipped")
    _place(work, out, "skipped.csv", skipped.getvalue())
    _place(work, out, NAME, json.dumps(dataset, indent=1) + "\n")
    _remove(work)
    return dataset


def _place(work, out, name, text):
    """Write a file where a kill leaves no traces, then move it to `out`."""
    with written_atomically(work / name) as partial:
        Path(partial).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    os.replace(work / name, out / name)

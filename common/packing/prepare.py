"""A folder of archives or images into train.rec and val.rec: every image once, in an order that the seed alone decides.

What is done is committed every few seconds, so that a run that was killed goes on where it was.
"""
import csv
import hashlib
import io
import json
import os
import platform
import sys
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
from common.packing.part import KINDS, pack
from common.packing.progress import progress
from common.packing.sources import FolderSource
from common.packing.unfinished import PartState
from common.packing.work_folder import WORK, difference, remove_work, work_folder

COMMIT_SECONDS = 15
PACKAGES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")
FILES = (*(f"{part}.{kind}" for part in PARTS for kind in KINDS), "synset.txt", "skipped.csv", NAME)


def prepare(source_dir: str | Path, out_dir: str | Path, *, short_side: int = 480, quality: int | None = None,
            enlarge: bool = False, seed: int = 0, workers: int | None = None, strict: bool = False,
            any_count: bool = False, verify_first: bool = False, synset: str | Path | None = None,
            val_share: float | None = None, commit_seconds: float = COMMIT_SECONDS) -> dict:
    """Pack what `source_dir` holds (see `find_sources`, for `synset` and `val_share` too) into `out_dir`; returns the
    content of its dataset.json.

    Writes {train,val}.{rec,idx,lst}, synset.txt, skipped.csv and, last, dataset.json. Training records are in the
    order of a hash of `seed` and their path, validation records in that of their path. Images that cannot be read are
    listed in skipped.csv, or are an error with `strict`. A second run with the same arguments goes on where a killed
    one was (`workers`, `strict`, `any_count` and `verify_first` may differ), and makes the same bytes.

    Raises InputError for incomplete sources, for an `out_dir` that holds something else, and for a full disk.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"quality {quality}: give 1 to 100")
    if val_share is not None and not 0 < val_share < 1:
        raise InputError(f"val_share {val_share:g}: give a number above 0, and less than 1")
    any_count = any_count or val_share is not None
    if verify_first and any_count:
        raise InputError("--verify-first compares with the sums of ImageNet's archives, --any-count and --val-share "
                         "are for other sets")
    out = Path(out_dir)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder")
    check_not_read(out / WORK, source_dir)
    check_not_read(out / "synset.txt", synset)
    names = class_names(synset or SYNSET)
    sources = find_sources(source_dir, any_count, synset, val_share, seed)
    for source in sources.values():
        if isinstance(source, FolderSource) and out.resolve().is_relative_to(source.path.resolve()):
            raise InputError(f"{out}: lies in {source.path}, whose folders are classes; choose another folder")
    options: dict = {"short_side": short_side, "quality": quality, "enlarge": enlarge, "seed": seed}
    if synset:
        options["synset_sha256"] = hashlib.sha256("\n".join(names.values()).encode()).hexdigest()
    if val_share:
        options["val_share"] = val_share
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    identity = {"format": FORMAT, "options": options, "versions": versions,
                "sources": {part: source.identity for part, source in sources.items()}}
    if (finished := _finished(out, identity)) is not None:
        print(f"{out / NAME}: finished already, with these options and of images of these names and sizes; to make it "
              "again, remove it and its records")
        return finished
    with work_folder(out, identity, FILES, commit_seconds) as work, one_opencv_thread():
        md5 = _verify(sources) if verify_first else {}
        for part, source in sources.items():
            state = work.parts.setdefault(part, PartState([0] * len(source.classes)))
            state.md5 = state.md5 or md5.get(part)
            pack(part, source, work, options, strict, workers or usable_processors())
        for part, source in sources.items():
            _check_md5(part, source.path, work.parts[part].md5, strict, any_count)
        classes = next(iter(sources.values())).classes
        return _publish(out, work, classes, [names.get(name, name) for name in classes])


def _finished(out, identity):
    """The description of the data set in `out`, if it is the one asked for; None if there is none."""
    dataset = read_dataset(out)
    if dataset is None:
        return None
    asked = _portable(identity)
    if changed := difference(*({name: it.get(name) for name in ("options", "sources")} for it in (dataset, asked))):
        raise InputError(f"{out / NAME}: there is a data set already, made with other {changed}; choose another "
                         "folder, or remove it and its records")
    for part in dataset["parts"].values():
        for name, file in part["files"].items():
            if not _is_there(out / name, file):
                raise InputError(f"{out / name}: missing, or of another size than {NAME} beside it says; remove {NAME} "
                                 "and what is left of its files, to make them again")
    remove_work(out)
    return dataset


def _is_there(path, file):
    """Whether `path` is a file of the size that its entry in dataset.json has."""
    return path.is_file() and path.stat().st_size == file["bytes"]


def _portable(identity):
    """`identity` without what differs between two copies of the same files."""
    sources = {part: {name: value for name, value in source.items() if name != "modified"}
               for part, source in identity["sources"].items()}
    return {**identity, "sources": sources}


def _verify(sources):
    """{part: MD5} of the archives. Raises InputError for one that is not ImageNet's."""
    md5 = {}
    for part, source in sources.items():
        if not isinstance(source, FolderSource):
            with progress(f"{source.path.name}: MD5", source.size) as show:
                md5[part] = digest(source.path, "md5", show)
            _check_md5(part, source.path, md5[part], strict=True, any_count=False)
    return md5


def _check_md5(part, path, md5, strict, any_count):
    if not md5:  # of a folder
        return
    damaged = f"{path}: its MD5 is {md5}, not the official {ARCHIVES[part].md5}: damaged, or another set"
    if md5 == ARCHIVES[part].md5:
        print(f"{path.name}: MD5 {md5}, the official one")
    elif any_count:
        print(f"{path.name}: MD5 {md5}")
    elif strict:
        raise InputError(damaged)
    else:
        print(f"warning: {damaged}", file=sys.stderr)


def _publish(out, work, classes, names):
    """Give the finished files their names, the description last; after a kill here the next run does the rest."""
    skipped = io.StringIO(newline="")
    writer = csv.writer(skipped)
    writer.writerow(("part", "name", "reason"))
    dataset = {**_portable(work.identity), "classes": list(classes), "parts": {}}
    for part, state in work.parts.items():
        writer.writerows((part, *skip) for skip in sorted(state.skipped))
        for name, file in state.files.items():
            if (work.folder / name).exists():
                os.replace(work.folder / name, out / name)
            if not _is_there(out / name, file):
                raise InputError(f"{out / name}: was moved away or changed; remove {work.folder} to begin again")
        count = sum(state.images)
        dataset["parts"][part] = {"images": count, "skipped": len(state.skipped), "source_md5": state.md5,
                                  "images_of_class": dict(zip(classes, state.images)), "files": state.files}
        print(f"{out / part}.rec: {count} images of {sum(map(bool, state.images))} classes, "
              f"{len(state.skipped)} skipped")
    for name, text in (("synset.txt", "".join(f"{name}\n" for name in names)), ("skipped.csv", skipped.getvalue()),
                       (NAME, json.dumps(dataset, indent=1) + "\n")):
        with written_atomically(work.folder / name) as partial:  # there, where a kill leaves no traces
            Path(partial).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        os.replace(work.folder / name, out / name)
    return dataset

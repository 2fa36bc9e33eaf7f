"""Where the images come from: folders of classes, or ImageNet's archives, which are read front to back and never
extracted.

A source has `path`, `classes` (their WordNet ids or folder names; a label is an index of them), `size` (images of a
folder, bytes of an archive), `identity` (what must not change while a data set is made) and `notes` (what its user
should know).
"""
import copy
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from common.base.errors import InputError
from common.base.files import listed, named_in_errors
from common.packing.imagenet import DEVKIT, VAL_NAME, Devkit
from common.packing.names import check_listable, check_names
from common.packing.tar_members import MAX_BYTES, content, members


class FolderSource:
    """`folder/<class>/<image>`, without the folders and files whose names begin with a dot. `classes`: those that there
    may be, which are the ones `of` something; by default what is there.

    `images`: (path, label) of each; the path is <class>/<file name>, as .lst files have it.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...] | None = None, of: str = "the training images") -> None:
        self.path = Path(folder)
        entries = listed(self.path)
        folders = [entry.name for entry in entries if entry.is_dir()]
        self.classes = classes or tuple(folders)
        check_names(self.path, self.classes)
        if others := [name for name in folders if name not in self.classes]:
            raise InputError(f"{self.path / others[0]}: not one of the {len(self.classes)} classes of {of}")
        files, modified = hashlib.sha256(), hashlib.sha256()
        self.images: list[tuple[str, int]] = []
        for label, name in enumerate(self.classes):
            for entry in listed(self.path / name) if name in folders else ():
                try:
                    status = entry.stat()
                except OSError:  # a link to nowhere, which packing will skip
                    status = entry.stat(follow_symlinks=False)
                path = f"{name}/{entry.name}"
                files.update(f"{path}\0{status.st_size}\0".encode("utf-8", "surrogateescape"))
                modified.update(b"%d\0" % status.st_mtime_ns)
                self.images.append((path, label))
        self.size = len(self.images)
        if not self.images:
            raise InputError(f"{self.path}: no images in folders of classes ({self.path}/<class>/<image>)")
        self.identity = {"folder": self.path.name, "images": self.size, "files_sha256": files.hexdigest(),
                         "modified": modified.hexdigest(), "labels_sha256": _labels_sha256(self.classes)}
        self.notes = []
        if loose := [entry.name for entry in entries if not entry.is_dir()]:
            self.notes.append(f"{len(loose)} files that are in no class's folder are left out ({loose[0]!r}, say)")
        if empty := sorted(set(range(len(self.classes))) - {label for _, label in self.images}):
            self.notes.append(f"{len(empty)} classes have no images ({self.classes[empty[0]]}, say)")

    def split(self, val_share: float, seed: int) -> dict[str, "FolderSource"]:
        """{"val": source, "train": source} of the same folder: of each class that share of its images is to validate
        with, at least one and never all. Which ones a hash of `seed` and their paths says, whatever else is there. The
        only image of a class is trained on. Raises InputError if that leaves none."""
        images: dict[str, list[tuple[str, int]]] = {"val": [], "train": []}
        alone = []
        for label, group in groupby(self.images, key=lambda image: image[1]):
            of_class = sorted(group, key=lambda image: keyed_hash(f"{seed}/val/{image[0]}"))
            count = min(max(round(val_share * len(of_class)), 1), len(of_class) - 1)
            images["val"] += of_class[:count]
            images["train"] += of_class[count:]
            alone += [self.classes[label]] * (len(of_class) == 1)
        if not images["val"]:
            raise InputError(f"{self.path}: no class has two images, one of which could be to validate with")
        parts = {}
        for part, chosen in images.items():
            parts[part] = source = copy.copy(self)
            source.images, source.size = chosen, len(chosen)
            source.identity = {**self.identity, "images": len(chosen)}
        if alone:
            parts["val"].notes = [*self.notes, f"{len(alone)} classes have one image, which is trained on ({alone[0]}, "
                                  "say)"]
        return parts

    def read(self, path: str) -> bytes | InputError:
        """Content of an image, or the reason why it cannot be packed."""
        try:
            status = os.stat(self.path / path)
            if not stat.S_ISREG(status.st_mode):
                return InputError("a folder, not an image" if stat.S_ISDIR(status.st_mode) else "not a file")
            if status.st_size > MAX_BYTES:
                return InputError(f"larger than {MAX_BYTES >> 20} MiB")
            check_listable(path)
            return (self.path / path).read_bytes()
        except InputError as error:
            return error
        except OSError as error:
            return InputError(error.strerror)


@dataclass(frozen=True)
class ArchivedImage:
    """path: <class>/<file name>; content: or the reason why it cannot be packed; end: the byte of the archive to read
    the next image at."""
    path: str
    label: int
    content: bytes | InputError
    end: int


class ArchiveSource:
    """`tars`: (class, first byte, end) of each tar of images in `archive`; the class is None if each image has its own,
    which `val_classes` gives by its number."""

    def __init__(self, archive: Path, classes: tuple[str, ...], tars: list[tuple[str | None, int, int]],
                 val_classes: tuple[str, ...] = ()) -> None:
        self.path, self.classes, self.notes = archive, classes, []
        self._tars, self._val_classes = tars, val_classes
        status = archive.stat()
        self.size = status.st_size
        self.identity = {"archive": archive.name, "bytes": status.st_size, "modified": status.st_mtime_ns,
                         "labels_sha256": _labels_sha256(classes, *[val_classes] * bool(val_classes))}

    def images(self, start: int = 0) -> Iterator[ArchivedImage]:
        """All images, or those from byte `start` on, which is the `end` of one."""
        labels = {name: label for label, name in enumerate(self.classes)}
        with named_in_errors(self.path), open(self.path, "rb") as file:
            for tar_class, first, end in self._tars:
                if start >= end:
                    continue
                for member, after in members(file, max(start, first), end, self.path):
                    name = tar_class or _val_class(self.path, member, self._val_classes)
                    yield ArchivedImage(f"{name}/{Path(member.name).name}", labels[name], content(file, member), after)


def train_archive(archive: Path, classes: tuple[str, ...] | None = None) -> ArchiveSource:
    """ILSVRC2012_img_train.tar: a tar of one tar for each class, <wnid>.tar."""
    tars = []
    with open(archive, "rb") as file:
        for member, _ in members(file, 0, archive.stat().st_size, archive):
            if not member.isreg() or not member.name.endswith(".tar"):
                raise InputError(f"{archive}: {member.name!r} in it is not <class>.tar: not ImageNet's training "
                                 "archive")
            first, end = member.offset_data, member.offset_data + member.size
            tars.append((Path(member.name).stem, first, end))
            next(members(file, first, end, archive), None)  # raises InputError if it is not a tar
    found = sorted(name for name, _, _ in tars)
    if len(set(found)) != len(found):
        raise InputError(f"{archive}: holds a class twice ({max(found, key=found.count)}.tar)")
    classes = classes or tuple(found)
    check_names(archive, classes)
    if odd := sorted(set(found) ^ set(classes)):
        raise InputError(f"{archive}: holds {len(found)} class archives, {DEVKIT.name} names {len(classes)} classes; "
                         f"{odd[0]} is in one of them only")
    return ArchiveSource(archive, classes, tars)


def val_archive(archive: Path, devkit: Devkit) -> ArchiveSource:
    """ILSVRC2012_img_val.tar: ILSVRC2012_val_00000001.JPEG and so on, whose classes the development kit knows."""
    found, size = set(), archive.stat().st_size
    with open(archive, "rb") as file:
        for member, _ in members(file, 0, size, archive):
            _val_class(archive, member, devkit.val_classes)
            if (name := Path(member.name).name) in found:
                raise InputError(f"{archive}: holds {name} twice")
            found.add(name)
    if len(found) != len(devkit.val_classes):
        raise InputError(f"{archive}: holds {len(found)} images, {DEVKIT.name} has the classes of "
                         f"{len(devkit.val_classes)}")
    return ArchiveSource(archive, devkit.classes, [(None, 0, size)], devkit.val_classes)


def _val_class(archive, member, val_classes):
    name = VAL_NAME.fullmatch(Path(member.name).name)
    if not name or not 1 <= int(name[1]) <= len(val_classes):
        raise InputError(f"{archive}: {member.name!r} in it is not one of the {len(val_classes)} validation images "
                         f"whose classes are in {DEVKIT.name}")
    return val_classes[int(name[1]) - 1]


Source = FolderSource | ArchiveSource


def keyed_hash(text: str) -> int:
    """A number below 2**64, as good as random."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _labels_sha256(*labels):
    return hashlib.sha256(repr(labels).encode("utf-8", "surrogateescape")).hexdigest()

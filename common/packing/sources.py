"""Where the images come from: ImageNet's archives, read front to back and never extracted, or folders of classes.

A source has `path`, `is_archive`, `classes` (their WordNet ids or folder names, sorted; a label is an index of them),
`size` (of the work, in units of its own), `expected_bytes` (of its images, roughly), `identity` (what must not change
while a data set is made), `notes` (what its user should know) and `images(start)`: all its images, or those from
`start` on, which an image before has told.
"""
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.base.errors import InputError
from common.base.files import listed
from common.packing.imagenet import DEVKIT, VAL_NAME, Devkit
from common.packing.names import check_listable, check_names
from common.packing.tar_members import MAX_BYTES, content, members


@dataclass(frozen=True)
class Image:
    """An image in a source. path: <class>/<file name>, as .lst files have it; after, done: where the next image starts,
    and how much of the size of the source lies before it. Of an archive, load() gives its content, or raises InputError
    with the reason why it cannot be used; of a folder, the source's load(path)."""
    path: str
    label: int
    after: list[int]
    done: int
    load: Callable[[], bytes] | None = None


class FolderSource:
    """`folder/<class>/<image>`; folders and files whose names begin with a dot are left out. `classes`, where there may
    be no others than those `of` something."""
    is_archive = False

    def __init__(self, folder: Path, classes: tuple[str, ...] | None = None, of: str = "the training images") -> None:
        self.path = Path(folder)
        entries = listed(self.path)
        folders = [entry.name for entry in entries if entry.is_dir()]
        self.classes = classes or tuple(folders)
        check_names(self.path, self.classes)
        for name in folders:
            if name not in self.classes:
                raise InputError(f"{self.path / name}: not one of the {len(self.classes)} classes of {of}")
        files, modified, filled = hashlib.sha256(), hashlib.sha256(), set()
        self.size = self.expected_bytes = 0
        for entry, path, label in self._entries():
            try:
                status = entry.stat()
            except OSError:  # a link to nowhere, which packing will skip
                status = entry.stat(follow_symlinks=False)
            files.update(f"{path}\0{status.st_size}\0".encode("utf-8", "surrogateescape"))
            modified.update(b"%d\0" % status.st_mtime_ns)
            filled.add(label)
            self.size += 1
            self.expected_bytes += status.st_size
        if not self.size:
            raise InputError(f"{self.path}: no images in folders of classes ({self.path}/<class>/<image>)")
        self.identity = {"folder": self.path.name, "images": self.size, "files_sha256": files.hexdigest(),
                         "modified": modified.hexdigest(), "labels_sha256": _labels_sha256(self.classes)}
        loose, empty = [entry.name for entry in entries if not entry.is_dir()], set(range(len(self.classes))) - filled
        self.notes = []
        if loose:
            self.notes.append(f"{len(loose)} files that are in no class's folder are left out ({loose[0]!r}, say)")
        if empty:
            self.notes.append(f"{len(empty)} classes have no images ({self.classes[min(empty)]}, say)")

    def _entries(self):
        for label, name in enumerate(self.classes):
            if (self.path / name).is_dir():
                for entry in listed(self.path / name):
                    yield entry, f"{name}/{entry.name}", label

    def images(self, start: list[int] | None = None) -> Iterator[Image]:
        first = (start or [0])[0]
        for number, (_, path, label) in enumerate(self._entries()):
            if number >= first:
                yield Image(path, label, [number + 1], number + 1)

    def load(self, path: str) -> bytes:
        """Content of an image by its `Image.path`. Raises InputError, with the reason alone."""
        try:
            status = os.stat(self.path / path)
            if not stat.S_ISREG(status.st_mode):
                raise InputError("a folder, not an image" if stat.S_ISDIR(status.st_mode) else "not a file")
            if status.st_size > MAX_BYTES:
                raise InputError(f"larger than {MAX_BYTES >> 20} MiB")
            check_listable(path)
            with open(self.path / path, "rb") as file:
                return file.read()
        except OSError as error:
            raise InputError(error.strerror) from None


class ClassArchivesSource:
    """ILSVRC2012_img_train.tar: a tar of one tar for each class, <wnid>.tar."""
    is_archive = True

    def __init__(self, archive: Path, classes: tuple[str, ...] | None = None) -> None:
        self.path, self.notes = Path(archive), []
        self.size = self.expected_bytes = self.path.stat().st_size
        with open(self.path, "rb") as file:
            found = []
            for member, _ in members(file, 0, self.size, self.path):
                found.append(self._class_of(member))
                for _ in members(file, member.offset_data, member.offset_data + member.size, self.path):
                    break  # the first one shows that it is a tar
        if len(set(found)) != len(found):
            raise InputError(f"{self.path}: holds a class twice ({max(found, key=found.count)}.tar)")
        self.classes = classes or tuple(sorted(found))
        check_names(self.path, self.classes)
        self.identity = _archive_identity(self.path, self.classes)
        if set(found) != set(self.classes):
            odd, = sorted(set(found) ^ set(self.classes))[:1]
            raise InputError(f"{self.path}: holds {len(found)} class archives, {DEVKIT.name} names "
                             f"{len(self.classes)} classes; {odd} is in one of them only")

    def _class_of(self, member):
        if not member.isreg() or not member.name.endswith(".tar"):
            raise InputError(f"{self.path}: {member.name!r} in it is not <class>.tar: not ImageNet's training "
                             "archive")
        return Path(member.name).stem

    def images(self, start: list[int] | None = None) -> Iterator[Image]:
        at, inner_at = [*(start or [0]), None][:2]
        labels = {name: label for label, name in enumerate(self.classes)}
        with open(self.path, "rb") as file:
            for class_tar, _ in members(file, at, self.size, self.path):
                name = self._class_of(class_tar)
                first = class_tar.offset_data if inner_at is None else inner_at
                inner_at = None
                for member, after in members(file, first, class_tar.offset_data + class_tar.size, self.path):
                    yield Image(f"{name}/{Path(member.name).name}", labels[name], [class_tar.offset, after], after,
                                content(file, member))


class ValidationArchiveSource:
    """ILSVRC2012_img_val.tar: ILSVRC2012_val_00000001.JPEG and so on, whose classes the development kit knows."""
    is_archive = True

    def __init__(self, archive: Path, devkit: Devkit) -> None:
        self.path, self.classes, self.notes = Path(archive), devkit.classes, []
        self._val_classes = devkit.val_classes
        self.size = self.expected_bytes = self.path.stat().st_size
        self.identity = _archive_identity(self.path, self.classes, self._val_classes)
        found = set()
        with open(self.path, "rb") as file:
            for member, _ in members(file, 0, self.size, self.path):
                self._class_of(member)
                if (name := Path(member.name).name) in found:
                    raise InputError(f"{self.path}: holds {name} twice")
                found.add(name)
        if len(found) != len(self._val_classes):
            raise InputError(f"{self.path}: holds {len(found)} images, {DEVKIT.name} has the classes of "
                             f"{len(self._val_classes)}")

    def _class_of(self, member):
        name = VAL_NAME.fullmatch(Path(member.name).name)
        if not name or not 1 <= int(name[1]) <= len(self._val_classes):
            raise InputError(f"{self.path}: {member.name!r} in it is not one of the {len(self._val_classes)} "
                             f"validation images whose classes are in {DEVKIT.name}")
        return self._val_classes[int(name[1]) - 1]

    def images(self, start: list[int] | None = None) -> Iterator[Image]:
        at = (start or [0])[0]
        labels = {name: label for label, name in enumerate(self.classes)}
        with open(self.path, "rb") as file:
            for member, after in members(file, at, self.size, self.path):
                name = self._class_of(member)
                yield Image(f"{name}/{Path(member.name).name}", labels[name], [after], after, content(file, member))


Source = FolderSource | ClassArchivesSource | ValidationArchiveSource


def _archive_identity(path, *labels):
    status = path.stat()
    return {"archive": path.name, "bytes": status.st_size, "modified": status.st_mtime_ns,
            "labels_sha256": _labels_sha256(*labels)}


def _labels_sha256(*labels):
    return hashlib.sha256(repr(labels).encode("utf-8", "surrogateescape")).hexdigest()

"""Where the images come from: ImageNet's archives, read front to back and never extracted, or folders of classes.

A source has `path`, `is_archive`, `classes` (their WordNet ids or folder names, sorted; a label is an index of them),
`size` (of the work, in units of its own), `expected_bytes` (of its images, roughly), `identity` (what must not change
while a data set is made), `notes` (what its user should know) and `images(start)`: all its images, or those from
`start` on, which an image before has told.
"""
import hashlib
import os
import stat
import tarfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.digest import digest
from common.errors import InputError, last_line
from common.labels import read_synset
from common.packing.imagenet import ARCHIVES, DEVKIT, VAL_NAME, Devkit, read_devkit

PARTS = ("val", "train")  # in the order they are packed: the small one first
SYNSET = Path(__file__).resolve().parents[2] / "data" / "imagenet1k-synset.txt"
MAX_BYTES = 256 << 20  # the largest image of ImageNet has 15 MB
MAX_NAME = 4096  # bytes
UNLISTABLE = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode: controls, surrogates (no UTF-8), ends of lines
BLOCK = tarfile.BLOCKSIZE


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
    """`folder/<class>/<image>`; folders and files whose names begin with a dot are left out."""
    is_archive = False

    def __init__(self, folder: Path, classes: tuple[str, ...] | None = None) -> None:
        self.path = Path(folder)
        entries = _listed(self.path)
        folders = [entry.name for entry in entries if entry.is_dir()]
        self.classes = classes or tuple(folders)
        _check_names(self.path, self.classes)
        for name in folders:
            if name not in self.classes:
                raise InputError(f"{self.path / name}: not one of the {len(self.classes)} classes of the training "
                                 "images")
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
                for entry in _listed(self.path / name):
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
            for member, _ in _members(file, 0, self.size, self.path):
                found.append(self._class_of(member))
                for _ in _members(file, member.offset_data, member.offset_data + member.size, self.path):
                    break  # the first one shows that it is a tar
        if len(set(found)) != len(found):
            raise InputError(f"{self.path}: holds a class twice ({max(found, key=found.count)}.tar)")
        self.classes = classes or tuple(sorted(found))
        _check_names(self.path, self.classes)
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
            for class_tar, _ in _members(file, at, self.size, self.path):
                name = self._class_of(class_tar)
                first = class_tar.offset_data if inner_at is None else inner_at
                inner_at = None
                for member, after in _members(file, first, class_tar.offset_data + class_tar.size, self.path):
                    yield Image(f"{name}/{Path(member.name).name}", labels[name], [class_tar.offset, after], after,
                                _content(file, member))


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
            for member, _ in _members(file, 0, self.size, self.path):
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
            for member, after in _members(file, at, self.size, self.path):
                name = self._class_of(member)
                yield Image(f"{name}/{Path(member.name).name}", labels[name], [after], after, _content(file, member))


Source = FolderSource | ClassArchivesSource | ValidationArchiveSource


def find_sources(folder: str | Path, any_count: bool = False) -> dict[str, Source]:
    """{"train": source, "val": source} of what `folder` holds: archives by their names, or folders train/ and val/.

    Unless `any_count`, it has to be ImageNet: archives of the official size, its 1,000 classes, and in folders as many
    images. Raises InputError for anything else, for damaged archives, and where nothing is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    archives = {part: folder / archive.name for part, archive in ARCHIVES.items() if (folder / archive.name).exists()}
    trees = {part: folder / part for part in PARTS if (folder / part).is_dir()}
    if both := sorted(archives.keys() & trees.keys()):
        raise InputError(f"{folder}: holds {archives[both[0]].name} and the folder {both[0]}/: which one? Move one "
                         "away")
    if not archives and not trees:
        names = " and ".join(archive.name for archive in ARCHIVES.values())
        raise InputError(f"{folder}: holds neither {names} nor folders train/<class>/ and val/<class>/")
    devkit = _devkit(folder, archives, any_count)
    if not any_count:
        for part, path in archives.items():
            _check_size(path, ARCHIVES[part])
    sources: dict[str, Source] = {}
    classes = devkit and devkit.classes
    if "train" in archives:
        sources["train"] = ClassArchivesSource(archives["train"], classes)
    elif "train" in trees:
        sources["train"] = FolderSource(trees["train"], classes)
    classes = classes or (sources["train"].classes if sources else None)
    if "val" in archives:
        sources["val"] = ValidationArchiveSource(archives["val"], devkit)
    elif "val" in trees:
        sources["val"] = FolderSource(trees["val"], classes)
    if not any_count:
        for part, source in sources.items():
            _check_is_imagenet(part, source)
    return {part: sources[part] for part in PARTS if part in sources}


def _devkit(folder, archives, any_count):
    path = folder / DEVKIT.name
    if not archives:
        return None
    if not path.exists():
        if "val" in archives:
            raise InputError(f"{path}: not there, and it has the classes of the validation images; download it to this "
                             "folder")
        return None
    if not any_count:
        _check_size(path, DEVKIT)
        if (md5 := digest(path, "md5")) != DEVKIT.md5:
            raise InputError(f"{path}: its MD5 is {md5}, not the official {DEVKIT.md5}: damaged; download it again")
    return read_devkit(path)


def _check_size(path, official):
    if (size := path.stat().st_size) != official.size:
        raise InputError(f"{path}: {size} bytes, the official one has {official.size}: not whole, or another set "
                         "(--any-count accepts other sets)")


def _check_is_imagenet(part, source):
    wnids = tuple(line.split()[0] for line in read_synset(SYNSET, 1000))
    if source.classes != wnids:
        count = f"{len(source.classes)} classes" if len(source.classes) != len(wnids) else "other classes"
        raise InputError(f"{source.path}: {count} instead of ImageNet's 1000 (--any-count accepts other sets)")
    if not source.is_archive and source.size != ARCHIVES[part].images:
        raise InputError(f"{source.path}: {source.size} images instead of ImageNet's {ARCHIVES[part].images} "
                         "(--any-count accepts other sets)")


def _archive_identity(path, *labels):
    status = path.stat()
    return {"archive": path.name, "bytes": status.st_size, "modified": status.st_mtime_ns,
            "labels_sha256": _labels_sha256(*labels)}


def _labels_sha256(*labels):
    return hashlib.sha256(repr(labels).encode("utf-8", "surrogateescape")).hexdigest()


def _members(file, at, end, archive):
    """(member, offset of the next header) of the tar in `file` from the header at `at`, as far as byte `end`.

    Unlike tarfile's own iteration it keeps no list of them, and a damaged header, or an end before `end` without the
    blocks of zeros that end a tar, is an InputError.
    """
    def damaged(at):
        return InputError(f"{archive}: damaged or cut off at byte {at} of {os.fstat(file.fileno()).st_size}; download "
                          "it again")
    file.seek(at)
    if file.read(BLOCK) == bytes(BLOCK):
        return
    file.seek(at)
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file is not its own)
    except tarfile.TarError:
        raise damaged(at) from None
    while True:
        try:
            member = tar.next()
        except (tarfile.TarError, OSError):
            raise damaged(tar.offset) from None
        if member is None:
            break
        tar.members.clear()
        if member.size < 0 or not member.offset < tar.offset <= end:
            raise damaged(member.offset)
        yield member, tar.offset
    file.seek(tar.offset)
    if tar.offset + BLOCK > end or file.read(BLOCK) != bytes(BLOCK):
        raise damaged(tar.offset)


def _content(file, member):
    """load() of a member: its content is read now, while the archive passes by, and what is wrong is told later."""
    try:
        if not member.isreg() or member.issparse():
            raise InputError("not a file")
        if member.size > MAX_BYTES:
            raise InputError(f"larger than {MAX_BYTES >> 20} MiB")
        check_listable(member.name)
        file.seek(member.offset_data)
        content = file.read(member.size)
        return lambda: content
    except InputError as error:
        reason = str(error)

    def refuse():
        raise InputError(reason)
    return refuse


def check_listable(path: str) -> None:
    """Raise InputError, with the reason alone, for a path that a .lst file, a line of UTF-8 for each image, cannot
    hold."""
    if Path(path).name in ("", ".."):
        raise InputError("its name is not that of a file")
    if any(unicodedata.category(character) in UNLISTABLE for character in path) or len(path.encode()) > MAX_NAME:
        raise InputError("its name has characters that a .lst file cannot hold or is too long")


def _check_names(where, classes):
    if not classes:
        raise InputError(f"{where}: no classes in it")
    for name in classes:
        try:
            check_listable(name)
        except InputError as error:
            raise InputError(f"{where}: class {name!r}: {error}") from None


def _listed(folder):
    """Entries of a folder, sorted by name, without the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: {last_line(error) if not error.strerror else error.strerror}") from None

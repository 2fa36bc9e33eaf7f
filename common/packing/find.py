"""What a folder holds to pack, and whether it is ImageNet."""
from collections import Counter
from pathlib import Path

from common.base.digest import digest
from common.base.errors import InputError
from common.base.files import check_regular, listed
from common.images.class_names import read_names
from common.packing.imagenet import ARCHIVES, DEVKIT, read_devkit
from common.packing.sources import FolderSource, Source, train_archive, val_archive

PARTS = ("val", "train")  # in the order they are packed: the small one first
SYNSET = Path(__file__).resolve().parents[2] / "data" / "imagenet1k-synset.txt"


def class_names(synset: str | Path) -> dict[str, str]:
    """{folder: name} of the classes in a file of a line for each, which begins with the folder's name; in its order.
    Raises InputError for another file."""
    lines = read_names(synset)
    names = {line.split()[0]: line for line in lines}
    if not names:
        raise InputError(f"{synset}: names no classes")
    if len(names) < len(lines):
        twice, _ = Counter(line.split()[0] for line in lines).most_common(1)[0]
        raise InputError(f"{synset}: has more than one class {twice!r}")
    return names


def find_sources(folder: str | Path, any_count: bool = False, synset: str | Path | None = None,
                 val_share: float | None = None, seed: int = 0) -> dict[str, Source]:
    """{"train": source, "val": source} of what `folder` holds: ImageNet's archives, or folders train/ and val/, whose
    classes are those of `synset` (see `class_names`), if it is given. With `val_share` both are of the same folders of
    classes, in `folder` or its train/ (see `FolderSource.split`).

    Unless `any_count`, it must be ImageNet: archives of the official size, its 1,000 classes, and in folders its number
    of images. Raises InputError for anything else, for damaged archives, and for nothing at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    archives = {part: folder / archive.name for part, archive in ARCHIVES.items() if (folder / archive.name).exists()}
    trees = {part: folder / part for part in PARTS if (folder / part).is_dir()}
    for path in archives.values():
        check_regular(path)
    if both := sorted(archives.keys() & trees.keys()):
        raise InputError(f"{folder}: holds {archives[both[0]].name} and the folder {both[0]}/: which one? Move one "
                         "away")
    if val_share:
        return _split(folder, archives.get("train") or archives.get("val") or trees.get("val"), synset, val_share, seed)
    if not archives and not trees:
        names = " and ".join(archive.name for archive in ARCHIVES.values())
        raise InputError(f"{folder}: holds neither {names} nor folders train/<class>/ and val/<class>/"
                         + ("; of folders of classes --val-share 0.1 makes both parts" if _folders(folder) else ""))
    if synset and archives:
        raise InputError(f"--synset {synset}: is for folders; the classes of {min(archives.values())} are known")
    devkit = _devkit(folder, archives, any_count)
    if not any_count:
        for part, path in archives.items():
            _check_size(path, ARCHIVES[part])
    sources: dict[str, Source] = {}
    classes, of = devkit and devkit.classes, "the training images"
    if synset:
        classes, of = tuple(class_names(synset)), str(synset)
    if "train" in archives:
        sources["train"] = train_archive(archives["train"], classes)
    elif "train" in trees:
        sources["train"] = FolderSource(trees["train"], classes, of)
    classes = classes or (sources["train"].classes if sources else None)
    if "val" in archives:
        sources["val"] = val_archive(archives["val"], devkit)
    elif "val" in trees:
        sources["val"] = FolderSource(trees["val"], classes, of)
    if not any_count:
        for part, source in sources.items():
            _check_is_imagenet(part, source)
    return {part: sources[part] for part in PARTS if part in sources}


def _split(folder, own, synset, val_share, seed):
    """Both parts of the folders of classes; `own`: what is there that makes them two parts, or an archive."""
    if own:
        raise InputError(f"--val-share {val_share:g}: is for folders of classes without a part to validate with, and "
                         f"there is {own}; leave it out, or move that away")
    train = folder / "train"
    whole = train if train.is_dir() and _folders(train) else folder  # it may be a class, of vehicles say
    classes = (tuple(class_names(synset)), str(synset)) if synset else ()
    return FolderSource(whole, *classes).split(val_share, seed)


def _folders(folder):
    return [entry.name for entry in listed(folder) if entry.is_dir()]


def _devkit(folder, archives, any_count):
    path = folder / DEVKIT.name
    if not archives:
        return None
    if not path.exists():
        if "val" in archives:
            raise InputError(f"{path}: missing, and it has the classes of the validation images; download it to this "
                             "folder")
        return None
    if not any_count:
        _check_size(path, DEVKIT)
        if (md5 := digest(path, "md5")) != DEVKIT.md5:
            raise InputError(f"{path}: its MD5 is {md5}, not the official {DEVKIT.md5}: damaged; download it again")
    return read_devkit(path)


def _check_size(path, official):
    if (size := path.stat().st_size) != official.size:
        raise InputError(f"{path}: {size} bytes, the official one has {official.size}: incomplete, or another set "
                         "(--any-count accepts other sets)")


def _check_is_imagenet(part, source):
    wnids = tuple(class_names(SYNSET))
    if source.classes != wnids:
        count = f"{len(source.classes)} classes" if len(source.classes) != len(wnids) else "other classes"
        raise InputError(f"{source.path}: {count} instead of ImageNet's 1000 (--any-count accepts other sets)")
    if isinstance(source, FolderSource) and source.size != ARCHIVES[part].images:
        raise InputError(f"{source.path}: {source.size} images instead of ImageNet's {ARCHIVES[part].images} "
                         "(--any-count accepts other sets)")

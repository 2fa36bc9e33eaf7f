"""Where the file of published weights is, and whether it is that file: found, downloaded, taken or recognised."""
import filecmp
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, cache_folder, check_size, make_folder, written_atomically
from common.checkpoint.params import checkpoint_files
from common.checkpoint.preprocessing import preprocessing_file, save_preprocessing
from common.zoo.download import DownloadError, download, extract_member
from common.zoo.hashes import HEX_DIGITS, fault, file_hash
from common.zoo.manifest import FIRST_EPOCH, MANIFEST, MODELS, Entry, entries, entry_of
from symbols.mobilenetv2_json import get_graph


def folders() -> list[Path]:
    """Where files are looked for, and downloaded to the first that can be written: models/ and the cache folder, or the
    folder that MOBILENETV2_MODELS names and models/."""
    if named := os.environ.get("MOBILENETV2_MODELS"):
        return [Path(named), MODELS]
    return [MODELS, cache_folder()]


def find(entry: Entry, folder: str | Path | None = None) -> tuple[Path | None, str | None]:
    """(path, None) of the first file in `folder`, else in `folders()`, that is the entry's; where none is, (path, why
    not) of the first that has its name; (None, None) where there is no such file."""
    first: tuple[Path | None, str | None] = (None, None)
    for path in _paths(entry, folder):
        try:
            reason = fault(path, **entry.known)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error.strerror
        if reason is None:
            return path, None
        first = first if first[0] else (path, reason)
    return first


def locate(name: str, folder: str | Path | None = None, manifest: str | Path = MANIFEST, **options: Any) -> Path:
    """The file of an entry, verified: the one that `find` finds, else downloaded to the first folder of those that can
    be written. `options` are those of `common.zoo.download.download`.

    Raises InputError where there is another file in its place, and where it cannot be had: the message names the URLs,
    the hash and the place for a file that is brought by hand.
    """
    entry = entry_of(name, manifest)
    path, reason = find(entry, folder)
    if reason:
        raise _another(path, entry, reason)
    if path:
        return path
    path = _target(entry, folder)
    try:
        download(entry.urls, path, member=entry.member, **entry.known, **options)
    except DownloadError as error:
        raise InputError(f"{name} cannot be downloaded: {error}. Where you have the file ({_expected(entry)}), put it "
                         f"at {path}, or run: python -m common.modelzoo fetch {name} --from FILE") from None
    complete(entry, path)
    return path


def fetch(name: str, folder: str | Path | None = None, manifest: str | Path = MANIFEST, **options: Any) -> Path:
    """As `locate`; a checkpoint of MXNet's has its PREFIX-symbol.json and PREFIX-preprocess.json beside it. Where they
    are not there and cannot be written, its file is copied to the first folder in which they can be."""
    entry, path = entry_of(name, manifest), locate(name, folder, manifest, **options)
    try:
        complete(entry, path)
    except OSError:
        copy = _target(entry, folder)
        if copy.parent == path.parent:
            raise
        return fetch(name, copy.parent, manifest) if copy.exists() else take(name, path, copy.parent, manifest)
    return path


def take(name: str, file: str | Path, folder: str | Path | None = None, manifest: str | Path = MANIFEST) -> Path:
    """Put a file that was brought by hand where `fetch` finds it, if it is the entry's or the archive that holds it,
    with the files that `fetch` puts beside it.

    Raises InputError where it is not, or where there is another file in its place.
    """
    entry = entry_of(name, manifest)
    check_size(file, MOST_WEIGHTS)
    path = _target(entry, folder)
    if path.exists() and (reason := fault(path, **entry.known)):
        raise _another(path, entry, reason)
    with written_atomically(path) as partial:
        if entry.member and zipfile.is_zipfile(file):
            try:
                extract_member(file, entry.member, partial)
            except InputError as error:
                raise InputError(f"{file}: {error}") from None
        else:
            shutil.copyfile(file, partial)
        if reason := fault(partial, **entry.known):
            raise InputError(f"{file}: is not the file of {name}: {reason}")
        if path.exists() and not filecmp.cmp(path, partial, shallow=False):  # no hash of it is known
            raise InputError(f"{path}: is there already, and another file than {file}; move it away")
    complete(entry, path)
    return path


def verify(path: str | Path, manifest: str | Path = MANIFEST) -> tuple[Entry, bool]:
    """(the entry whose file this is, True); False where its hash is not known, and name and format are the entry's.

    Raises InputError for any other file, and for one that cannot be read.
    """
    check_size(path, MOST_WEIGHTS)
    try:
        hashes = {algorithm: file_hash(path, algorithm) for algorithm in HEX_DIGITS}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    found = entries(manifest).values()
    for entry in found:
        if entry.hash and hashes[entry.hash.algorithm.removesuffix("-prefix")].startswith(entry.hash.value):
            return entry, True
    for entry in found:
        if not entry.hash and entry.file == Path(path).name and not fault(path, **entry.known):
            return entry, False
    raise InputError(f"{path}: is none of the files in {manifest} "
                     f"({', '.join(f'{algorithm} {digits}' for algorithm, digits in hashes.items())})")


def _paths(entry, folder):
    return [Path(place) / entry.file for place in (folders() if folder is None else [folder])]


def _target(entry: Entry, folder: str | Path | None) -> Path:
    """The place of an entry's file in the first folder that can be written, which is made where it is not there."""
    reasons = []
    for path in _paths(entry, folder):
        try:
            make_folder(path.parent)
            return path
        except InputError as error:
            reasons.append(str(error))
    raise InputError("; ".join(reasons))


def _another(path: Path, entry: Entry, reason: str) -> InputError:
    return InputError(f"{path}: is not the file of {entry.name} ({reason}); move it away (or, where it is a checkpoint "
                      "of your own, give it as --model-prefix)")


def _expected(entry):
    return f"{entry.file}, {entry.hash or 'of which no hash is known'}"


def complete(entry: Entry, path: Path) -> None:
    """Write PREFIX-symbol.json and PREFIX-preprocess.json, as the manifest has them, beside the weights `path` of an
    entry in MXNet's layout; only what is not there already. Raises OSError where they cannot be written."""
    if entry.layout != "mxnet":
        return
    prefix = str(path).removesuffix(FIRST_EPOCH)
    symbol_file, _ = checkpoint_files(prefix, 0)
    if not Path(symbol_file).exists():
        with written_atomically(symbol_file) as partial:
            graph = get_graph(entry.classes, **entry.network)
            Path(partial).write_text(json.dumps(graph, indent=2) + "\n", encoding="utf-8")
    if not Path(preprocessing_file(prefix)).exists():
        save_preprocessing(prefix, entry.preprocessing)

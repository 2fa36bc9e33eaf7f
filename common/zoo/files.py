"""The files of published weights: found and verified, downloaded, taken from elsewhere, or recognised."""
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
    """(path, None) of the first file in `folder`, else in `folders()`, that is the entry's; else (path, why not)
    of the first file with its name; (None, None) without such a file."""
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
    """The verified file of an entry: the one that `find` finds, else it is downloaded to the first folder that can be
    written. `options` are those of `common.zoo.download.download`.

    Raises InputError if another file is in its place, or it cannot be downloaded: the message then names the URLs, the
    hash, and the place for a file that is brought by hand.
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
        raise InputError(f"{name} cannot be downloaded: {error}. If you have the file ({_expected(entry)}), put it "
                         f"at {path}, or run: python -m common.modelzoo fetch {name} --from FILE") from None
    complete(entry, path)
    return path


def fetch(name: str, folder: str | Path | None = None, manifest: str | Path = MANIFEST, **options: Any) -> Path:
    """As `locate`; a checkpoint in MXNet's layout then has PREFIX-symbol.json and PREFIX-preprocess.json beside it. If
    they are missing and cannot be written, its file is copied to the first folder that can be written."""
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
    """Put a file that was brought by hand, the entry's own or the archive that holds it, into the place where `fetch`
    finds it, with the files that `fetch` puts beside it.

    Raises InputError if it is another file, or if another file is in its place.
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
            raise InputError(f"{path}: exists, and is another file than {file}; move it away")
    complete(entry, path)
    return path


def verify(path: str | Path, manifest: str | Path = MANIFEST) -> tuple[Entry, bool]:
    """(the entry whose file this is, True); False if its hash is not known, and only name and format are the entry's.

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
    """The place of an entry's file in the first folder that can be written; the folder is made."""
    reasons = []
    for path in _paths(entry, folder):
        try:
            make_folder(path.parent)
            return path
        except InputError as error:
            reasons.append(str(error))
    raise InputError("; ".join(reasons))


def _another(path: Path, entry: Entry, reason: str) -> InputError:
    return InputError(f"{path}: is not the file of {entry.name} ({reason}); move it away (or, if it is a checkpoint "
                      "of your own, give it as --model-prefix)")


def _expected(entry):
    return f"{entry.file}, {entry.hash or 'no hash is known'}"


def complete(entry: Entry, path: Path) -> None:
    """Write PREFIX-symbol.json and PREFIX-preprocess.json, as the manifest has them, beside the weights `path` of an
    entry in MXNet's layout, unless they exist. Raises OSError if they cannot be written."""
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

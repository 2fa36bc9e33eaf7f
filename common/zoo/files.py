"""Where the file of published weights is, and whether it is that file: found, downloaded, taken or recognised."""
import os
import shutil
import zipfile
from pathlib import Path

from common.errors import InputError
from common.files import written_atomically
from common.zoo.download import DownloadError, download, extract_member
from common.zoo.hashes import HEX_DIGITS, fault, file_hash
from common.zoo.manifest import MANIFEST, MODELS, Entry, entries, entry_of

# how the files begin whose hash may be unknown: (offset, bytes)
SIGNATURES = {"timm": (8, b'{"'), "keras": (0, b"\x89HDF\r\n\x1a\n")}


def cache_folder() -> Path:
    if folder := os.environ.get("MOBILENETV2_MODELS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mxnet-mobilenet-v2"


def fault_of(path, entry: Entry) -> str | None:
    """Why a file is not that of an entry; None where nothing speaks against it."""
    reason = fault(path, entry.hash, entry.size)
    if reason or entry.hash or entry.layout not in SIGNATURES:
        return reason
    offset, signature = SIGNATURES[entry.layout]
    with open(path, "rb") as file:
        start = file.read(offset + len(signature))
    return None if start[offset:] == signature else f"it is not in the format of {Path(entry.file).suffix} files"


def find(entry: Entry, folder=None) -> Path | None:
    """Where the file of an entry is: in `folder`, else in models/ or the cache folder. It is not verified."""
    return next((path for path in _paths(entry, folder) if path.exists()), None)


def fetch(name: str, folder=None, manifest=MANIFEST, **options) -> Path:
    """The file of an entry, verified: the one that `find` finds, else downloaded to the first folder of those that can
    be written. `options` are those of `common.zoo.download.download`.

    Raises InputError where there is another file in its place, and where it cannot be had: the message names the URLs,
    the hash and the place for a file that is brought by hand.
    """
    entry = entry_of(name, manifest)
    if path := find(entry, folder):
        _refuse_another(path, entry)
        return path
    path = _target(entry, folder)
    try:
        return download(entry.urls, path, entry.hash, entry.size, entry.member, lambda file: _check(file, entry),
                        **options)
    except DownloadError as error:
        raise InputError(f"{name} cannot be downloaded: {error}. Where you have the file ({_expected(entry)}), put it "
                         f"at {path}, or run: python -m common.modelzoo fetch {name} --from FILE") from None


def take(name: str, file, folder=None, manifest=MANIFEST) -> Path:
    """Put a file that was brought by hand where `fetch` finds it, if it is the entry's or the archive that holds it.

    Raises InputError where it is not, or where there is another file in its place.
    """
    entry = entry_of(name, manifest)
    path = find(entry, folder) or _target(entry, folder)
    if path.exists():
        _refuse_another(path, entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        if entry.member and zipfile.is_zipfile(file):
            try:
                extract_member(file, entry.member, partial)
            except InputError as error:
                raise InputError(f"{file}: {error}") from None
        else:
            shutil.copyfile(file, partial)
        if reason := fault_of(partial, entry):
            raise InputError(f"{file}: is not the file of {name}: {reason}")
    return path


def verify(path, manifest=MANIFEST) -> tuple:
    """(the entry whose file this is, True); False where its hash is not known, and name and format are the entry's.

    Raises InputError for any other file.
    """
    hashes = {algorithm: file_hash(path, algorithm) for algorithm in HEX_DIGITS}
    found = entries(manifest).values()
    for entry in found:
        if entry.hash and hashes[entry.hash.algorithm.removesuffix("-prefix")].startswith(entry.hash.value):
            return entry, True
    for entry in found:
        if not entry.hash and entry.file == Path(path).name and not fault_of(path, entry):
            return entry, False
    raise InputError(f"{path}: is none of the files in {manifest} "
                     f"({', '.join(f'{algorithm} {digits}' for algorithm, digits in hashes.items())})")


def _paths(entry, folder):
    return [Path(place) / entry.file for place in ([MODELS, cache_folder()] if folder is None else [folder])]


def _target(entry, folder) -> Path:
    paths = _paths(entry, folder)
    return next((path for path in paths if os.access(path.parent, os.W_OK)), paths[-1])


def _refuse_another(path, entry):
    if reason := fault_of(path, entry):
        raise InputError(f"{path}: is not the file of {entry.name} ({reason}); move it away (or, where it is a "
                         "checkpoint of your own, give it as --model-prefix)")


def _check(file, entry):
    if reason := fault_of(file, entry):
        raise InputError(reason)


def _expected(entry):
    return f"{entry.file}, {entry.hash or 'of which no hash is known'}"

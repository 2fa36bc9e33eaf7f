"""PREFIX.lst beside PREFIX.rec: the names of the files that records were made from, as im2rec.py and packing here write
them: number, label and name, with tabs between."""
from collections.abc import Sequence
from pathlib import Path

from common.base.errors import InputError
from common.base.files import check_regular
from common.images.recordio import IMAGE_HEADER, list_file, read_records, unpack_image

HEAD = IMAGE_HEADER.size + 4  # bytes of a record, up to its label


def listed_names(files: Sequence[tuple[str, str]]) -> list[str] | None:
    """The name of each record of `files`, as `common.images.recordio.record_files` gives them; None unless there is a
    list beside each. Raises InputError for a list that is not theirs."""
    lists = [list_file(rec) for rec, _ in files]
    if not all(Path(path).is_file() for path in lists):
        return None
    return [name for (rec, _), path in zip(files, lists) for name in _names(rec, path)]


def _names(rec, path):
    """By the records' own numbers: im2rec.py also lists images that it could not read and has no records of."""
    listed = _listed(path)
    for _, head in read_records(rec, head=HEAD):
        number, label, _ = unpack_image(head)
        listed_label, name = listed.get(number, (None, ""))
        if listed_label != label:
            raise InputError(f"{path}: lacks record {number} of label {label:g}, and so is not the list of {rec}")
        yield name


def _listed(path):
    check_regular(path)
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            lines = (line.rstrip("\n").split("\t") for line in file)
            return {int(number): (float(label), name) for number, label, *_, name in lines}
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or 'not the list of a RecordIO file'}") from None

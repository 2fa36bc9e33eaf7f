"""dataset.json: what a folder of packed images holds, written beside its records and read by training."""
import os
from pathlib import Path

from common.base.errors import InputError
from common.base.files import read_json
from common.images.recordio import folder_of

NAME = "dataset.json"
FORMAT = 1


def read_dataset(folder: str | Path) -> dict | None:
    """The dataset.json of a folder; None if there is none, or one of another program. Raises InputError for one that is
    not usable."""
    path = Path(folder) / NAME
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    if not isinstance(content, dict) or "format" not in content:
        return None
    try:
        if content["format"] != FORMAT:
            raise InputError(f"{path}: has format {content['format']!r:.40}; this version reads {FORMAT}")
        if not (_positive(content["options"]["short_side"]) and isinstance(content["classes"], list)
                and all(_positive(part["images"]) and all(_positive(file["bytes"]) and isinstance(file["sha256"], str)
                                                       and Path(name).name == name  # beside this file
                                                       for name, file in part["files"].items())
                        for part in content["parts"].values())):
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not a description of packed images; remove or rename it") from None
    return content


def classes_beside(records: str) -> int | None:
    """The number of classes in dataset.json beside `records`, as `common.images.recordio.record_files` takes them; None
    if there is no such file. Raises InputError for one that is not usable."""
    dataset = read_dataset(folder_of(records))
    return len(dataset["classes"]) if dataset else None


def _positive(number):
    return isinstance(number, int) and number > 0


def packed_as(rec: str | Path) -> tuple:
    """(shorter side of the packed images, their number) of a record file that the dataset.json beside it lists;
    (None, None) otherwise. Raises InputError if the file has another size than is written there."""
    rec = Path(rec)
    dataset = read_dataset(rec.parent)
    for part in dataset["parts"].values() if dataset else ():
        file = part["files"].get(rec.name)
        if file and rec.exists():
            if (size := os.path.getsize(rec)) != file["bytes"]:
                raise InputError(f"{rec}: {size} bytes, {NAME} beside it says {file['bytes']}: a copy is not "
                                 f"complete, or {NAME} belongs to other records (remove it then)")
            return dataset["options"]["short_side"], part["images"]
    return None, None


def batches_in_epoch(examples: int, batch_size: int, workers: int = 1) -> int:
    """The same number for every epoch and worker: as many as it takes for every image to be met."""
    return -(-examples // (batch_size * workers))

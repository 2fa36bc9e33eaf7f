"""What a RecordIO file of images holds: counts, sizes, a look at some of them, and whether any is damaged."""
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.base.digest import digest
from common.base.errors import ImageError, InputError
from common.base.files import written_atomically
from common.base.machine import usable_processors
from common.images.dataset import NAME, read_dataset
from common.images.decoding import decode, image_size
from common.images.recordio import HEAD, read_records, unpack_image
from common.packing.progress import in_order, progress

THUMBNAIL, CAPTION, GAP = 144, 16, 6  # pixels
LONGEST_CAPTION = 100  # characters; about 30 fit
MAX_IMAGES = 1000  # on a contact sheet


@dataclass
class Summary:
    """bytes: of the file; offsets: of the records, in order; labels, sizes: how many images have each label, and each
    (width, height); unreadable: how many records are not images."""
    bytes: int
    offsets: array = field(default_factory=lambda: array("Q"))
    labels: Counter[float] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    unreadable: int = 0


def summarise(rec: str | Path) -> Summary:
    """Reads the head of each record. Raises InputError for a file that is damaged or not one of images."""
    try:
        summary = Summary(Path(rec).stat().st_size)
        with progress(f"{Path(rec).name}: reading", summary.bytes) as show:
            for offset, head in read_records(rec, head=HEAD):
                _, label, encoded = split(rec, offset, head)
                size = _size(encoded) or _size(split(rec, *next(read_records(rec, offset)))[2])
                summary.offsets.append(offset)
                summary.labels[label] += 1
                if size:
                    summary.sizes[size] += 1
                else:
                    summary.unreadable += 1
                show(offset, len(summary.offsets))
    except OSError as error:
        raise InputError(f"{rec}: {error.strerror}") from None
    if not summary.offsets:
        raise InputError(f"{rec}: empty")
    return summary


def split(rec: str | Path, offset: int, record: bytes) -> tuple[int, float, bytes]:
    """(number, label, encoded image) of a record's payload. Raises InputError if it has another form."""
    try:
        number, label, encoded = unpack_image(record)
    except InputError as error:
        raise InputError(f"{rec}: the record at byte {offset} {error}") from None
    return number, int(label) if label.is_integer() else label, encoded


def _size(encoded):
    try:
        return image_size(encoded)
    except ImageError:
        return None


def contact_sheet(rec: str | Path, summary: Summary, names: Sequence[str], path: str | Path, count: int,
                  seed: int) -> None:
    """Draw `count` random images, in the order of the file, with their labels and names, to the PNG file `path`."""
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{path}: the contact sheet is a PNG; give it a name that ends in .png")
    if count > MAX_IMAGES:
        raise InputError(f"{count} images are too many for a contact sheet; {MAX_IMAGES} at most")
    chosen = sorted(random.Random(seed).sample(summary.offsets, min(count, len(summary.offsets))))
    columns = max(1, round((len(chosen) * 1.6) ** 0.5))
    cell = THUMBNAIL + GAP, THUMBNAIL + CAPTION + GAP
    sheet = Image.new("RGB", (columns * cell[0] + GAP, -(-len(chosen) // columns) * cell[1] + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, offset in enumerate(chosen):
        left, top = GAP + i % columns * cell[0], GAP + i // columns * cell[1]
        _, label, encoded = split(rec, *next(read_records(rec, offset)))
        try:
            image = Image.fromarray(np.ascontiguousarray(decode(encoded, upright=False)[..., ::-1]))
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, top + (THUMBNAIL - image.height) // 2))
        except ImageError:
            draw.text((left, top), "damaged", "red", font)
        text = (f"{label}: {names[int(label)]}" if label in range(len(names)) else f"{label}")[:LONGEST_CAPTION]
        while font.getlength(text) > THUMBNAIL:
            text = text[:-2].rstrip("…") + "…"
        draw.text((left, top + THUMBNAIL), text, "black", font)
    with written_atomically(path) as partial:
        sheet.save(partial, "PNG")


def problems(rec: str | Path, workers: int | None = None) -> Iterator[str]:
    """Yields a line for each thing that is wrong with a file and those that belong to it: checksums that are not those
    in dataset.json, images that cannot be decoded, an index or a list that does not match."""
    rec = Path(rec)
    yield from _wrong_checksums(rec)
    idx, lst = rec.with_suffix(".idx"), rec.with_suffix(".lst")
    indexed = _parsed(idx, lambda number, offset: (int(number), int(offset)))
    listed = _parsed(lst, lambda number, label, *_: (int(number), float(label)))
    workers = workers or usable_processors()
    with ThreadPoolExecutor(workers) as pool, progress(f"{rec.name}: decoding", rec.stat().st_size) as show:
        try:
            images = in_order(pool, workers, lambda record: _damage(rec, *record), read_records(rec))
            for count, ((offset, record), reason) in enumerate(images, 1):
                number, label, _ = split(rec, offset, record)
                if not reason and not (label >= 0 and float(label).is_integer()):
                    reason = f"its label {float(label):g} is not the number of a class"
                if reason:
                    yield f"{rec}: record {number}, at byte {offset}: {reason}"
                if indexed and next(indexed, None) != (number, offset):
                    yield f"{idx}: line {count} is not that of the record"
                    indexed = None
                # im2rec.py also lists images that it could not read and has no records of
                if listed and next((line for line in listed if not line or line[0] == number), None) != (number, label):
                    yield f"{lst}: lacks record {number} of label {label} at its place"
                    listed = None
                show(offset, count)
        except InputError as error:
            yield str(error)
            return
    if indexed and next(indexed, None):
        yield f"{idx}: has lines without records"


def _wrong_checksums(rec):
    dataset = read_dataset(rec.parent)
    part = next((part for part in dataset["parts"].values() if rec.name in part["files"]), None) if dataset else None
    if part is None:
        print(f"{rec}: no {NAME} beside it lists it, so there are no checksums to compare")
        return
    for name, file in part["files"].items():
        path = rec.with_name(name)
        if not path.is_file():
            yield f"{path}: missing"
        elif path.stat().st_size != file["bytes"]:
            yield f"{path}: {path.stat().st_size} bytes, {NAME} says {file['bytes']}"
        else:
            with progress(f"{path.name}: checksum", file["bytes"]) as show:
                if digest(path, "sha256", show) != file["sha256"]:
                    yield f"{path}: its SHA-256 is not the one in {NAME}"


def _damage(rec, offset, record):
    """Why the image of a record cannot be decoded; None if it can."""
    try:
        decode(split(rec, offset, record)[2], upright=False)
    except ImageError as error:
        return str(error)
    return None


def _parsed(path, parse):
    """parse(*fields) of each line of a file, None for a line that cannot be parsed; None for a missing file."""
    if not path.exists():
        return None

    def lines():
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                try:
                    yield parse(*line.rstrip("\n").split("\t"))
                except (ValueError, TypeError):
                    yield None
    return lines()

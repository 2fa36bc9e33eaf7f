"""What models/zoo.toml says: the published weights, their places and their use."""
import re
from pathlib import Path
from typing import NamedTuple

from common.base.errors import InputError
from common.base.files import read_toml
from common.checkpoint.preprocessing import Preprocessing, preprocessing_from
from common.zoo.hashes import HEX_DIGITS, PREFIX, Hash
from symbols.architecture import architecture

MODELS = Path(__file__).resolve().parents[2] / "models"
MANIFEST = MODELS / "zoo.toml"
LAYOUTS = ("mxnet", "gluon", "torchvision", "timm", "keras")
KINDS = ("author", "project", "withdrawn")
REQUIRED: dict[str, type | tuple] = {"file": str, "urls": list, "layout": str, "network": dict, "preprocessing": str,
                                     "licence": str, "accuracy": dict, "sources": list, "unverified": list}
OPTIONAL: dict[str, type | tuple] = {"hash": str, "size": int, "megabytes": (int, float), "member": str, "note": str,
                                     "classes": int}
FIELDS = REQUIRED | OPTIONAL
SHORTEST_PREFIX = 8  # digits of a hash
FIRST_EPOCH = "-0000.params"  # behind the PREFIX of a checkpoint of MXNet's
# the first bytes of files whose hash may be unknown: (offset, bytes)
SIGNATURES = {"timm": (8, b'{"'), "keras": (0, b"\x89HDF\r\n\x1a\n")}


class Accuracy(NamedTuple):
    """Published percentages, and who counted them: one of KINDS."""
    top1: float  # %
    top5: float
    kind: str  # of KINDS


class Entry(NamedTuple):
    """A table of the manifest, which explains the fields; None stands for what is not known."""
    name: str
    file: str
    urls: tuple[str, ...]
    layout: str
    network: dict
    preprocessing: Preprocessing
    licence: str
    accuracy: Accuracy
    sources: tuple[str, ...]
    unverified: tuple[str, ...]
    hash: Hash | None = None
    size: int | None = None
    megabytes: float | None = None
    member: str | None = None
    note: str = ""
    classes: int = 1000

    @property
    def known(self) -> dict:
        """What its file can be recognised by: keywords of `common.zoo.hashes.fault`."""
        return {"expected": self.hash, "size": self.size, "start": SIGNATURES.get(self.layout)}


def entries(manifest: str | Path = MANIFEST) -> dict[str, Entry]:
    """{name: Entry}. Raises InputError for a manifest that is not as models/zoo.toml."""
    content, tables = read_toml(manifest), {}
    for key in ("preprocessing", "weights"):
        tables[key] = content.get(key, {})
        if not isinstance(tables[key], dict) or not all(isinstance(table, dict) for table in tables[key].values()):
            raise InputError(f"{manifest}: {key}: give tables, as [{key}.NAME]")
    preprocessing = {name: preprocessing_from(table, f"{manifest}: preprocessing.{name}")
                     for name, table in tables["preprocessing"].items()}
    found = {}
    for name, table in tables["weights"].items():
        try:
            found[name] = _entry(name, table, preprocessing)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise InputError(f"{manifest}: weights.{name}: {error}") from None
    return found


def entry_of(name: str, manifest: str | Path = MANIFEST) -> Entry:
    """The Entry of that name. Raises InputError for an unknown name; the message lists the known ones."""
    found = entries(manifest)
    if name not in found:
        raise InputError(f"no weights {name!r} in {manifest}; there are {', '.join(found)}")
    return found[name]


def _entry(name, table, preprocessing):
    for field in (*REQUIRED, *table):
        _need(field in table, f"has no {field}")
        _need(field in FIELDS, f"has an unknown field, {field}")
        _need(isinstance(table[field], FIELDS[field]), f"{field}: of another type than in models/zoo.toml")
    for field in ("urls", "sources", "unverified"):
        _need(all(isinstance(text, str) for text in table[field]), f"{field}: give texts")
    for field in ("file", "member"):
        _need(re.fullmatch(r"[\w.-]+", table.get(field, "x")) and table.get(field, "x")[0] != ".",
              f"{field}: not a file's plain name")
    _need(table["urls"] and all(url.startswith(("http://", "https://")) for url in table["urls"]),
          "urls: give at least one, of http or https")
    _need("multiplier" in table["network"] and "channels" not in table["network"], "network: give a multiplier")
    _need(table["layout"] in LAYOUTS, f"layout: give one of {', '.join(LAYOUTS)}")
    _need(table["layout"] != "mxnet" or table["file"].endswith(FIRST_EPOCH), f"file: give PREFIX{FIRST_EPOCH}")
    _need(set(table["unverified"]) <= set(FIELDS), "unverified: names of fields")
    for field in ("size", "megabytes", "classes"):
        _need(0 < table.get(field, 1) < 2 ** 63, f"{field}: give a number")
    architecture(**table["network"])
    accuracy = Accuracy(**table["accuracy"])
    _need(accuracy.kind in KINDS and 0 < accuracy.top1 <= accuracy.top5 <= 100, "accuracy: top1, top5 and a kind")
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in table.items()}
    return Entry(**{"name": name, **given, "hash": _hash(table.get("hash")), "accuracy": accuracy,
                    "preprocessing": preprocessing[table["preprocessing"]]})


def _hash(text):
    if text is None:
        return None
    algorithm, _, digits = text.partition(" ")
    lengths = range(SHORTEST_PREFIX, 65) if algorithm == PREFIX else [HEX_DIGITS.get(algorithm)]
    _need(re.fullmatch("[0-9a-f]+", digits) and len(digits) in lengths, f"hash: {text!r} is not one")
    return Hash(algorithm, digits)


def _need(condition, message):
    if not condition:
        raise ValueError(message)

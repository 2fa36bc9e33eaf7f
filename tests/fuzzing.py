"""Damaged files, and the readers that have to refuse or understand each: `python -m tests.fuzzing KIND COUNT FOLDER`.

FOLDER/seeds/KIND holds whole files. Each case is one of them, changed as its number says, in FOLDER/KIND-NUMBER; the
file stays where a reader did anything but return what its consumers need or raise an InputError of one line. A case
has 20 seconds (60 where it is read in a process of its own), or the signal ends this process, and the process a
gigabyte of memory (8 where MXNet runs) beside what its imports take.
Prints how many files were read and how many refused.
"""
import argparse
import copy
import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import traceback
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.base.errors import InputError, is_of_memory
from common.base.files import tomllib

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEMORY = 20, 2 ** 30
SECONDS_CONFINED = 60
MEMORY_MXNET = 2 ** 33  # much of it is only reserved, for threads
MOST_FAILURES = 5

HUGE = (0, 1, -1, 2, 7, 2 ** 31 - 1, -2 ** 31, 2 ** 32 - 1, 2 ** 40, 2 ** 62, 2 ** 63 - 1, -2 ** 63)
SIZES = (0, 1, 2, 3, 255, 4096, 6688, 9000, 9459, 16383, 65500, 65535, 2 ** 24 - 1, 2 ** 31 - 1, 2 ** 32 - 1)
# of chunks of PNG and WebP: where in their content sizes, places and kinds of pixels stand, and how long they are
NUMBERS = {b"IHDR": ((0, 4), (4, 4), (8, 1), (9, 1), (12, 1)), b"VP8 ": ((6, 2), (8, 2)), b"VP8L": ((1, 4),),
           b"VP8X": ((0, 1), (4, 3), (7, 3)), b"ANMF": ((0, 3), (3, 3), (6, 3), (9, 3))}
ODD = (None, True, False, 0, 1, -1, 0.5, 5e-324, 1e29, 1e308, 4096, 50_000, 2 ** 31, 2 ** 63, -2 ** 63, 10 ** 400,
       float("nan"), float("inf"), float("-inf"), "", "x", "data", "\ud800", "a\nb", "\0", "0", "-1", "1e999", "nan",
       "True", "None", "()", "(3, 3)", "(0, 0)", "(1, -1)", "(3)", "(2147483648, 99999999999999999999)", "(1" * 50_000,
       "9" * 50_000, " " * 50_000, [], {}, [[]], [0], [0, 0, 0], {"op": 0}, "@deep@", "@digits@", "@real@", "@control@")
RAW = {'"@deep@"': "[" * 100_000 + "]" * 100_000, '"@digits@"': "9" * 5000, '"@real@"': "1e999999", "@control@": "\1"}


def changed_bytes(rng, content: bytes, others, within=None) -> bytes:
    """`content` cut, with bits or runs of bytes changed, numbers made huge or negative, or parts of another file.

    What is changed lies mostly in the first `within` bytes.
    """
    def position():
        end = within if within and rng.rand() < 0.8 else len(content)
        return rng.randint(min(end, len(content)) + 1)

    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, length, kind = position(), int(2 ** rng.uniform(0, 8)), rng.randint(7)
        if kind == 0:
            del content[at:]
        elif kind == 1 and at < len(content):
            content[at] ^= 1 << rng.randint(8)
        elif kind == 2:
            content[at:at + length] = rng.choice([b"\0", b"\xff", b"[", b"9"]) * length
        elif kind == 3:
            code = rng.choice(["<i", "<q"])
            bits = 8 * struct.calcsize(code)
            value = HUGE[rng.randint(len(HUGE))] % 2 ** bits
            at -= at % 4
            content[at:at + bits // 8] = value.to_bytes(bits // 8, "little")
        elif kind == 4:
            other = others[rng.randint(len(others))]
            start = rng.randint(len(other) + 1)
            content[at:at + length] = other[start:start + length * rng.choice([1, 8])]
        elif kind == 5:
            content[at:at] = content[at:at + length]
        else:
            del content[at:at + length]
    return bytes(content)


def changed_json(rng, content: bytes, others) -> bytes:
    """`content` with values of other types or from elsewhere in it, with keys gone or given twice, or as bytes."""
    if rng.rand() < 0.2:
        return changed_bytes(rng, content, others)
    root = _changed_values(rng, json.loads(content))
    text = json.dumps(root, indent=[None, 2][rng.randint(2)])
    keys = list(re.finditer(r'"(\w+)": ', text))
    if keys and rng.rand() < 0.1:
        key = keys[rng.randint(len(keys))]
        text = f"{text[:key.start()]}{key[0]}{json.dumps(ODD[rng.randint(len(ODD))])}, {text[key.start():]}"
    return _with_raw(text)


def changed_toml(rng, content: bytes, others) -> bytes:
    if rng.rand() < 0.3:
        return changed_bytes(rng, content, others)
    root = _changed_values(rng, tomllib.loads(content.decode()))
    return _with_raw("\n".join(f"{json.dumps(key)} = {_toml(value)}" for key, value in root.items()))


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, float) else json.dumps(value or "" if value is None else value)


def _with_raw(text):
    for placeholder, raw in RAW.items():
        text = text.replace(placeholder, raw)
    return text.encode()


def _changed_values(rng, root):
    for _ in range(rng.randint(1, 4)):
        places = _places(root, [])
        if not places:
            break
        (parent, key), (other, other_key) = (places[rng.randint(len(places))] for _ in range(2))
        kind = rng.randint(5)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            parent[key] = copy.deepcopy(other[other_key])
        elif kind == 2 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[rng.randint(len(parent))]))
        else:
            parent[key] = copy.deepcopy(ODD[rng.randint(len(ODD))])
    return root


def _places(value, found):
    """(list or dict, key) of every value within `value`; the leaves more often than what holds them."""
    for key in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
        found += [(value, key)] * (1 if isinstance(value[key], (dict, list)) else 3)
        _places(value[key], found)
    return found


def changed_safetensors(rng, content: bytes, others) -> bytes:
    length = 8 + struct.unpack("<Q", content[:8])[0]
    if rng.rand() < 0.4:
        return changed_bytes(rng, content, others, within=length)
    header = changed_json(rng, content[8:length], [content])
    return struct.pack("<Q", len(header)) + header + content[length:]


def changed_onnx(rng, content: bytes, others) -> bytes:
    """Mostly with fields of other values, of other places, gone or given twice, in a message that is right."""
    import onnx
    if rng.rand() < 0.3:
        return changed_bytes(rng, content, others)
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.randint(1, 4)):
        fields = list(_message_fields(model))
        message, field = fields[rng.randint(len(fields))]
        same = [other for other, kind in fields if kind is field]
        other = getattr(same[rng.randint(len(same))], field.name)
        if rng.rand() < 0.1:
            message.ClearField(field.name)
        elif field.is_repeated:
            value = getattr(message, field.name)
            at, kind = rng.randint(len(value)), rng.randint(3)
            if kind == 0:
                del value[at]
            elif kind == 1:
                value.extend(list(other)[:rng.randint(1, 9)])
            elif field.message_type is not None:
                value[at].CopyFrom(other[rng.randint(len(other))])
            else:
                value[at] = _scalar(rng, field, value[at], other[rng.randint(len(other))])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(other)
        else:
            setattr(message, field.name, _scalar(rng, field, getattr(message, field.name), other))
    return model.SerializeToString()


def _message_fields(message):
    """(message, field) of every field that is set, in this message and in those within it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for part in (value if field.is_repeated else [value]):
                yield from _message_fields(part)


def _scalar(rng, field, value, other):
    if rng.rand() < 0.4:
        return other
    if field.enum_type is not None:
        return field.enum_type.values[rng.randint(len(field.enum_type.values))].number
    if isinstance(value, int):
        bits = 32 if field.cpp_type == field.CPPTYPE_INT32 else 64
        number = [*HUGE, *range(20)][rng.randint(len(HUGE) + 20)]
        return (number + 2 ** (bits - 1)) % 2 ** bits - 2 ** (bits - 1)
    if isinstance(value, float):
        return [0.0, -1.0, 1e38, float("inf"), float("nan")][rng.randint(5)]
    if isinstance(value, bytes):
        return changed_bytes(rng, value, [other])
    return ["", "x", "a\nb", value + "x", value[:-1]][rng.randint(5)]


def changed_npz(rng, content: bytes, others) -> bytes:
    """Mostly with a changed header or array under a checksum that is right."""
    if rng.rand() < 0.3:
        return changed_bytes(rng, content, others)
    archive = zipfile.ZipFile(io.BytesIO(content))
    members = {name: archive.read(name) for name in archive.namelist()}
    names, changed = list(members), io.BytesIO()
    for _ in range(rng.randint(1, 3)):
        name = names[rng.randint(len(names))]
        members[name] = changed_bytes(rng, members[name], [members[names[rng.randint(len(names))]]], within=100)
    with zipfile.ZipFile(changed, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return changed.getvalue()


def changed_keras(rng, content: bytes, others) -> bytes:
    """Of an archive, the configuration or the weights."""
    if not content.startswith(b"PK"):
        return changed_bytes(rng, content, others)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(changed, "w") as out:
        of_weights = rng.rand() < 0.5
        for name in archive.namelist():
            member = archive.read(name)
            if name == "model.weights.h5" and of_weights:
                member = changed_bytes(rng, member, others)
            elif name == "config.json" and not of_weights:
                member = changed_json(rng, member, others)
            out.writestr(name, member)
    return changed.getvalue()


def changed_image(rng, content: bytes, others) -> bytes:
    """Mostly with numbers in its headers that lie, such as sizes and lengths, under checksums that are right."""
    if rng.rand() < 0.3:
        return changed_bytes(rng, content, others)
    changed, fields = bytearray(content), list(_fields(content))
    for _ in range(rng.randint(1, 4)):
        at, length, order = fields[rng.randint(len(fields))]
        number = (SIZES[rng.randint(len(SIZES))] if rng.rand() < 0.7 else rng.randint(2 ** 31)) % 256 ** length
        changed[at:at + length] = number.to_bytes(length, order)
    if content.startswith(b"\x89PNG"):
        for at, _, order in fields:
            if at + 4 <= len(content) and content[at + 4:at + 8].isalpha():
                end = at + 8 + int.from_bytes(content[at:at + 4], order)
                changed[end:end + 4] = zlib.crc32(changed[at + 4:end]).to_bytes(4, order)
    return bytes(changed)


def _fields(image):
    """(offset, bytes, order) of the numbers in the headers of a JPEG, a PNG or a WebP."""
    if image.startswith(b"\xff\xd8"):
        for segment in re.finditer(rb"\xff([\xc0-\xcf\xda-\xef])", image[:-2]):
            at = segment.end()
            yield at, 2, "big"
            if segment[1] in b"\xc0\xc1\xc2":
                yield from ((at + 3, 2, "big"), (at + 5, 2, "big"), (at + 7, 1, "big"), (at + 9, 1, "big"))
            elif segment[1] == b"\xda":
                yield from ((at + 2, 1, "big"), (at + 3, 1, "big"))
        return
    order, at = ("big", 8) if image.startswith(b"\x89PNG") else ("little", 12)
    while at + 8 <= len(image):
        if order == "big":
            length, kind, after = int.from_bytes(image[at:at + 4], order), image[at + 4:at + 8], 12
            yield at, 4, order
        else:
            kind, length, after = image[at:at + 4], int.from_bytes(image[at + 4:at + 8], order), 8
            yield at + 4, 4, order
        for offset, size in NUMBERS.get(kind, ()):
            yield at + 8 + offset, size, order
        if kind == b"ANMF":
            length = 16  # chunks of its own follow
        at += after + length + (length % 2 if order == "little" else 0)
    if order == "little":
        yield 4, 4, order


class Readers:
    """A method for each kind of file: what reads it, and asserts that what is read serves those who need it."""

    def __init__(self, seeds: Path, kind: str):
        from common.checkpoint.params import load_params
        from common.checkpoint.symbol import load_symbol
        self._graphs = [load_symbol(path) for path in sorted((seeds / "symbol").glob("*"))]
        params = seeds / "all.params"
        self._params = {name.partition(":")[2]: array for name, array in load_params(params).items()} \
            if params.exists() else {}
        self._seeds, self._network = seeds, None
        self.imports(kind)

    @staticmethod
    def imports(kind):
        """All that is imported later, so that the limit of memory comes on top of it."""
        if kind in ("network", "records", "calibration"):
            import common.compiler.calibration
            import common.compiler.records
            return
        if kind in IMAGES:
            from common.images.decoding import decode
            from tests.images import images
            for content, reason in images().values():
                if not reason:
                    decode(content, upright=True)
            return
        if kind in ("entry", "zoo"):
            import common.inference.cache
            import common.modelzoo
            return
        if kind == "bound":
            import common.evaluation.score
            import eval_imagenet  # noqa: F401
            return
        import onnx

        import common.conversion.convert
        import common.conversion.onnx_model
        import common.images.preprocess  # noqa: F401
        onnx.checker.check_model(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])))

    def params(self, path):
        from common.checkpoint.arrays import Checkpoint, checked, network_of
        from common.checkpoint.params import load_checkpoint_params
        arg_params, aux_params = load_checkpoint_params(path)
        params = arg_params | aux_params
        assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in params.items())
        graph = self._graphs[min(range(len(self._graphs)), key=lambda i: self._missing(i, params))]
        self._to_onnx(graph, params)
        if "first-3x3-conv-conv2d_weight" in params:
            network = network_of(graph, arg_params, path)
            checkpoint = checked(Checkpoint(network, len(arg_params["fc_bias"]), arg_params, aux_params), path)
            assert all(array.dtype == np.float32 and np.isfinite(array).all()
                       for array in (checkpoint.arg_params | checkpoint.aux_params).values())

    def _missing(self, i, params):
        from common.checkpoint.symbol import parameter_names
        return len(set(parameter_names(self._graphs[i])) - set(params))

    def symbol(self, path):
        from common.checkpoint.symbol import load_symbol, num_classes_of
        graph = load_symbol(path)
        assert num_classes_of(graph) is None or num_classes_of(graph) > 0
        self._to_onnx(graph, self._params)

    @staticmethod
    def _to_onnx(graph, params):
        import onnx

        from common.conversion.onnx_model import to_onnx
        for fold in (False, True):
            model = to_onnx(graph, params, (3, 32, 32), fold)
            onnx.checker.check_model(model, full_check=True)

    def network(self, path):
        from common.compiler.relay_network import load_network
        with self._beside(path, "network", "all.params") as prefix:
            network = load_network(prefix, 0, (1, 3, 32, 32))
        assert network.num_classes > 0

    def bound(self, path):
        """As MXNet runs it, for eval_imagenet.py and for from_mxnet.py --verify."""
        from common.evaluation.score import predict
        from common.find_mxnet import mx
        from eval_imagenet import with_mxnet
        x = np.zeros((2, 3, 32, 32), np.float32)
        with self._beside(path, "bound", "all.params") as prefix:
            try:
                num_classes, build = with_mxnet(argparse.Namespace(model_prefix=prefix, epoch=0, gpus="",
                                                                   batch_size=len(x), image_shape=x.shape[1:]))
                build()
                assert predict(prefix, 0, x).shape == (len(x), num_classes)
            except mx.base.MXNetError as error:
                if not is_of_memory(error):  # which `reported` says in one line
                    raise
                raise InputError("too large") from None

    def calibration(self, path):
        from common.checkpoint.int8 import load_calibration
        from common.compiler.quantize import channels_of
        from common.compiler.relay_network import load_network
        self._network = self._network or load_network(self._seeds / "calibrated", 0, (1, 3, 32, 32))
        with self._beside(path, "calibration", "calibrated-0000.params") as prefix:
            statistics = load_calibration(prefix, 0, channels_of(self._network))
        assert statistics.keys() == channels_of(self._network).keys()
        assert all(np.isfinite([entry.low, entry.high, *entry.mean, *(entry.output or ())]).all()
                   for entry in statistics.values())

    @contextmanager
    def _beside(self, path, kind, params):
        """PREFIX of a file of the kind, with these parameters beside it."""
        prefix = str(path).removesuffix(SUFFIXES[kind])
        os.symlink(self._seeds / params, f"{prefix}-0000.params")
        try:
            yield prefix
        finally:
            os.unlink(f"{prefix}-0000.params")

    def records(self, path):
        from common.compiler.build import _Best
        from common.compiler.records import load, save
        records = load(path)
        _Best(records.records)
        copy = path.with_name("copy-of-records.json")
        save(records._replace(path=copy))
        assert len(load(copy).records) == len(records.records)

    def entry(self, path):
        """Of the cache: what is damaged is made again."""
        from common.inference.cache import MANIFEST, Cache

        def again(folder):
            raise InputError("made again")
        folder = self._seeds / "cache" / "key"
        (folder / MANIFEST).write_bytes(path.read_bytes())
        os.environ["MOBILENETV2_CACHE"] = str(folder.parent)
        assert Cache().entry("key", again) == folder

    def zoo(self, path):
        from common.modelzoo import entries, table
        from symbols.architecture import widths
        from symbols.mobilenetv2_json import get_graph
        found = entries(path)
        assert len(table(path, self._seeds)) == len(found) + 1
        for entry in found.values():
            widths(entry.network["multiplier"])
            assert get_graph(entry.classes, **entry.network)["nodes"] and all(map(str.isprintable, entry.file))
            assert entry.preprocessing.crop > 0 and isinstance(f"{entry.licence} {entry.note} {entry.hash}", str)

    def jpeg(self, path):
        from common.images.preprocess import preprocess, read_image
        assert preprocess(read_image(path), (3, 32, 32)).shape == (1, 3, 32, 32)

    png = webp = jpeg

    def mxnet(self, path):
        """A symbol of another repository, as `--from mxnet` takes it."""
        with self._beside(path, "mxnet", "foreign.params") as prefix:
            self._converted(f"{prefix}-0000.params", "mxnet")

    def onnx(self, path):
        from common.conversion.convert import convert
        self._check(convert(path, "onnx"))

    def npz(self, path):
        self._converted(path, "npz")

    def keras(self, path):
        self._converted(path, "keras")

    def keras_config(self, path):
        """The configuration alone, by the process that fuzzes."""
        from common.conversion.keras_config import read_model
        model = read_model(path.read_bytes(), lambda layer, name: np.ones(3))
        assert len(model.layers) == 105 and all(isinstance(name, str) for name in model.layers)
        description = json.loads(json.dumps(model.description, allow_nan=False))
        assert all("\n" not in line for line in description["notes"])

    def safetensors(self, path):
        self._converted(path, "torchvision")

    @staticmethod
    def _converted(path, kind):
        from common.conversion.convert import convert
        Readers._check(convert(path, kind, image_shape=(3, 224, 224)))

    @staticmethod
    def _check(checkpoint):
        arrays = checkpoint.arg_params | checkpoint.aux_params
        assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
        assert arrays["fc_weight"].shape == (checkpoint.num_classes, checkpoint.network["channels"][-1])

    def preprocess(self, path):
        from common.checkpoint.preprocessing import load_preprocessing
        from common.images.preprocess import preprocess
        preprocessing = load_preprocessing(str(path).removesuffix("-preprocess.json"))
        x = preprocess(np.zeros((40, 50, 3), np.uint8), preprocessing=preprocessing)
        assert x.shape == (1, 3, preprocessing.crop, preprocessing.crop) and np.isfinite(x).all()
        assert preprocess(np.zeros((50, 40, 3), np.uint8), (3, 64, 96), preprocessing).shape == (1, 3, 64, 96)


IMAGES = ("jpeg", "png", "webp")
CHANGES = {"params": changed_bytes, "safetensors": changed_safetensors, "symbol": changed_json,
           "network": changed_json, "bound": changed_json, "preprocess": changed_json, "npz": changed_npz,
           "keras": changed_keras, "keras_config": changed_json, "records": changed_json, "calibration": changed_json,
           "entry": changed_json, "zoo": changed_toml, "mxnet": changed_json, "onnx": changed_onnx,
           **dict.fromkeys(IMAGES, changed_image)}
SUFFIXES = {"params": ".params", "safetensors": ".safetensors", "symbol": "-symbol.json",
            "network": "-symbol.json", "bound": "-symbol.json", "preprocess": "-preprocess.json", "npz": ".npz",
            "keras": ".h5", "keras_config": ".json", "records": ".json", "calibration": "-0000-int8.json",
            "entry": ".json", "zoo": ".toml", "mxnet": "-symbol.json", "onnx": ".onnx",
            **{kind: f".{kind}" for kind in IMAGES}}


def fuzz(kind: str, count: int, folder: Path) -> None:
    """`main` in a process of its own; some files are to be read, some refused."""
    process = subprocess.run([sys.executable, "-m", "tests.fuzzing", kind, str(count), folder], cwd=ROOT,
                             capture_output=True, text=True)
    left = [str(path) for path in folder.glob(f"{kind}-*")]
    assert (process.returncode, left) == (0, []), f"{process.stderr[-8000:]}\n{left}"
    answers = json.loads(process.stdout)
    assert answers["read"] + answers["refused"] >= count and min(answers.values()) > 0


def cases(count: int, answers):
    """The numbers of `count` cases, and of up to nine times as many more until `answers`, which who asks fills, are of
    both kinds."""
    for number in range(10 * count):
        if number >= count and len(set(answers)) > 1:
            break
        yield number


def main(kind: str, count: int, folder: Path) -> int:
    seeds = [path.read_bytes() for path in sorted((folder / "seeds" / kind).iterdir())]
    read = getattr(Readers(folder / "seeds", kind), kind)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    # not the hard limit: processes that this one starts have limits of their own
    memory = MEMORY_MXNET if kind == "bound" else MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error", RuntimeWarning)  # of NumPy's, which a user would see
    answers, failures = [], 0
    for number in cases(count, answers):
        rng = np.random.RandomState(number)
        path = folder / f"{kind}-{number}{SUFFIXES[kind]}"
        path.write_bytes(CHANGES[kind](rng, seeds[rng.randint(len(seeds))], seeds))
        signal.alarm(SECONDS_CONFINED if kind == "keras" else SECONDS)
        try:
            answers.append("refused" if _refused(read, path) else "read")
        except Exception:
            print(f"{path}: {traceback.format_exc(limit=-8)}", file=sys.stderr)
            failures += 1
            if failures == MOST_FAILURES:
                break
            continue
        finally:
            signal.alarm(0)
        path.unlink()
    print(json.dumps({kind: answers.count(kind) for kind in ("read", "refused")}))
    return bool(failures)


def _refused(read, path) -> bool:
    try:
        read(path)
    except InputError as error:
        assert str(error) and "\n" not in str(error), f"not one line: {str(error)!r}"
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))

"""How the tests pack, and look at what came out."""
import os
import sys

from common.find_mxnet import mx
from common.packing.prepare import prepare

SHORT_SIDE = 64


def run(source, out, **options):
    return prepare(source, out, **{"short_side": SHORT_SIDE, "any_count": True, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_description(folder):
    return {name: content for name, content in contents(folder).items() if name != "dataset.json"}


def records(out, part):
    """{path: (label, BGR image)} as MXNet's own reader and the .lst file have them, in their order."""
    reader = mx.recordio.MXIndexedRecordIO(str(out / f"{part}.idx"), str(out / f"{part}.rec"), "r")
    listed = [line.split("\t") for line in (out / f"{part}.lst").read_text().splitlines()]
    assert [int(number) for number, _, _ in listed] == reader.keys == list(range(len(listed)))
    found = {}
    for number, (_, label, path) in enumerate(listed):
        header, image = mx.recordio.unpack_img(reader.read_idx(number))
        assert header.id == number and header.label == float(label)
        found[path] = (int(header.label), image)
    return found


def command(source, out, *flags):
    return [sys.executable, "tools/prepare_imagenet.py", str(source), str(out), "--short-side", str(SHORT_SIDE),
            "--any-count", *flags]


class Killed(BaseException):
    """Not an error that anything would handle."""


def killed_at(monkeypatch, name, count):
    """From now on the call number `count` of os.<name> ends the run, before it does anything."""
    function, calls = getattr(os, name), iter(range(count))

    def counted(*args, **kwargs):
        if next(calls, None) is None:
            raise Killed
        return function(*args, **kwargs)
    monkeypatch.setattr(os, name, counted)

"""Open a checkpoint as a network that runs on a device. A process of its own compiles the network once, and it is kept:
another checkpoint of the same network only brings other weights."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.base.errors import InputError, printable
from common.checkpoint.fold import identity, load_folded
from common.checkpoint.symbol import INPUT
from common.inference.arrays import reader, writer
from common.inference.cache import Cache
from common.inference.cache_key import key_of
from common.inference.choices import AUTO, check_device, kind_of
from common.inference.kernels import keep_kernels, load_library
from common.inference.runtime import ONLY_RUNTIME, describe, device_of, graph_executor, tvm
from common.inference.weights import inputs_of

ROOT = Path(__file__).resolve().parent.parent.parent
SLOW = ("warning: int8 is slower than float32 for --target {!r}, which has no dot products of integers; it only makes "
        "the network smaller (docs/inference.md)")
NOT_BUILT = re.compile(r"OpenCL build error.*\n(?:Error: .*\n)?(.*)")  # TVM's words, then the compiler's


class CompiledNetwork:
    """A compiled network on its device.

    `predict(data)`: float32 of `data_shape` (N, 3, H, W) in, probabilities (N, classes) out, as NumPy arrays.
    `folder`: the compiler's files, all read here; `keeping`, any object, is kept with the network. `params`: those of a
    checkpoint, {name: array}, BatchNorm folded. `about` is the content of network.json. `records` names the tuning
    records that it was compiled with: they have `tuned` kinds of its layers, and lack `untuned`.
    """

    def __init__(self, folder: str | Path, params: dict[str, np.ndarray], keeping: object = None) -> None:
        self.folder, self.params, self._keeping = Path(folder), params, keeping
        self.about = about = _description(folder)
        self.data_shape, self.num_classes = tuple(about["data_shape"]), about["num_classes"]
        self.records, self.tuned, self.untuned = about["records"], about["tuned"], about["untuned"]
        self.device = device_of(about["kind"])
        self._executor = graph_executor.create((self.folder / "graph.json").read_text(), load_library(self.folder),
                                               self.device)
        self._executor.set_input(**inputs_of(self.folder, params))
        self._write = writer(self._executor.get_input(INPUT))
        self._read = reader(self._executor.get_output(0))

    def predict(self, data: np.ndarray) -> np.ndarray:
        """Probabilities (N, classes), float32. Raises ValueError unless `data` is float32 of `data_shape`, InputError
        if the OpenCL driver cannot compile the network, which it does when it is first run."""
        if data.shape != self.data_shape or data.dtype != np.float32:
            raise ValueError(f"expected float32 {self.data_shape}, not {data.dtype} {data.shape}")
        self._write(data)
        try:
            self._executor.run()
        except tvm.error.TVMError as error:
            if (found := NOT_BUILT.search(str(error))) is None:
                raise
            raise InputError(f"the OpenCL driver of {self.device.device_name} cannot compile the network "
                             f"({printable(found[1])}): update the driver, or give --target llvm") from None
        return self._read()


def open_network(prefix: str | Path, epoch: int, data_shape: Sequence[int], target: str = "opencl",
                 precision: str = "float32", records: str | Path | None = AUTO, cache: bool = True) -> CompiledNetwork:
    """`PREFIX-symbol.json` and `PREFIX-%04d.params` for input of `data_shape` (N, 3, H, W), compiled for `target`.

    `target` is "opencl", "llvm" (this processor) or any TVM target string, `records` the path of tuning records, None
    or "auto" (those that fit the device best). Without `cache` it is compiled again and not kept; nor is it, after a
    warning, if the cache cannot be used.
    Raises InputError for files that are missing, damaged or do not belong together, and for a target that TVM does not
    know, that cannot run here, or that cannot compute in `precision`.
    """
    kind = kind_of(target)
    if kind == "opencl":
        check_device(precision, device_of(target))
    request = {**_request(prefix, epoch, data_shape, target, precision, records),
               "device": describe(target) if kind in ("opencl", "llvm") else None}
    graph, params = load_folded(prefix, epoch, data_shape)
    if cache:
        key = key_of(identity(graph, params), prefix, epoch, data_shape, target, precision, records)
        try:
            return CompiledNetwork(Cache().entry(key, lambda folder: _compile_with_kernels(folder, request)), params)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}" if error.filename else error
            print(f"warning: compiled networks cannot be kept: {reason}", file=sys.stderr)
    folder = tempfile.TemporaryDirectory(prefix="mobilenetv2-")
    _compile(folder.name, request)
    return CompiledNetwork(folder.name, params, keeping=folder)


def compile_elsewhere(folder: str | Path, prefix: str | Path, epoch: int, data_shape: Sequence[int], target: str,
                      precision: str = "float32", records: str | Path | None = None) -> dict:
    """Compile for a target that need not run here into `folder`.

    If no cross compiler is installed, objects/*.o are written in place of network.so. Returns the content of
    network.json. Raises as `open_network` does.
    """
    _compile(folder, {**_request(prefix, epoch, data_shape, target, precision, records), "elsewhere": True})
    return _description(folder)


def notes(about: dict, target: str, records: str | Path | None) -> list[str]:
    """What a user should know of the network that network.json describes in `about`, a line each. `target` and
    `records` are those of `open_network`."""
    return [tuning_line(about, records), *([SLOW.format(target)] if is_slow(about) else [])]


def tuning_line(about: dict, records: str | Path | None) -> str:
    """What became of `records`, as `open_network` takes them, in the network that network.json describes in `about`."""
    tuned, untuned = about["tuned"], about["untuned"]
    if tuned:
        return f"tuned: {tuned} of {tuned + untuned} kinds of layers, by {about['records']}"
    if records is None:
        return "untuned, as asked for"
    if records == AUTO and _keys(about) & {"nchw8c", "nchw16c"}:
        return "untuned: as fast as tuned on x86 processors (docs/inference.md)"
    if records == AUTO:
        return "untuned: no tuning records fit this device and network (tools/tune.py makes some)"
    return f"untuned: {records} holds no records of this network's layers for this target"


def is_slow(about: dict) -> bool:
    """Whether it computes in int8 without instructions for dot products of integers, which takes longer than float32
    (benchmarks/precisions.csv). The compiler adds the key `dot_products` to a target that has them."""
    return about["precision"] == "int8" and "dot_products" not in _keys(about)


def _keys(about):
    found = re.search(r"-keys=(\S*)", about["target"])
    return {*found[1].split(",")} if found else set()


def _request(prefix, epoch, data_shape, target, precision, records):
    return {"prefix": os.path.abspath(prefix), "epoch": epoch, "data_shape": list(map(int, data_shape)),
            "target": target, "device": None, "precision": precision,
            "records": os.path.abspath(records) if records not in (AUTO, None) else records, "parent": os.getpid(),
            "elsewhere": False}


def _description(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "network.json").read_text())


def _compile_with_kernels(folder, request):
    _compile(folder, request)
    if _description(folder)["kind"] == "opencl":
        keep_kernels(folder)


def _compile(folder, request):
    """Compile in a process of its own, into `folder`, what `request` (of `common.compile`) asks for.

    Raises InputError with the compiler's message, or if it crashes; OSError if it cannot write.
    """
    compiler = subprocess.run(
        [sys.executable, "-m", "common.compile"], cwd=ROOT, check=False, text=True, stdout=2, stderr=subprocess.PIPE,
        input=json.dumps({**request, "output": str(folder)}),
        env={name: value for name, value in os.environ.items() if name != ONLY_RUNTIME})
    *_, last = compiler.stderr.splitlines() or [""]
    message = last.removeprefix("compiler: error: ")
    if compiler.returncode == 1 and message != last:
        raise InputError(message)
    if compiler.returncode == os.EX_IOERR:
        raise OSError(None, message, str(folder))
    sys.stderr.write(compiler.stderr)
    if compiler.returncode < 0:
        name = signal.Signals(-compiler.returncode).name
        raise InputError(f"the compiler ended with {name}: is there enough memory, or another --target?")
    if compiler.returncode:
        raise RuntimeError(f"python -m common.compile ended with {compiler.returncode}")

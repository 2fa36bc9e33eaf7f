"""A folder to copy onto a device: a compiled network, what it needs to know, and the runners of `runners/`.

    network.so            TVM's library (objects/*.o if it could not be linked here; the Makefile links them)
    graph.json            TVM's graph, and
    network.params        the parameters
    weights.json          how those are made from a checkpoint's
    network.json          device, target, precision, tuning records, TVM's version, length of network.params
    preprocess.json       what is done to an image, and the input's name, shape, layout and type
    labels.txt            the name of each class, one a line
    predict.py            top-5 with TVM's runtime, NumPy and OpenCV
    predict.cc *.h        top-5 with TVM's runtime and libjpeg, built by
    Makefile
    opencl/               for OpenCL: TVM's plug-in as sources, built by the same Makefile, and where it was built
    libtvm_opencl.so      for this kind of machine
    README.md

For Android there are, in place of predict.py, jpeg.h, Makefile and opencl/:

    objects/*.o           the network
    CMakeLists.txt        builds network.so and predict by the NDK
    ppm.h                 in place of libjpeg, which the NDK lacks
    tvm/                  TVM's runtime as sources
"""
import importlib.metadata
import json
import os
import re
import shutil
import string
from contextlib import suppress
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.base.files import folder_written_atomically, read_json, written_atomically
from common.base.machine import processor_name
from common.checkpoint.fold import identity, load_folded
from common.checkpoint.preprocessing import Preprocessing
from common.checkpoint.symbol import INPUT
from common.images.class_names import read_names, read_synset
from common.inference.android import cmake_options, copy_runtime
from common.inference.plugin import PLUGIN
from common.inference.runtime import describe
from common.inference.systems import CMAKE, MAKE, build_of, is_for_another_machine, triple_in
from common.inference.weights import PARAMS, WEIGHTS, load_weights, params_bytes

ROOT = Path(__file__).resolve().parent.parent.parent
RUNNERS = ROOT / "runners"
NATIVE = ROOT / "native"
PROGRAMS = {  # of runners/, by what builds them; the first is the template of README.md
    MAKE: ("README.md", "predict.py", "predict.cc", "cores.h", "image.h", "jpeg.h", "resize.h", "Makefile"),
    CMAKE: ("android/README.md", "android/CMakeLists.txt", "predict.cc", "cores.h", "image.h", "ppm.h", "resize.h"),
}
OPENCL = ("Makefile", "include/quiet.h", "include/tvm/support/span.h",  # of native/
          "pocl_processor.cc", "pocl_threads.cc")
NETWORK = ("network.so", "objects", "graph.json", WEIGHTS)
WRITTEN = (PARAMS, "network.json", "preprocess.json", "labels.txt", "opencl", "libtvm_opencl.so", "tvm",
           *(Path(name).name for names in PROGRAMS.values() for name in names))
BUILT = ("predict", "__pycache__", "build")  # what running the programs adds
# what is in its folders, with what the Makefiles build
INNER = re.compile(r"objects/[^/]+\.o|__pycache__/[^/]+\.pyc|"
                   r"opencl/(Makefile|kernels\.cc|pocl_(processor|threads)\.cc|build(/.*)?|"
                   r"include(/tvm(/support(/span\.h)?)?)?)|build/.*|"
                   r"tvm/(src|include|3rdparty)(/[\w-]+)*(/[\w-]+\.(h|cc)|/LICENSE)?")
PACKAGES = ("xtc-tvm-python-bindings", "numpy", "ml_dtypes", "decorator", "opencv-python-headless", "pyopencl")
DEVICES = {"llvm": "cpu", "opencl": "opencl"}  # kind of a target: the runners' name of its device
ELF_MACHINE = slice(18, 20)  # of an ELF file's header


def check_destination(folder: str | Path) -> None:
    """Raises InputError for a folder with files that are not a bundle's: `export` replaces everything in it."""
    try:
        there = set(os.listdir(folder))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InputError(f"{folder}: is not a folder") from None
    inner = {str(path.relative_to(folder)) for path in Path(folder).rglob("*")} - there
    others = there - {*NETWORK, *WRITTEN, *BUILT} | {name for name in inner if not INNER.fullmatch(name)}
    if others:
        raise InputError(f"{folder}: has {min(others)!r}, which is not part of a bundle: give a new folder")
    if there and not ("graph.json" in there and _is_of_bundle(Path(folder, "preprocess.json"))):
        raise InputError(f"{folder}: has files but is not a bundle: give a new folder")


def _is_of_bundle(path):
    try:
        return {"resize", "crop", "mean", "std", "input", "shape"} <= set(read_json(path))
    except (OSError, InputError, TypeError):
        return False


def export(entry: str | Path, folder: str | Path, params: dict[str, np.ndarray], synset: str | Path,
           preprocessing: Preprocessing, target: str) -> None:
    """Write the bundle `folder` from `entry`, a folder as the compiler writes it; a bundle that is there is replaced.

    `params`: {name: array} of the checkpoint, BatchNorm folded. `synset`: path of the names of its classes.
    `preprocessing`: of an image for the input's longer side, as `common.images.options.preprocessing_of` gives it.
    `target`: as it was given.
    Raises InputError for a folder that holds anything else, or names that do not fit; OSError if files cannot be
    written.
    """
    check_destination(folder)
    with folder_written_atomically(folder) as partial:
        _fill(partial, Path(entry), params, synset, preprocessing, target)


def _fill(bundle, entry, params, synset, preprocessing, target):
    about = json.loads((entry / "network.json").read_text())
    if about["kind"] not in DEVICES:
        raise InputError(f"target {target!r}: bundles are made for {' and '.join(DEVICES)}")
    for name in NETWORK:
        _copy(entry / name, bundle / name)
    content = params_bytes(entry, params)
    (bundle / PARAMS).write_bytes(content)
    build = build_of(triple_in(target))
    readme, *programs = PROGRAMS[build]
    for name in programs:
        shutil.copy(RUNNERS / name, bundle / Path(name).name)
    names = read_synset(synset, about["num_classes"])
    (bundle / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    _write_json(bundle / "preprocess.json", _input(preprocessing, about["data_shape"]))
    device = DEVICES[about["kind"]]
    compiled_for = target if "-mcpu=" in target or triple_in(target) else f"{target} on {processor_name()}"
    name, kind = _device(device, target)
    network = {"device": device, "device_name": name, "device_kind": kind, "target": compiled_for,
               "precision": about["precision"], "records": about["records"] or "none", "tvm": about["tvm"],
               "params_bytes": len(content)}
    _write_json(bundle / "network.json", network)
    if build == CMAKE:
        copy_runtime(bundle / "tvm", device == "opencl")
    elif device == "opencl":
        for name in OPENCL:
            (bundle / "opencl" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(NATIVE / name, bundle / "opencl" / name)
        if _machine(PLUGIN) == _machine(bundle / "network.so"):
            _copy(PLUGIN, bundle / PLUGIN.name)
    template = string.Template((RUNNERS / readme).read_text(encoding="utf-8"))
    shape = "x".join(map(str, about["data_shape"]))
    (bundle / "README.md").write_text(template.substitute(
        {**network, "device": ", ".join(filter(None, (device, name)))}, shape=shape, **_versions(),
        **cmake_options(triple_in(target))), encoding="utf-8")


def _input(preprocessing, data_shape):
    longer_side = max(data_shape[2:])
    return {**preprocessing._asdict(), "resize": preprocessing.resize_for(longer_side), "crop": longer_side,
            "input": INPUT, "shape": data_shape, "layout": "NCHW", "dtype": "float32"}


def export_params(bundle: str | Path, prefix: str | Path, epoch: int, synset: str | Path,
                  preprocessing: Preprocessing) -> None:
    """Write the parameters of another checkpoint of the same network into a `bundle`, in which nothing else changes.

    Raises InputError if more would have to change: the network, the names in `synset`, what is done to an image.
    """
    bundle = Path(bundle)
    if not _is_of_bundle(bundle / "preprocess.json"):
        raise InputError(f"{bundle}: is not a bundle of --export")
    content, weights = read_json(bundle / "preprocess.json"), load_weights(bundle)
    if weights is None:
        raise InputError(f"{bundle}: its code holds numbers of one checkpoint, as that of int8 does: --export it again")
    graph, params = load_folded(prefix, epoch, content["shape"])
    same = {"network": identity(graph, params) == weights.network,
            "class names": read_names(bundle / "labels.txt") == read_names(synset),
            "preprocessing": json.loads(json.dumps(_input(preprocessing, content["shape"]))) == content}
    if others := [what for what, is_same in same.items() if not is_same]:
        raise InputError(f"{bundle}: is for another {others[0]} than {prefix}, epoch {epoch}: --export it again")
    with written_atomically(bundle / PARAMS) as partial:
        Path(partial).write_bytes(params_bytes(bundle, params))


def _device(device, target):
    """(name, "processor" or "GPU") of what a network is compiled for here; "" for what is not known."""
    if device == "cpu":
        return "" if "-mcpu=" in target or triple_in(target) else processor_name(), "processor"
    if is_for_another_machine(target):
        return "", ""
    found = describe(target)
    return found.name, "processor" if found.floats else "GPU"


def _copy(source, destination):
    """Copy a file or a folder, with its permissions, if it is there."""
    if source.is_dir():
        shutil.copytree(source, destination)
    elif source.exists():
        shutil.copy(source, destination)


def _write_json(path, content):
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    path.write_text("{" + ",\n ".join(lines) + "}\n")


def _machine(elf):
    """The machine that an ELF file is for; None if there is no such file."""
    with suppress(FileNotFoundError), open(elf, "rb") as file:
        return file.read(20)[ELF_MACHINE]


def _versions():
    """{package with underscores: "package==version"}, or the package alone if it is not installed here."""
    versions = {}
    for package in PACKAGES:
        versions[package.replace("-", "_")] = package
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package.replace("-", "_")] += f"=={importlib.metadata.version(package)}"
    return versions

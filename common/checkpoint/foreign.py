"""Weights of other frameworks, in the place of a checkpoint: by their bytes, what converts them."""
import os
import re
import zipfile
from pathlib import Path

FIRST, LAST = 1 << 20, 1 << 16  # bytes in which the names of a PyTorch file are found, and those of an MXNet file
MXNET = b"\x12\x01\0\0\0\0\0\0"
PUBLISHED = b"first-3x3-conv-conv2d_weight"  # has this name in every checkpoint of this repository's network
GLUON = re.compile(rb"(features|output)[._]\w+[._](gamma|weight|running_mean)")


def converts(path: str | Path) -> str:
    """The end of a message about the file `path`: the command that converts it; "" if it is of no kind that is
    known."""
    kind = kind_of(path)
    return f"; python tools/convert_weights.py {path} OUT_PREFIX --from {kind} converts a MobileNetV2" if kind else ""


def kind_of(path: str | Path) -> str:
    """One of the kinds that tools/convert_weights.py reads; "" for any other file, such as a checkpoint of this
    repository, and for none."""
    try:
        if not os.path.isfile(path):
            return ""
        with open(path, "rb") as file:
            start = file.read(FIRST)
            file.seek(max(0, os.path.getsize(path) - LAST))
            end = file.read(LAST)
        if start.startswith(b"PK\3\4"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if "model.weights.h5" in names:
                return "keras"
            if any(name.endswith(".npy") for name in names):
                return "npz"
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return ""
    if start.startswith(MXNET):
        return "" if PUBLISHED in end else "gluon" if GLUON.search(end) else "mxnet"
    if start[4:8] == b"TFL3":
        return "tflite"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if start.startswith((b"PK\3\4", b"\x80\2")) or start[8:10] == b'{"':
        return "timm" if b"conv_stem" in start else "torchvision"
    return "onnx" if Path(path).suffix == ".onnx" else ""

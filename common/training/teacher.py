"""Distillation (Hinton et al., 2015): the answers of a trained network, the teacher, are targets for the one in
training."""
import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.base.digest import digest
from common.base.errors import InputError
from common.checkpoint.ndarrays import load_checkpoint, run_by_mxnet
from common.checkpoint.params import checkpoint_files
from common.checkpoint.prefix import epochs_of
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, preprocessing_file
from common.checkpoint.symbol import ends_in_logits
from common.find_mxnet import mx


class Teacher:
    """The network of a checkpoint, whose weights stay as they are. `file`: its parameters; `size`: (height, width) of
    its images; `preprocessing`: of its checkpoint; `digest`: of all its files."""

    def __init__(self, file: str, size: tuple[int, int], preprocessing: Preprocessing, module: mx.mod.Module) -> None:
        self.file, self.size, self.preprocessing = file, size, preprocessing
        self.digest = _digest(file)
        self._module = module

    def __str__(self) -> str:
        images = self.preprocessing
        return (f"{self.file}, of images of 3x{self.size[0]}x{self.size[1]}, mean {images.mean}, std {images.std}")

    def answers(self, data: mx.nd.NDArray) -> mx.nd.NDArray:
        """(N, classes): its probabilities at the temperature, for images (N, 3, H, W) as the network in training takes
        them, of any size."""
        self._module.forward(mx.io.DataBatch([data]), is_train=False)
        return self._module.get_outputs()[0]


def teacher_file(value: str) -> str:
    """PREFIX-%04d.params that --teacher names: that file, or the last epoch of PREFIX. Raises InputError."""
    if re.search(r"-\d{4,}\.params$", value):
        return value
    epochs = epochs_of(value) if "\0" not in value else []
    if not epochs:
        raise InputError(f"--teacher {value}: there is no {value}-0000.params or of another epoch; give the PREFIX of "
                         "a checkpoint, or one of its PREFIX-%04d.params")
    return checkpoint_files(value, epochs[-1])[1]


def load_teacher(settings: argparse.Namespace, data_shape: Sequence[int], num_classes: int,
                 devices: list) -> Teacher:
    """The teacher that the common settings name, on `devices`, for batches of `data_shape` (N, 3, H, W), normalised by
    --rgb-mean and --rgb-std. Raises InputError for a checkpoint that cannot be used, and for other classes."""
    file = teacher_file(settings.teacher)
    prefix, epoch = file.removesuffix(".params").rsplit("-", 1)
    preprocessing = load_preprocessing(prefix)
    size = size_of_images(data_shape[2:], preprocessing.crop)
    symbol_file, _ = checkpoint_files(prefix, int(epoch))
    symbol, *params = load_checkpoint(prefix, int(epoch), (1, 3, *size))
    (_, classes), = symbol.infer_shape(data=(1, 3, *size))[1]
    if classes != num_classes:
        raise InputError(f"--teacher {file}: has {classes} classes, the network in training {num_classes}; a teacher "
                         "has to be of the same")
    std = np.array(preprocessing.std)
    scale, offset = np.array(settings.rgb_std) / std, (np.array(settings.rgb_mean) - preprocessing.mean) / std
    answers, constants = answering(symbol, size, scale, offset, settings.temperature)
    module = mx.mod.Module(answers, label_names=None, context=devices)
    with run_by_mxnet(symbol_file):
        module.bind([("data", data_shape)], for_training=False)
        module.set_params({**params[0], **constants}, params[1], allow_extra=True)
        teacher = Teacher(file, size, preprocessing, module)
        teacher.answers(mx.nd.zeros(data_shape)).wait_to_read()
    return teacher


def size_of_images(size: Sequence[int], crop: int) -> tuple[int, int]:
    """(height, width) that a teacher of `crop` pixels gets images of this size in: its longer side becomes those."""
    height, width = (max(1, round(side * crop / max(size))) for side in size)
    return height, width


def answering(symbol: mx.sym.Symbol, size: Sequence[int], scale: np.ndarray, offset: np.ndarray,
              temperature: float) -> tuple[mx.sym.Symbol, dict]:
    """(`symbol` as it gives softmax(logits / temperature) for images (N, 3, H, W) of another network, the constants it
    has beside its parameters).

    Pixels x become scale x + offset, (3,) each, for that network's mean and standard deviation are others; images of
    another size than `size` are then resized by MXNet's BilinearResize2D, with centres of pixels at halves as in
    OpenCV, and without smoothing where they become smaller.
    """
    constants = {}
    images = mx.sym.Variable("data")
    if (scale != 1).any() or offset.any():
        constants = {"teacher_scale": mx.nd.array(scale.reshape(1, 3, 1, 1)),
                     "teacher_offset": mx.nd.array(offset.reshape(1, 3, 1, 1))}
        scale, offset = (mx.sym.Variable(name, shape=array.shape) for name, array in constants.items())
        images = mx.sym.broadcast_add(mx.sym.broadcast_mul(images, scale), offset)
    images = mx.sym.contrib.BilinearResize2D(images, height=size[0], width=size[1], align_corners=False)
    logits = symbol if ends_in_logits(json.loads(symbol.tojson())) else symbol.get_children()[0]
    return mx.sym.softmax(logits(data=images) / temperature), constants


def _digest(file):
    prefix = file.removesuffix(".params").rpartition("-")[0]
    beside = [Path(path) for path in (f"{prefix}-symbol.json", preprocessing_file(prefix))]
    return digest(file, "sha256", before=b"".join(path.read_bytes() for path in beside if path.exists()))

"""Read and write MXNet's `.params` files as NumPy arrays, without MXNet.

The format is what `mx.nd.save` writes (src/ndarray/ndarray.cc of MXNet 1.9.1, `NDArray::Save` and `NDArray::Load`),
little-endian throughout:

    uint64  0x112, uint64 0
    uint64  number of arrays, then each array
    uint64  number of names (as many as arrays, or 0), then each name as uint64 length and bytes

    array:  uint32 version, int32 storage type (0: dense), shape, int32 device type, int32 device id, int32 dtype, data
    shape:  int32 number of dimensions, then int64 each

Two older versions, which the files of MXNet before 1.0 have, lack the storage type and, the oldest, the version and
32 bits of each dimension.
"""
import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from common.errors import InputError
from common.files import check_regular, written_atomically

FILE_MAGIC = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MAX_DIMENSIONS = 32
MAX_ELEMENTS = 2 ** 59  # NumPy has no more in an array, not even where a dimension of 0 leaves it empty
CPU = 1  # mxnet::Context::kCPU

# mshadow's type flags
DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.uint8, 4: np.int32, 5: np.int8, 6: np.int64,
          7: np.bool_, 8: np.int16, 9: np.uint16, 10: np.uint32, 11: np.uint64, 12: ml_dtypes.bfloat16}


def checkpoint_files(prefix: str | Path, epoch: int) -> tuple:
    """(symbol file, parameter file) of a checkpoint, as MXNet names them; `epoch` counts those completed."""
    return f"{prefix}-symbol.json", f"{prefix}-{epoch:04d}.params"


def load_params(path: str | Path) -> dict:
    """{name: array} of a `.params` file; names as they stand in the file (`arg:fc_weight`, `aux:...`).

    Raises InputError, with the file and the reason in one line, for a file that is missing, truncated, longer than
    its contents, of another format, or holds sparse arrays or a list without names.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(f"{path}: {getattr(error, 'strerror', error)}") from None
    reader = _Reader(content, path)
    if reader.read("Q") != FILE_MAGIC or reader.read("Q") != 0:
        raise InputError(f"{path}: not an MXNet parameter file")
    arrays = [_read_array(reader) for _ in range(reader.count(4 + 8))]  # at least a number each, and then a name
    names = [reader.text() for _ in range(reader.count(8))]
    if reader.left():
        raise InputError(f"{path}: {reader.left()} bytes follow the last parameter; the file is damaged")
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise InputError(f"{path}: {len(arrays)} arrays but {len(set(names))} different names; not a checkpoint")
    return dict(zip(names, arrays))


def load_checkpoint_params(path: str | Path) -> tuple[dict, dict]:
    """(arg_params, aux_params) of a checkpoint's `.params` file, as NumPy arrays without the `arg:`, `aux:` prefix."""
    params = {"arg": {}, "aux": {}}
    for name, array in load_params(path).items():
        kind, colon, bare = name.partition(":")
        if not colon or kind not in params:
            raise InputError(f"{path}: parameter {name!r} has neither 'arg:' nor 'aux:' before it; not a checkpoint")
        params[kind][bare] = array
    return params["arg"], params["aux"]


def save_checkpoint_params(path: str | Path, arg_params: dict, aux_params: dict) -> None:
    """Write both, {name: array}, as a checkpoint's `.params` file; the rest is as in `save_params`."""
    save_params(path, {f"{kind}:{name}": array for kind, group in (("arg", arg_params), ("aux", aux_params))
                       for name, array in group.items()})


def save_params(path: str | Path, params: dict) -> None:
    """Write {name: array} as a `.params` file: the bytes of `mx.nd.save`, atomically.

    Raises ValueError for an array of a type that the format does not have.
    """
    flags = {np.dtype(dtype): flag for flag, dtype in DTYPES.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in params.items()}
    for name, array in arrays.items():
        if array.dtype not in flags:
            raise ValueError(f"{name}: .params files have no {array.dtype}")
    with written_atomically(path) as partial, open(partial, "wb") as file:
        file.write(struct.pack("<QQQ", FILE_MAGIC, 0, len(arrays)))
        for array in arrays.values():
            file.write(struct.pack(f"<Iii{array.ndim}q", VERSION_2, 0, array.ndim, *array.shape))
            file.write(struct.pack("<iii", CPU, 0, flags[array.dtype]) + array.tobytes())
        file.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            file.write(struct.pack("<Q", len(name.encode())) + name.encode())


def _read_array(reader):
    version = reader.read("I")
    if version in (VERSION_2, VERSION_3):
        if reader.read("i") != 0:
            raise InputError(f"{reader.path}: holds sparse arrays, which no MobileNetV2 checkpoint has")
        shape = reader.shape(reader.read("i"), "q")
        empty = len(shape) == 0 and version == VERSION_2  # an NDArray that was never filled; a scalar in version 3
    else:
        shape = reader.shape(reader.read("I"), "q") if version == VERSION_1 else reader.shape(version, "I")
        empty = len(shape) == 0
    if empty:
        return np.empty(0, np.float32)
    reader.read("i"), reader.read("i")  # the device it was saved from
    flag = reader.read("i")
    if flag not in DTYPES:
        raise InputError(f"{reader.path}: unknown data type {flag}; not an MXNet parameter file, or a damaged one")
    dtype = np.dtype(DTYPES[flag])
    return np.frombuffer(reader.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape).copy()


class _Reader:
    """Takes values from the front of `content`; an InputError names `path` where there is not enough left."""

    def __init__(self, content: bytes, path: str | Path) -> None:
        self._content = memoryview(content)
        self._position = 0
        self.path = path

    def left(self) -> int:
        return len(self._content) - self._position

    def bytes(self, size: int) -> memoryview:
        if not 0 <= size <= self.left():
            raise InputError(f"{self.path}: ends before its last parameter; the file is truncated or damaged")
        self._position += size
        return self._content[self._position - size:self._position]

    def read(self, code: str) -> int:
        code = f"<{code}"
        return struct.unpack(code, self.bytes(struct.calcsize(code)))[0]

    def count(self, size: int) -> int:
        """A number of things to follow, each of which takes at least `size` bytes."""
        count = self.read("Q")
        if count * size > self.left():
            raise InputError(f"{self.path}: ends before its last parameter; the file is truncated or damaged")
        return count

    def shape(self, dimensions: int, code: str) -> tuple:
        if not 0 <= dimensions <= MAX_DIMENSIONS:
            raise InputError(f"{self.path}: an array of {dimensions} dimensions; not an MXNet parameter file")
        shape = tuple(self.read(code) for _ in range(dimensions))
        if any(n < 0 for n in shape) or math.prod(n or 1 for n in shape) > MAX_ELEMENTS:
            raise InputError(f"{self.path}: an array of shape {shape}; the file is damaged")
        return shape

    def text(self) -> str:
        try:
            return bytes(self.bytes(self.read("Q"))).decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: a parameter's name is not text; the file is damaged") from None

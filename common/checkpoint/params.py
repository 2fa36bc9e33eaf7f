"""Read and write MXNet's `.params` files as NumPy arrays, without MXNet.

The format is what `mx.nd.save` writes (src/ndarray/ndarray.cc of MXNet 1.9.1, `NDArray::Save` and `NDArray::Load`),
little-endian throughout:

    uint64  0x112, uint64 0
    uint64  number of arrays, then each array
    uint64  number of names (as many as arrays, or 0), then each name as uint64 length and bytes

    array:  uint32 version, int32 storage type (0: dense), shape, int32 device type, int32 device id, int32 dtype, data
    shape:  int32 number of dimensions, then int64 each

    sparse: before the shape, that of the values; before the data, dtype and shape of each array of indices; after the
            data, these arrays: for row_sparse (1) the numbers of the rows that exist; for csr (2) the place in the
            data where each row begins, and the column of each value

Two older versions, which the files of MXNet before 1.0 have, lack the storage type and, the oldest, the version and
32 bits of each dimension.
"""
import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from common.base.errors import InputError
from common.base.files import MOST_WEIGHTS, read_bytes, written_atomically
from common.checkpoint.foreign import converts

FILE_MAGIC = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MAX_DIMENSIONS = 32
MAX_DENSE = 1 << 28  # bytes that all sparse arrays of a file may leave out
INDEX_ARRAYS = {1: 1, 2: 2}  # of a storage type: row_sparse, csr
MAX_ELEMENTS = 2 ** 59  # NumPy's limit for an array, even if a dimension of 0 leaves it empty
CPU = 1  # mxnet::Context::kCPU

# mshadow's type flags
DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.uint8, 4: np.int32, 5: np.int8, 6: np.int64,
          7: np.bool_, 8: np.int16, 9: np.uint16, 10: np.uint32, 11: np.uint64, 12: ml_dtypes.bfloat16}


def checkpoint_files(prefix: str | Path, epoch: int) -> tuple:
    """(symbol file, parameter file) of a checkpoint, as MXNet names them; `epoch` counts those completed."""
    return f"{prefix}-symbol.json", f"{prefix}-{epoch:04d}.params"


def load_params(path: str | Path) -> dict:
    """{name: array} of a `.params` file; names as in the file (`arg:fc_weight`, `aux:...`), sparse arrays as
    dense ones.

    Raises InputError, with the file and the reason in one line, for a file that is missing, truncated, longer than
    its contents, larger than any checkpoint, of another format, or whose arrays have no names.
    """
    try:
        content = read_bytes(path, MOST_WEIGHTS)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(f"{path}: {getattr(error, 'strerror', error)}") from None
    reader = _Reader(content, path)
    if reader.read("Q") != FILE_MAGIC or reader.read("Q") != 0:
        raise InputError(f"{path}: not an MXNet parameter file{converts(path)}")
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
            raise InputError(f"{path}: parameter {name!r} has neither 'arg:' nor 'aux:' before it; not a checkpoint"
                             f"{converts(path)}")
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
    version, storage, stored = reader.read("I"), 0, ()
    if version in (VERSION_2, VERSION_3):
        storage = reader.read("i")
        if storage in INDEX_ARRAYS:
            stored = reader.shape(reader.read("i"), "q")
        elif storage != 0:
            raise InputError(f"{reader.path}: unknown storage type {storage}; the file is damaged")
        shape = reader.shape(reader.read("i"), "q")
        empty = len(shape) == 0 and version == VERSION_2  # an NDArray that was never filled; in version 3 a scalar
    else:
        shape = reader.shape(reader.read("I"), "q") if version == VERSION_1 else reader.shape(version, "I")
        empty = len(shape) == 0
    if empty:
        return np.empty(0, np.float32)
    reader.read("i"), reader.read("i")  # the device it was saved from
    dtype = reader.dtype()
    if storage not in INDEX_ARRAYS:
        return reader.array(dtype, shape)
    kinds = [(reader.dtype(), reader.shape(reader.read("i"), "q")) for _ in range(INDEX_ARRAYS[storage])]
    return _dense(reader, shape, reader.array(dtype, stored), [reader.array(*kind) for kind in kinds])


def _dense(reader, shape, values, indices):
    reader.claim(math.prod(shape) * values.dtype.itemsize)
    dense = np.zeros(shape, values.dtype)
    try:
        if values.size:
            dense[_places(shape, values, indices)] = values
    except (ValueError, IndexError, TypeError):
        raise InputError(f"{reader.path}: the indices of a sparse array do not fit it; the file is damaged") from None
    return dense


def _places(shape, values, indices):
    """Places of the values of a sparse array in the dense one, by one array of indices (row_sparse) or two (csr)."""
    *begins, at = (array.astype(np.int64, casting="safe") for array in indices)
    places = [at]
    for begin in begins:
        if begin.shape != (shape[0] + 1,) or (begin[1:] < begin[:-1]).any() or [*begin[[0, -1]]] != [0, len(values)]:
            raise ValueError("not where rows begin and end")
        places = [np.repeat(np.arange(shape[0]), np.diff(begin)), at]
    if values.shape != (len(at), *shape[len(places):]) or any((place < 0).any() for place in places):
        raise ValueError("not one place for each value")
    return tuple(places)


class _Reader:
    """Takes values from the front of `content`; an InputError names `path` if too little is left."""

    def __init__(self, content: bytes, path: str | Path) -> None:
        self._content = memoryview(content)
        self._position = 0
        self._dense = 0  # bytes
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
        """The number of items that follow, each of at least `size` bytes."""
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

    def dtype(self) -> np.dtype:
        flag = self.read("i")
        if flag not in DTYPES:
            raise InputError(f"{self.path}: unknown data type {flag}; not an MXNet parameter file, or a damaged one")
        return np.dtype(DTYPES[flag])

    def array(self, dtype: np.dtype, shape: tuple) -> np.ndarray:
        return np.frombuffer(self.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape).copy()

    def claim(self, size: int) -> None:
        """Count memory, in bytes, for values that are not in the file."""
        self._dense += size
        if self._dense > MAX_DENSE:
            raise InputError(f"{self.path}: its sparse arrays stand for more than {MAX_DENSE >> 20} MiB, which no "
                             "MobileNetV2 has; a damaged file?")

    def text(self) -> str:
        try:
            return bytes(self.bytes(self.read("Q"))).decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: a parameter's name is not text; the file is damaged") from None

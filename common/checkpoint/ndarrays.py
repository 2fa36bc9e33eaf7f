"""Checkpoints as MXNet names them: PREFIX-symbol.json and PREFIX-%04d.params, numbered by epochs completed."""
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np

from common.base.errors import InputError, is_of_memory, last_line
from common.base.files import written_atomically
from common.checkpoint.arrays import check_image_size
from common.checkpoint.params import checkpoint_files, load_checkpoint_params, save_checkpoint_params, save_params
from common.checkpoint.symbol import INPUT, is_label, load_symbol
from common.find_mxnet import mx
from symbols.architecture import CLASSIFIER


def write_symbol(path: str | Path, symbol: mx.sym.Symbol) -> None:
    """Write a symbol's JSON atomically, unless the file holds it already."""
    path, text = Path(path), symbol.tojson()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text):
        with written_atomically(path) as partial:
            Path(partial).write_text(text, encoding="utf-8")


def write_params(path: str | Path, params: dict, aux_params: dict | None = None) -> None:
    """Write {name: NDArray} atomically; with two groups, `arg:` and `aux:` are put before the names.

    MXNet does not write it, since it does not always notice a full disk.
    """
    groups = [{name: array.asnumpy() for name, array in group.items()} for group in (params, aux_params or {})]
    if aux_params is None:
        save_params(path, groups[0])
    else:
        save_checkpoint_params(path, *groups)


def load_params_for(symbol: mx.sym.Symbol, prefix: str | Path, epoch: int,
                    data_shape: Sequence[int]) -> tuple[dict, dict]:
    """(arg_params, aux_params) of a checkpoint, as float32 NDArrays.

    Raises InputError unless they have the names and shapes that `symbol` needs for `data_shape` (N, 3, H, W).
    """
    _, path = checkpoint_files(prefix, epoch)
    return fitting(symbol, load_checkpoint_params(path), path, data_shape)


def fitting(symbol: mx.sym.Symbol, loaded: tuple[dict, dict], path: str | Path,
            data_shape: Sequence[int]) -> tuple[dict, dict]:
    """(arg_params, aux_params) for `load_params_for`, from those `loaded` as NumPy arrays from `path`."""
    arg_shapes, _, aux_shapes = symbol.infer_shape(data=data_shape)
    expected = (dict(zip(symbol.list_arguments(), arg_shapes)), dict(zip(symbol.list_auxiliary_states(), aux_shapes)))
    for params, shapes in zip(loaded, expected):
        for name, shape in shapes.items():
            if name == INPUT or is_label(name):
                continue
            if name not in params:
                raise InputError(f"{path}: has no parameter {name!r}, which the network needs")
            if params[name].shape != shape:
                raise InputError(f"{path}: {name} has shape {params[name].shape}, but the network needs {shape} "
                                 "(another multiplier or number of classes?)")
    arg_params, aux_params = ({name: mx.nd.array(array.astype(np.float32)) for name, array in params.items()}
                              for params in loaded)
    return arg_params, aux_params


def start_params(symbol: mx.sym.Symbol, loaded: tuple[dict, dict], path: str | Path,
                 data_shape: Sequence[int]) -> tuple[dict, dict]:
    """(arg_params, aux_params) to start from, of those `loaded` as NumPy arrays from `path`; if the fc layer is for
    other classes, that is left out.

    Raises InputError for any other difference from what `symbol` needs.
    """
    arg_params, aux_params = loaded
    shapes = dict(zip(symbol.list_arguments(), symbol.infer_shape(data=data_shape)[0]))
    other_classes = [name for name in CLASSIFIER if name in arg_params
                     and arg_params[name].shape != shapes[name] and arg_params[name].shape[1:] == shapes[name][1:]]
    filled = {name: np.zeros(shapes[name], np.float32) if name in other_classes else array
              for name, array in arg_params.items()}
    arg_params, aux_params = fitting(symbol, (filled, aux_params), path, data_shape)
    return {name: array for name, array in arg_params.items() if name not in other_classes}, aux_params


@contextmanager
def run_by_mxnet(symbol_file: str | Path) -> Iterator[None]:
    """Turn anything that MXNet raises in this block, but for lack of memory, into an InputError that names the file."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it prints what fails, too
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # MXNetError, and any exception of its Python code
        if isinstance(error, (InputError, OSError)) or is_of_memory(error):
            raise
        raise InputError(f"{symbol_file}: MXNet cannot run it: {last_line(error)}") from None


def load_checkpoint(prefix: str | Path, epoch: int, data_shape: Sequence[int]) -> tuple:
    """(symbol, arg_params, aux_params) of a checkpoint; InputError for files that are missing, damaged or unfit."""
    path, params_file = checkpoint_files(prefix, epoch)
    graph = load_symbol(path)
    with run_by_mxnet(path):
        symbol = mx.sym.load(path)
        shapes = symbol.infer_shape(data=data_shape)[1]
    if not shapes or len(shapes[0]) != 2 or shapes[0][0] != data_shape[0]:
        raise InputError(f"{path}: for images of {tuple(data_shape[1:])} its output is not of shape (N, classes)")
    loaded = load_checkpoint_params(params_file)
    check_image_size(graph, loaded[0], data_shape, path)
    return symbol, *fitting(symbol, loaded, params_file, data_shape)

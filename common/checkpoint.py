"""Checkpoints as MXNet names them: PREFIX-symbol.json and PREFIX-%04d.params, numbered by epochs completed."""
from pathlib import Path

import numpy as np

from common.errors import InputError, last_line
from common.files import written_atomically
from common.find_mxnet import mx
from common.params_file import checkpoint_files, load_checkpoint_params
from common.symbol_json import load_symbol


def save_checkpoint(prefix, epoch, symbol, arg_params, aux_params) -> str:
    """Write symbol and parameters, each whole or not at all; returns the parameters' file."""
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    with written_atomically(symbol_file) as partial:
        Path(partial).write_text(symbol.tojson(), encoding="utf-8")
    params = {f"arg:{name}": array for name, array in arg_params.items()}
    params.update({f"aux:{name}": array for name, array in aux_params.items()})
    with written_atomically(params_file) as partial:
        mx.nd.save(partial, {name: array.as_in_context(mx.cpu()) for name, array in params.items()})
        load_checkpoint_params(partial)  # MXNet does not say that a disk was full
    return params_file


def load_params_for(symbol, prefix, epoch, data_shape) -> tuple:
    """(arg_params, aux_params) of a checkpoint, as float32 NDArrays.

    Raises InputError unless they have the names and shapes that `symbol` needs for `data_shape` (N, 3, H, W).
    """
    _, path = checkpoint_files(prefix, epoch)
    loaded = load_checkpoint_params(path)
    arg_shapes, _, aux_shapes = symbol.infer_shape(data=data_shape)
    expected = (dict(zip(symbol.list_arguments(), arg_shapes)), dict(zip(symbol.list_auxiliary_states(), aux_shapes)))
    for params, shapes in zip(loaded, expected):
        for name, shape in shapes.items():
            if name == "data" or name.endswith("label"):
                continue
            if name not in params:
                raise InputError(f"{path}: has no parameter {name!r}, which the network needs")
            if params[name].shape != shape:
                raise InputError(f"{path}: {name} has shape {params[name].shape}, but the network needs {shape} "
                                 "(another multiplier or number of classes?)")
    return tuple({name: mx.nd.array(array.astype(np.float32)) for name, array in params.items()} for params in loaded)


def load_checkpoint(prefix, epoch, data_shape) -> tuple:
    """(symbol, arg_params, aux_params) of a checkpoint; InputError for files missing, damaged or at odds."""
    path, _ = checkpoint_files(prefix, epoch)
    load_symbol(path)
    try:
        symbol = mx.sym.load(path)
        known = symbol.infer_shape(data=data_shape)[0] is not None
    except mx.base.MXNetError as error:
        raise InputError(f"{path}: MXNet cannot load it for input {data_shape}: {last_line(error)}") from None
    if not known:
        raise InputError(f"{path}: not the symbol of a network with one input named data")
    return symbol, *load_params_for(symbol, prefix, epoch, data_shape)

"""Checkpoints for tests."""
import shutil

import numpy as np

from common.checkpoint.ndarrays import write_params, write_symbol
from common.checkpoint.params import checkpoint_files, load_checkpoint_params, save_checkpoint_params
from common.find_mxnet import mx
from tests.networks import random_params


def save_checkpoint(prefix, epoch, symbol, arg_params, aux_params):
    """As training writes them; returns the parameters' file."""
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    write_symbol(symbol_file, symbol)
    write_params(params_file, arg_params, aux_params)
    return params_file


def save_random(prefix, epoch, symbol, data_shape):
    """The same, with `random_params`."""
    return save_checkpoint(prefix, epoch, symbol, *({name: mx.nd.array(array) for name, array in params.items()}
                                                    for params in random_params(symbol, data_shape)))


def save_like(prefix, epoch, other):
    """Another checkpoint of the same network, of epoch 0, with other random parameters."""
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    rng = np.random.RandomState(9)
    shutil.copy(symbol_file, f"{other}-symbol.json")
    save_checkpoint_params(f"{other}-0000.params", *({name: rng.normal(0, 1, array.shape).astype(np.float32)
                                                      for name, array in group.items()}
                                                     for group in load_checkpoint_params(params_file)))

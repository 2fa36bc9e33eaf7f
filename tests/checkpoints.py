"""Checkpoints for tests."""
from common.checkpoint.ndarrays import write_params, write_symbol
from common.checkpoint.params import checkpoint_files


def save_checkpoint(prefix, epoch, symbol, arg_params, aux_params):
    """As training writes them; returns the parameters' file."""
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    write_symbol(symbol_file, symbol)
    write_params(params_file, arg_params, aux_params)
    return params_file

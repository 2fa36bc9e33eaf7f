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


def one_block():
    """A symbol of what MobileNetV2 has: a block with its shortcut, and SAME padding, in six layers."""
    net = unit(mx.sym.Variable("data"), "first", 16, kernel=3, stride=2)
    block = unit(net, "expansion", 40, activation="relu")
    block = unit(block, "depthwise", 40, kernel=3, groups=40)
    net = unit(block, "linear", 16, activation=None) + net
    net = unit(net, "padded", 24, kernel=3, stride=2, pad_layer=True)
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1)))
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=10, name="fc"), name="softmax")


def unit(data, name, channels, kernel=1, stride=1, groups=1, activation="relu6", pad_layer=False):
    pad = kernel // 2
    if pad_layer:
        data = mx.sym.pad(data, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, 0, 1, 0, 1))
        pad = 0
    data = mx.sym.Convolution(data, num_filter=channels, kernel=(kernel, kernel), stride=(stride, stride),
                              pad=(pad, pad), num_group=groups, no_bias=True, name=name)
    data = mx.sym.BatchNorm(data, fix_gamma=False, name=f"{name}_bn")
    if activation == "relu":
        return mx.sym.Activation(data, act_type="relu")
    return mx.sym.clip(data, 0, 6) if activation else data

"""BatchNorms that were folded into the convolutions before them, made such as can be trained."""
import json
import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.checkpoint.attributes import Attributes
from common.find_mxnet import mx

IMAGES = 512  # at most, that the statistics are taken from


def folded_layers(arg_params: dict, aux_params: dict, frozen: Collection[str] = ()) -> list[str]:
    """BatchNorms with mean 0 and one variance for all channels, of which one adds a beta that differs: theirs did its
    work in the convolution before. `frozen`: parameters that are not trained, whose BatchNorms do not count."""
    layers = [name.removesuffix("_beta") for name in arg_params if name.endswith("_beta") and name not in frozen]
    constant = [layer for layer in layers if f"{layer}_moving_mean" in aux_params
                and not aux_params[f"{layer}_moving_mean"].asnumpy().any()
                and np.ptp(aux_params[f"{layer}_moving_var"].asnumpy()) == 0]
    return constant if any(np.ptp(arg_params[f"{layer}_beta"].asnumpy()) > 0 for layer in constant) else []


def unfold(network: mx.sym.Symbol, arg_params: dict, aux_params: dict, frozen: Collection[str],
           images: mx.io.DataIter, device: mx.Context, source: str | Path) -> None:
    """Give folded BatchNorms the statistics of their inputs, z, on training images, in `arg_params` and `aux_params`.

    A folded one computes s z + beta. With the mean and variance of z, a gamma of s sqrt(variance + eps) and s mean
    added to beta, it still does, and training, which takes the statistics of a batch, begins with almost the same.
    All are measured in one pass of the network as it was, on the first IMAGES images of epoch 0. `source`: the file of
    the weights. Raises InputError for a BatchNorm whose gamma is fixed, which cannot do that.
    """
    layers = folded_layers(arg_params, aux_params, frozen)
    if not layers:
        return
    logging.info("%s: BatchNorm is folded into the convolutions of %d layers; it gets the statistics of training "
                 "images, which changes no answer", source, len(layers))
    nodes = json.loads(network.tojson())["nodes"]
    batchnorms = {nodes[node["inputs"][1][0]]["name"].removesuffix("_gamma"): node for node in nodes
                  if node["op"] == "BatchNorm"}
    attributes = {layer: Attributes(batchnorms[layer]) for layer in layers}
    if fixed := [layer for layer in layers if attributes[layer]["fix_gamma"]]:
        raise InputError(f"{source}: the statistics of {fixed[0]} are folded into its convolution, and its gamma is "
                         "fixed (fix_gamma), so that it cannot be trained; --train-from fc trains the last layer alone")
    inputs = [f"{nodes[batchnorms[layer]['inputs'][0][0]]['name']}_output" for layer in layers]
    for layer, (mean, var) in zip(layers, _moments(network, inputs, arg_params | aux_params, images, device)):
        gamma, beta = (arg_params[f"{layer}_{part}"].asnumpy().astype(np.float64) for part in ("gamma", "beta"))
        eps = attributes[layer]["eps"]
        scale = gamma / np.sqrt(aux_params[f"{layer}_moving_var"].asnumpy().astype(np.float64) + eps)
        var = var.astype(np.float32)  # as it is stored, which gamma has to undo
        for params, name, array in ((arg_params, "gamma", scale * np.sqrt(var.astype(np.float64) + eps)),
                                    (arg_params, "beta", beta + scale * mean),
                                    (aux_params, "moving_mean", mean), (aux_params, "moving_var", var)):
            params[f"{layer}_{name}"] = mx.nd.array(array)


def _moments(network, names, params, images, device):
    """[(mean, variance), ...] of each channel of these outputs over images and positions."""
    def over_positions(array):  # by oneDNN; mx.sym.moments takes many times as long
        return mx.sym.Pooling(array, global_pool=True, pool_type="avg")

    internals = network.get_internals()
    pooled = mx.sym.Group([over_positions(array) for name in names
                           for array in (internals[name], mx.sym.square(internals[name]))])
    module = mx.mod.Module(pooled, [desc[0] for desc in images.provide_data], label_names=None, context=device)
    module.bind(images.provide_data, for_training=False)
    module.set_params(*({name: params[name] for name in needed if name in params} for needed in (
        pooled.list_arguments(), pooled.list_auxiliary_states())), allow_missing=True)  # but for the data
    batches = []
    images.seek(0, 0)
    while not batches or (len(batches) + 1) * images.batch_size <= IMAGES:
        try:
            module.forward(images.next(), is_train=False)
        except StopIteration:
            break
        batches.append([output.asnumpy().mean(axis=(0, 2, 3), dtype=np.float64) for output in module.get_outputs()])
    means = [np.mean(arrays, axis=0) for arrays in zip(*batches)]
    return [(mean, np.maximum(squares - mean ** 2, 0)) for mean, squares in zip(means[::2], means[1::2])]

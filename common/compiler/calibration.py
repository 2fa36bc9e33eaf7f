"""What a network's layers get from real images and make of them: their ranges are those of the 8-bit codes."""
import math
from collections.abc import Iterable

import numpy as np
import tvm
from tvm import relay

from common.base.errors import InputError
from common.checkpoint.int8 import Statistics
from common.checkpoint.symbol import INPUT
from common.compiler.build import executor_of
from common.compiler.quantize import layers_of, op_name
from common.compiler.relay_network import Network
from common.compiler.targets import this_processor

FOLLOWING = ("nn.bias_add", "clip", "nn.relu")  # what is part of a layer's output


def measure(network: Network, images: Iterable[np.ndarray]) -> tuple[dict[str, Statistics], int]:
    """({name of a layer's weight: Statistics}, number of images), by running `network` here in float32.

    `images`: float32 arrays of the network's data_shape. Raises InputError if an input is not finite.
    """
    layers = layers_of(network)
    outputs = _outputs_of(network, layers)
    tensors = list(dict.fromkeys([*(node.args[0] for node in layers.values()), *outputs.values()]))
    every = relay.Tuple(tensors)
    module = tvm.IRModule.from_expr(relay.Function(relay.analysis.free_vars(every), every))
    target = tvm.target.Target(this_processor())
    executor = executor_of(network._replace(module=module), target)
    low, high, total, count = [math.inf] * len(tensors), [-math.inf] * len(tensors), [0] * len(tensors), 0
    for image in images:
        executor.set_input(INPUT, image)
        executor.run()
        count += len(image)
        for i in range(len(tensors)):
            values = executor.get_output(i).numpy()
            low[i], high[i] = min(low[i], float(values.min())), max(high[i], float(values.max()))
            total[i] += values.reshape(*values.shape[:2], -1).mean(axis=2, dtype=np.float64).sum(axis=0)
    statistics = {}
    for name, node in layers.items():
        i, output = tensors.index(node.args[0]), tensors.index(outputs[name])
        statistics[name] = Statistics(low[i], high[i], np.asarray(total[i] / max(count, 1)),
                                      (low[output], high[output]))
        if count and not np.isfinite([low[i], high[i], *statistics[name].mean, low[output], high[output]]).all():
            raise InputError(f"the input of the layer of {name!r} is not finite: the weights hold NaN or infinity, or "
                             "numbers that lead there (training may have diverged)")
    return statistics, count


def _outputs_of(network, layers):
    """{name: the last of the operators that follow its layer alone and belong to it}."""
    users = {}

    def visit(node):
        for argument in getattr(node, "args", ()):
            users.setdefault(argument, []).append(node)

    relay.analysis.post_order_visit(network.module["main"].body, visit)
    outputs = dict(layers)
    for name in layers:
        while [op_name(user) in FOLLOWING for user in users.get(outputs[name], ())] == [True]:
            outputs[name], = users[outputs[name]]
    return outputs

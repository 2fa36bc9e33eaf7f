"""MobileNetV2 as other MXNet repositories write it: a class for each way, and checkpoints with random weights."""
import numpy as np

from common.checkpoint.params import save_checkpoint_params
from common.find_mxnet import mx
from tests.networks import random_params

sym = mx.sym
WIDTHS, REPEATS, STRIDES = (8, 8, 16, 16, 24, 32, 40), (1, 2, 1, 2, 1, 1, 1), (1, 2, 2, 2, 1, 2, 1)
SIZE = 64


class Foreign:
    """MobileNetV2 as others write it: methods for what they do otherwise, `symbol` for all of it."""
    eps, fix_gamma, bias, expanded = 1e-5, False, False, True

    def norm(self, data, name):
        return sym.BatchNorm(data, eps=self.eps, fix_gamma=self.fix_gamma, name=f"{name}/bn")

    def activation(self, data, name):
        return sym.clip(data, 0, 6, name=f"{name}/clip")

    def unit(self, data, name, channels, kernel=1, stride=1, groups=1, linear=False):
        data = sym.Convolution(data, num_filter=channels, kernel=(kernel, kernel), stride=(stride, stride),
                               pad=(kernel // 2, kernel // 2), num_group=groups, no_bias=not self.bias, name=name)
        data = self.norm(data, name)
        return data if linear else self.activation(data, name)

    def block(self, data, name, channels, out, stride, shortcut, factor):
        inner = channels * factor
        result = self.unit(data, f"{name}/in", inner) if factor > 1 or self.expanded else data
        result = self.unit(result, f"{name}/dw", inner, 3, stride, inner)
        result = self.unit(result, f"{name}/out", out, linear=True)
        return self.add(data, result, name) if shortcut else result

    def add(self, data, result, name):
        return sym.elemwise_add(data, result, name=f"{name}/sum")

    def images(self, data):
        return data

    def pool(self, data):
        return sym.Pooling(data, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool")

    def head(self, data):
        return sym.SoftmaxOutput(sym.FullyConnected(sym.Flatten(self.pool(data)), num_hidden=5, name="dense"))

    def symbol(self):
        data, channels = self.unit(self.images(sym.Variable("data")), "conv1", 8, 3, 2), 8
        for stage, (out, repeats, stride) in enumerate(zip(WIDTHS, REPEATS, STRIDES)):
            for i in range(repeats):
                data = self.block(data, f"b{stage}.{i}", channels, out, stride if i == 0 else 1, i > 0,
                                  6 if stage else 1)
                channels = out
        return self.head(self.unit(data, "last", 64))


class Caffe(Foreign):
    """ReLU, a large eps, biases before BatchNorm, and a convolution as classifier, whose Flatten has its name."""
    eps, bias = 1e-4, True

    def activation(self, data, name):
        return sym.Activation(data, act_type="relu", name=name)

    def head(self, data):
        data = sym.Convolution(self.pool(data), kernel=(1, 1), num_filter=5, name="fc7")
        return sym.SoftmaxOutput(sym.Flatten(data, name="fc7"), name="prob")


class Logits(Foreign):
    """Reshape in place of Flatten, no softmax, sums the other way round, and what computes nothing."""
    def add(self, data, result, name):
        return sym.identity(result + data)

    def head(self, data):
        data = sym.Dropout(sym.Reshape(self.pool(data), shape=(0, -1)), p=0.2)
        return sym.FullyConnected(sym.Cast(data, dtype="float32"), num_hidden=5, no_bias=True, name="dense")


class Plain(Foreign):
    """No expansion in the first block, gammas that count as 1, and a pooling over a map of 2x2."""
    expanded, fix_gamma = False, True

    def pool(self, data):
        return sym.Pooling(data, kernel=(2, 2), pool_type="avg", name="pool")


class Folded(Foreign):
    bias = True

    def norm(self, data, name):
        return data


class SmallEps(Foreign):
    eps = 1e-7


class Normalising(Foreign):
    """Pixels from 0 to 255 are brought to -1..1 and then, by a BatchNorm, to something else for each colour."""
    def images(self, data):
        return sym.BatchNorm((data - 127.5) * (1 / 128), eps=2e-5, name="bn_data")


class Padded(Foreign):
    """As TensorFlow pads where a stride is 2 and the map even."""
    def unit(self, data, name, channels, kernel=1, stride=1, groups=1, linear=False):
        if stride == 1:
            return super().unit(data, name, channels, kernel, stride, groups, linear)
        data = sym.pad(data, mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 0, 1))
        data = sym.Convolution(data, num_filter=channels, kernel=(3, 3), stride=(2, 2), num_group=groups, no_bias=True,
                               name=name)
        return self.activation(self.norm(data, name), name)


FORMS = (Foreign, Caffe, Logits, Plain, Folded, SmallEps, Normalising, Padded)


def foreign_params(symbol, size, seed=0):
    """As `random_params`, so small that rounding stays below 1e-6 (ReLU lets numbers grow), with some variances of
    1e-6."""
    arg_params, aux_params = random_params(symbol, (1, 3, size, size), seed)
    arg_params = {name: array * np.float32(0.75 if name.endswith("_weight") else 1)
                  for name, array in arg_params.items() if not name.endswith("_label")}
    for name, array in aux_params.items():
        if name.endswith("_running_var"):  # Gluon's
            array[:] = 1 + array ** 2
        if name.endswith("_moving_var") and "b1" in name:
            array[::2] = 1e-6
            arg_params[name.replace("_moving_var", "_gamma")][::2] = 1e-3
    return arg_params, aux_params


def save_foreign(prefix, symbol, size=SIZE, seed=0):
    """Writes PREFIX-symbol.json and PREFIX-0007.params, and returns the second."""
    symbol.save(f"{prefix}-symbol.json")
    save_checkpoint_params(f"{prefix}-0007.params", *foreign_params(symbol, size, seed))
    return f"{prefix}-0007.params"

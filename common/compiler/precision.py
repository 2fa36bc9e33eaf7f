"""A network in another precision than float32, and the target of its code."""
from pathlib import Path

import tvm
from tvm import relay

from common.base.errors import InputError
from common.checkpoint.int8 import load_calibration
from common.compiler import dot_products
from common.compiler.blocked import BLOCKS
from common.compiler.processor import has_feature
from common.compiler.quantize import Arithmetic, channels_of, quantized
from common.compiler.relay_network import Network
from common.inference.choices import PRECISIONS

HALF = ("avx512fp16", "fullfp16")  # of processors with half-precision arithmetic: x86, ARM


def target_for(target: tvm.target.Target, precision: str) -> tvm.target.Target:
    """`target` with the keys of the schedules that are best in `precision`.

    Raises InputError for an unknown precision, or one that the processor of `target` has no instructions for.
    """
    if precision == "int8" and target.kind.name == "llvm" and (found := dot_products.instruction_of(target)):
        return _with_keys(target, [dot_products.KEY, f"nchw{found.block}c"])
    half = target.kind.name != "llvm" or any(has_feature(target, feature) for feature in HALF)
    if precision == "float16" and not half:
        raise InputError(f"--precision float16: {target.attrs.get('mcpu', 'this processor')} has no half-precision "
                         f"arithmetic ({' or '.join(HALF)}), and would be slower than in float32; give "
                         "float32 or int8")
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: give {', '.join(PRECISIONS)}")
    return target


def in_precision(network: Network, precision: str, target: tvm.target.Target, prefix: str | Path,
                 epoch: int) -> Network:
    """`network`, which is that of the checkpoint, in `precision` for what `target_for` returns.

    Raises InputError for int8 without a calibration file that fits.
    """
    if precision == "float16":
        return in_float16(network)
    if precision == "int8":
        return quantized(network, load_calibration(prefix, epoch, channels_of(network)), arithmetic_of(target))
    return network


def in_float16(network: Network) -> Network:
    """`network` with weights, arithmetic and activations in half precision; softmax, input and output in float32."""
    module = relay.transform.InferType()(network.module)
    return network._replace(module=relay.transform.InferType()(relay.transform.ToMixedPrecision("float16")(module)))


def arithmetic_of(target: tvm.target.Target) -> Arithmetic:
    """What suits the instructions of `target`."""
    if found := dot_products.used_instruction(target):
        return Arithmetic(found.codes, found.weights, found.products, found.block)
    if target.kind.name == "llvm":
        return Arithmetic("int16", "int16")
    return Arithmetic("uint8", "int8")


def _with_keys(target, keys):
    description = dict(target.export())
    host = description.pop("host", None)
    others = [key for key in target.keys if key not in (*keys, *BLOCKS)]
    description["keys"] = [*keys, *others]
    return tvm.target.Target(description, host=host)

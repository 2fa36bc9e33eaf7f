"""A network in another precision than float32, and the target that its code is for."""
import tvm
from tvm import relay
from tvm.target.codegen import target_has_features

from common.compiler import vnni
from common.compiler.blocked import BLOCKS
from common.compiler.calibration import load_calibration
from common.compiler.checkpoint import Network
from common.compiler.quantize import Arithmetic, quantized
from common.errors import InputError

HALF = {"x86_64": "avx512fp16", "aarch64": "fullfp16"}  # the features of processors with half-precision arithmetic


def target_for(target, precision: str):
    """`target` with the keys of what computes best in `precision`.

    Raises InputError for a precision that there is not, or that the processor of `target` has no instructions for.
    """
    if precision == "int8" and target.kind.name == "llvm" and (block := vnni.block_for(target)):
        return _with_keys(target, [vnni.KEY, f"nchw{block}c"])
    if precision == "float16" and target.kind.name == "llvm" and not _has_half(target):
        raise InputError(f"--precision float16: {target.attrs.get('mcpu', 'this processor')} has no half-precision "
                         f"arithmetic ({' or '.join(HALF.values())}), and would be slower than in float32; give "
                         "float32 or int8")
    if precision not in ("float32", "float16", "int8"):
        raise InputError(f"unknown precision {precision!r}: give float32, float16 or int8")
    return target


def in_precision(network: Network, precision: str, target, prefix, epoch: int) -> Network:
    """`network`, of the checkpoint, computing in `precision` on what `target_for` gives.

    Raises InputError for int8 without a calibration file that fits.
    """
    if precision == "float16":
        return in_float16(network)
    if precision == "int8":
        return quantized(network, load_calibration(prefix, epoch, network), arithmetic_of(target))
    return network


def in_float16(network: Network) -> Network:
    """`network` with weights, arithmetic and what lies between layers in half precision, softmax in float32; float32 in
    and out."""
    module = relay.transform.InferType()(network.module)
    return network._replace(module=relay.transform.InferType()(relay.transform.ToMixedPrecision("float16")(module)))


def arithmetic_of(target) -> Arithmetic:
    """What suits the instructions of `target`."""
    if vnni.KEY in target.keys:
        return Arithmetic("uint8", "int8", vnni.DOT, vnni.block_for(target))
    if target.kind.name == "llvm":
        return Arithmetic("int16", "int16")
    return Arithmetic("uint8", "int8")


def _has_half(target):
    with target:
        return any(target_has_features(feature) for feature in HALF.values())


def _with_keys(target, keys):
    description = dict(target.export())
    host = description.pop("host", None)
    others = [key for key in target.keys if key not in (*keys, *BLOCKS)]
    description["keys"] = [*keys, *others]
    return tvm.target.Target(description, host=host)

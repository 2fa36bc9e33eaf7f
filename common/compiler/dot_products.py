"""Convolutions of integers with the instructions for dot products of VNNI (AVX-512 or AVX) and of plain AVX-512 or
AVX2, over blocks of 16 or 8 channels.

VNNI's `vpdpbusd` adds to each 32-bit sum of a vector the products of four unsigned and four signed bytes, without
saturation; `vpmaddwd` of the others is the sum of two products of 16-bit integers. The two or four are input channels,
or adjacent pixels in a depthwise convolution. (TVM's own schedules give the instruction operands of types that LLVM 22
refuses, and there are none for depthwise convolutions.) The tiles, and the schedules of other convolutions, are those
of `common.compiler.schedules`.
"""
from collections.abc import Sequence
from typing import NamedTuple

from tvm import autotvm, relay, te, tir
from tvm.autotvm.task.space import ConfigEntity
from tvm.relay.op.strategy.generic import conv2d_NCHWc_strategy, depthwise_conv2d_NCHWc_strategy
from tvm.target import Target
from tvm.topi.nn import conv2d_alter_layout, conv2d_legalize
from tvm.topi.nn.utils import get_pad_tuple
from tvm.topi.utils import get_const_tuple

from common.compiler import blocked, schedules
from common.compiler.processor import has_feature
from common.compiler.schedules import as_map, begun, define_tile, divisors, in_tiles, is_padded, padded, unrolled

KEY = "dot_products"  # a target with this key uses these schedules
ROWS = 14  # of a depthwise convolution's output, at most, for which the padded input is copied at a time


class Instruction(NamedTuple):
    """`intrinsic`: LLVM's name; it has `block` sums of `products` each, of `codes` and `weights`, and adds them to
    those before if it `accumulates`."""
    block: int
    products: int
    codes: str
    weights: str
    accumulates: bool
    intrinsic: str


INSTRUCTIONS = {  # LLVM's name of a processor's feature, the best first
    "avx512vnni": Instruction(16, 4, "uint8", "int8", True, "llvm.x86.avx512.vpdpbusd.512"),
    "avxvnni": Instruction(8, 4, "uint8", "int8", True, "llvm.x86.avx512.vpdpbusd.256"),
    "avx512bw": Instruction(16, 2, "int16", "int16", False, "llvm.x86.avx512.pmaddw.d.512"),
    "avx2": Instruction(8, 2, "int16", "int16", False, "llvm.x86.avx2.pmadd.wd"),
}


def instruction_of(target: Target) -> Instruction | None:
    """That of the processor of `target` (of kind llvm), if it has one."""
    return next((found for feature, found in INSTRUCTIONS.items() if has_feature(target, feature)), None)


def used_instruction(target: Target) -> Instruction | None:
    """That which a network is compiled with for `target`: none if the target has not the key."""
    return instruction_of(target) if KEY in target.keys else None


def in_bytes(target: Target) -> bool:
    """Whether a network's codes are bytes: else they are 16 bits, or `target` has no dot products."""
    found = used_instruction(target)
    return found is not None and found.codes == "uint8"


@conv2d_legalize.register(KEY)
def _legalize(attrs, inputs, types):
    return None


@conv2d_alter_layout.register(KEY)
def _alter_layout(attrs, inputs, tinfos, out_type):
    data, kernel = tinfos
    block, products, codes, weights, *_ = instruction_of(Target.current())
    outputs, per_group, _, width = get_const_tuple(kernel.shape)
    channels = int(data.shape[1])
    if attrs["data_layout"] == "NCHW" and (data.dtype, kernel.dtype) == (codes, weights) and outputs % block == 0:
        new = dict(attrs) | {"channels": outputs, "out_layout": f"NCHW{block}c"}
        if attrs.groups == 1 and channels % products == 0:
            inner = block if channels % block == 0 else products
            return relay.nn.contrib_conv2d_nchwc(*inputs, **new | {
                "data_layout": f"NCHW{inner}c", "kernel_layout": f"OIHW{inner // products}i{block}o{products}i"})
        if attrs.groups == channels == outputs and per_group == 1 and int(attrs.dilation[1]) == 1:
            data, kernel = inputs
            height, _ = size = get_const_tuple(attrs.kernel_size)
            top, left, bottom, right = get_pad_tuple(get_const_tuple(attrs.padding), size)
            more = -width % products
            kernel = relay.nn.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, more)))
            return relay.nn.contrib_depthwise_conv2d_nchwc(data, kernel, **new | {
                "kernel_size": (height, width + more), "padding": (top, left, bottom, right + more),
                "data_layout": f"NCHW{block}c", "kernel_layout": f"OIHW1i{block}o{products}w"})
    return blocked.alter_layout(attrs, inputs, tinfos, out_type)


@autotvm.register_topi_compute("conv2d.dot_products")
def conv2d(cfg: ConfigEntity, data: te.Tensor, kernel: te.Tensor, strides: Sequence[int], padding: Sequence[int],
           dilation: Sequence[int], layout: str, out_layout: str, out_dtype: str) -> te.Tensor:
    """`data` (N, C/i, H, W, i), `kernel` (O/o, C/i, kh, kw, i/k, o, k), k products; returns (N, O/o, H', W', o)."""
    in_chunks = int(data.shape[1])
    chunks, _, kh, kw, parts, block, products = get_const_tuple(kernel.shape)
    (sh, sw), (dh, dw) = strides, dilation
    data, height, width = padded(data, kh, kw, strides, padding, dilation)
    chunk, part, k = (te.reduce_axis((0, n), name) for n, name in ((in_chunks, "chunk"), (parts, "part"),
                                                                   (products, "k")))
    row, column = te.reduce_axis((0, kh), "row"), te.reduce_axis((0, kw), "column")
    define_tile(cfg, height, width, chunks, block)

    def pixel(n, o, p, c):
        h, w = tir.indexdiv(p, width), tir.indexmod(p, width)
        return te.sum(data[n, chunk, h * sh + row * dh, w * sw + column * dw, part * products + k].astype("int32")
                      * kernel[o, chunk, row, column, part, c, k].astype("int32"), axis=[chunk, row, column, part, k])

    return as_map(pixel, (data.shape[0], chunks, height, width, block), "conv2d")


@autotvm.register_topi_compute("depthwise_conv2d.dot_products")
def depthwise_conv2d(cfg: ConfigEntity, data: te.Tensor, kernel: te.Tensor, strides: Sequence[int],
                     padding: Sequence[int], dilation: Sequence[int], layout: str, out_layout: str,
                     out_dtype: str) -> te.Tensor:
    """`data` (N, C/o, H, W, o), `kernel` (C/o, 1, kh, kw/k, 1, o, k), k products; returns (N, C/o, H', W', o)."""
    chunks, _, kh, parts, _, block, products = get_const_tuple(kernel.shape)
    (sh, sw), (dh, _) = strides, dilation
    data, height, width = padded(data, kh, parts * products, strides, padding, dilation)
    row, part, k = (te.reduce_axis((0, n), name) for n, name in ((kh, "row"), (parts, "part"), (products, "k")))
    define_tile(cfg, height, width, 1, block)

    def pixel(n, o, p, c):
        h, w = tir.indexdiv(p, width), tir.indexmod(p, width)
        return te.sum(data[n, o, h * sh + row * dh, w * sw + part * products + k, c].astype("int32")
                      * kernel[o, 0, row, part, 0, c, k].astype("int32"), axis=[row, part, k])

    return as_map(pixel, (data.shape[0], chunks, height, width, block), "depthwise_conv2d")


@autotvm.register_topi_schedule("conv2d.dot_products")
def schedule_conv2d(cfg: ConfigEntity, outs: list[te.Tensor]) -> te.Schedule:
    return _schedule(cfg, outs, same=True)


@autotvm.register_topi_schedule("depthwise_conv2d.dot_products")
def schedule_depthwise_conv2d(cfg: ConfigEntity, outs: list[te.Tensor]) -> te.Schedule:
    return _schedule(cfg, outs, same=False)


def _schedule(cfg, outs, same):
    schedule, out, pixels, data = begun(outs)
    if is_padded(data):
        # the instruction reads pixels from memory, so that those around the picture have to be there; bands of rows
        # come first, as without it
        tile_pixels, tile_blocks = cfg["tile"].val
        n, o, h, w, c = schedule[out].op.axis
        o, o_tile = schedule[out].split(o, tile_blocks)
        h, h_tile = schedule[out].split(h, max(divisors(int(out.shape[2]), ROWS)))
        p, p_tile = schedule[out].split(schedule[out].fuse(h_tile, w), tile_pixels)
        unrolled(schedule[out], n, h, o, p, o_tile, p_tile, c)
        shared, tile = schedule[out].fuse(n, h, o), p
        schedule[data].compute_at(schedule[out], shared)
        schedule[data].vectorize(data.op.axis[-1])
    else:
        shared = tile = in_tiles(cfg, schedule[out])
    schedule[out].parallel(shared)
    schedule[pixels].compute_at(schedule[out], tile)
    _, o, p, c = pixels.op.axis
    *reduced, k = pixels.op.reduce_axis
    schedule[pixels].reorder(*reduced, o, p, c, k)
    for axis in (*reduced[-3:], o, p):
        schedule[pixels].unroll(axis)
    schedule[pixels].tensorize(c, _dot(instruction_of(Target.current()), same))
    return schedule


def _dot(instruction, same):
    """TensorIntrin of a vector of sums. With `same`, the same codes are multiplied by the weights of each channel; else
    each channel has pixels of its own."""
    block, products, codes, weights, accumulates, intrinsic = instruction
    k = te.reduce_axis((0, products), "k")
    kernel = te.placeholder((block, products), weights, "kernel")
    data = te.placeholder((products,) if same else (products, block), codes, "data")
    sums = te.compute((block,), lambda c: te.sum((data[k] if same else data[k, c]).astype("int32")
                                                 * kernel[c, k].astype("int32"), axis=k))

    def operand(data):
        if same:
            word = tir.call_intrin("int32", "tir.reinterpret", data.vload([0], f"{codes}x{products}"))
            found = word.astype(f"int32x{block}")
        else:
            pixels = data.vload([0, 0], f"{codes}x{block * products}")
            found = tir.Shuffle([pixels], [n % products * block + n // products for n in range(block * products)])
        return tir.call_intrin(f"{weights}x{block * products}", "tir.reinterpret", found)

    def generate(inputs, outputs):
        data, kernel = inputs
        out, = outputs

        def statement(value):
            builder = tir.ir_builder.create()
            builder.emit(out.vstore([0], value))
            return builder.get()

        def added_to(before):
            operands = operand(data), kernel.vload([0, 0], f"{weights}x{block * products}")
            return statement(sums_of(before, *operands) if accumulates else before + sums_of(*operands))

        def sums_of(*operands):
            return tir.call_llvm_pure_intrin(f"int32x{block}", intrinsic, tir.const(len(operands), "uint32"), *operands)

        zero = tir.const(0, f"int32x{block}")
        return added_to(zero), statement(zero), added_to(out.vload([0], f"int32x{block}"))

    def buffer(tensor, strides):
        return tir.decl_buffer(tensor.shape, tensor.dtype, tensor.name, offset_factor=1, strides=strides)

    binds = {data: buffer(data, [1] if same else [block, 1]), kernel: buffer(kernel, [products, 1])}
    return te.decl_tensor_intrin(sums.op, generate, binds=binds, default_buffer_params={"offset_factor": 1})


def _strategy(ours, others):
    def strategy(attrs, inputs, out_type, target):
        return (ours if len(inputs[1].shape) == 7 else others)(attrs, inputs, out_type, target)
    return strategy


conv2d_NCHWc_strategy.register(KEY)(_strategy(
    blocked.strategy(conv2d, schedule_conv2d, "conv2d.dot_products"),
    blocked.strategy(schedules.conv2d, schedules.schedule_conv2d, "conv2d.blocked")))
depthwise_conv2d_NCHWc_strategy.register(KEY)(_strategy(
    blocked.strategy(depthwise_conv2d, schedule_depthwise_conv2d, "depthwise_conv2d.dot_products"),
    blocked.strategy(schedules.depthwise_conv2d, schedules.schedule_depthwise_conv2d, "depthwise_conv2d.blocked")))

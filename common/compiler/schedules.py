"""Convolutions over blocked channels (NCHW16c and the like) as AutoTVM templates for processors, by LLVM or OpenCL.

A pixel's block of channels is one vector. The inner loops keep a tile of `pixels` x `blocks` such vectors in registers
while they sum over input channels and kernel, as a matrix product does; what follows a convolution (bias, residual,
clip) is applied to the tile before it is stored. Their tiles are few, so that all of them can be tried.

`common.compiler.blocked` makes TVM use them.
"""
from collections.abc import Callable, Sequence
from math import gcd, log

from tvm import autotvm, te, tir
from tvm.autotvm.task.space import ConfigEntity
from tvm.target import Target
from tvm.topi.nn import pad
from tvm.topi.nn.utils import get_pad_tuple
from tvm.topi.utils import get_const_tuple, traverse_inline

# vectors in a tile, which a processor's registers should hold with those of the kernel, and blocks of channels
SMALLEST, LARGEST, MAX_BLOCKS = 6, 30, 5
REGISTERS, FEW = 16, 8  # of AVX2, where others have 32, and the channels in its vectors
# the most in a tile without a record: with 32 registers (AVX-512, NEON), and by the channels in a vector
UNTUNED, UNTUNED_OF = (14, 2), {FEW: (8, 4)}
ODD = 6  # the most pixels in a tile that need not divide a map
OPENCL = "opencl"
BANDS, OPENCL_BANDS = 8, 2  # of the maps in a batch: as many cores can have their own
# pixels of a small map, at most: its weights are more than it is, so cores with one cache compute some channels each
SMALL = 64
LONG = 16  # a vector's channels with which a core waits for weights
SEPARATE = "znver"  # as LLVM's names of processors begin whose cores may have separate caches
GROUPS = 64  # of work in OpenCL, about: all cores have some until the end, and PoCL's first takes its share at once
TAG = "blocked_output"  # of a convolution's tensor


def divisors(number: int, limit: int) -> list[int]:
    return [n for n in range(1, min(number, limit) + 1) if number % n == 0]


def define_tile(cfg: ConfigEntity, height: int, width: int, blocks: int, channels: int, few: bool = False) -> None:
    """The space of tiles: adjacent pixels (within a row, or several complete rows) by blocks of `channels`.

    `few`: for a processor with few registers. In a map of one row, the last tile may then end beyond it, except in
    OpenCL: PoCL's LLVM makes slow code of a pixel that is computed again.
    """
    opencl = Target.current().kind.name == OPENCL
    pixels = [p for p in divisors(height * width, LARGEST) if width % p == 0 or p % width == 0]
    if few and height == 1 and not opencl:
        pixels = sorted({*pixels, *range(1, min(width, ODD) + 1)})
    tiles = [(p, b) for p in pixels for b in divisors(blocks, MAX_BLOCKS) if p * b <= LARGEST]
    smallest = min(SMALLEST, max(p * b for p, b in tiles))
    cfg.define_knob("tile", [(p, b) for p, b in tiles if p * b >= smallest])
    if cfg.is_fallback:
        registers = REGISTERS if opencl else REGISTERS - 1  # with one more, llvm's code takes a third longer
        untuned = fewest_loads(tiles, height * width, registers) if few else _most_vectors(tiles, channels)
        cfg["tile"] = autotvm.task.space.OtherOptionEntity(untuned)


def _most_vectors(tiles, channels):
    vectors, of_channels = UNTUNED_OF.get(channels, UNTUNED)
    return max(tiles, key=lambda tile: (tile[0] * tile[1] <= vectors and tile[1] <= of_channels,
                                        tile[0] * tile[1], tile[1]))


def fewest_loads(tiles: Sequence[tuple[int, int]], count: int, registers: int) -> tuple[int, int]:
    """The tile of a map of `count` pixels that spends most of its time on sums of the map.

    For each channel it loads its pixels and its blocks of weights, the fewer of which stay in `registers` beside the
    sums. A load takes half the time of a product, as measured on Zen 4.
    """
    def share(tile):
        pixels, blocks = tile
        sums = pixels * blocks
        within = count / (pixels * -(-count // pixels))
        return sums + min(tile) <= registers, within * sums / (sums + (pixels + blocks) / 2)

    return max(tiles, key=share)


@autotvm.register_topi_compute("conv2d.blocked")
def conv2d(cfg: ConfigEntity, data: te.Tensor, kernel: te.Tensor, strides: Sequence[int], padding: Sequence[int],
           dilation: Sequence[int], layout: str, out_layout: str, out_dtype: str) -> te.Tensor:
    """`data` (N, C/i, H, W, i) or (N, C, H, W), `kernel` (O/o, C/i, kh, kw, i, o); returns (N, O/o, H', W', o)."""
    batch = get_const_tuple(data.shape)[0]
    chunks, in_chunks, kh, kw, inner, block = get_const_tuple(kernel.shape)
    height, width, at, inside = window(data, kh, kw, strides, padding, dilation)
    channel = te.reduce_axis((0, in_chunks * inner), "channel")
    row, column = te.reduce_axis((0, kh), "row"), te.reduce_axis((0, kw), "column")
    define_tile(cfg, height, width, chunks, block, few=block == FEW)

    def pixel(n, o, p, c):
        h, w = tir.indexdiv(p, width), tir.indexmod(p, width)
        chunk, within = tir.indexdiv(channel, inner), tir.indexmod(channel, inner)
        number = at(n, chunk, h, row, w, column, *[within][:len(data.shape) - 4])
        weight = kernel[o, chunk, row, column, within, c].astype(out_dtype) * inside(h, row)
        return te.sum(number.astype(out_dtype) * weight, axis=[channel, row, column])

    return as_map(pixel, (batch, chunks, height, width, block), "conv2d", cfg["tile"].val[0])


@autotvm.register_topi_compute("depthwise_conv2d.blocked")
def depthwise_conv2d(cfg: ConfigEntity, data: te.Tensor, kernel: te.Tensor, strides: Sequence[int],
                     padding: Sequence[int], dilation: Sequence[int], layout: str, out_layout: str,
                     out_dtype: str) -> te.Tensor:
    """`data` (N, C/i, H, W, i), `kernel` (C/i, 1, kh, kw, 1, i); returns (N, C/i, H', W', i)."""
    batch, chunks, _, _, block = get_const_tuple(data.shape)
    _, _, kh, kw, _, _ = get_const_tuple(kernel.shape)
    height, width, at, inside = window(data, kh, kw, strides, padding, dilation)
    row, column = te.reduce_axis((0, kh), "row"), te.reduce_axis((0, kw), "column")
    define_tile(cfg, height, width, 1, block)

    def pixel(n, o, p, c):
        h, w = tir.indexdiv(p, width), tir.indexmod(p, width)
        weight = kernel[o, 0, row, column, 0, c].astype(out_dtype) * inside(h, row)
        return te.sum(at(n, o, h, row, w, column, c).astype(out_dtype) * weight, axis=[row, column])

    return as_map(pixel, (batch, chunks, height, width, block), "depthwise_conv2d")


def window(data: te.Tensor, kh: int, kw: int, strides: Sequence[int], padding: Sequence[int],
           dilation: Sequence[int]) -> tuple:
    """(height, width, at, inside) of a convolution over `data` (N, C/i, H, W, i) or (N, C, H, W) with zeros around it.

    `at(n, chunk, h, row, w, column, *i)` is the number that `row` and `column` of the kernel meet at h and w of the
    output, of rows for which `inside(h, row)` is 1. For the others, which are zeros, `inside` is 0.
    """
    (sh, sw), (dh, dw) = _pair(strides), _pair(dilation)
    top, left, *_ = pads = get_pad_tuple(padding, ((kh - 1) * dh + 1, (kw - 1) * dw + 1))
    rows, columns = get_const_tuple(data.shape)[2:4]
    around, height, width = padded(data, kh, kw, strides, padding, dilation)
    if Target.current().kind.name != OPENCL or not any(pads):
        return (height, width, lambda n, chunk, h, row, w, column, *i: around(
            n, chunk, h * sh + row * dh, w * sw + column * dw, *i), lambda h, row: 1)

    # PoCL's LLVM makes a branch of each number that may be outside. A product with zero has none; where the border is
    # infinite, it makes NaN of infinity
    def within(index, size):
        return tir.if_then_else(tir.all(index >= 0, index < size), 1, 0)

    def nearest(index, size):
        return tir.max(tir.min(index, size - 1), 0)

    def at(n, chunk, h, row, w, column, *i):
        h, w = h * sh + row * dh - top, w * sw + column * dw - left
        return data(n, chunk, nearest(h, rows), nearest(w, columns), *i) * within(w, columns).astype(data.dtype)

    return height, width, at, lambda h, row: within(h * sh + row * dh - top, rows)


def _pair(value):
    return value if isinstance(value, (tuple, list)) else (value, value)


def as_map(pixel: Callable, shape: Sequence[int], name: str, together: int = 1) -> te.Tensor:
    """The convolution `name` as a tensor of `shape` (N, C/i, H, W, i), of `pixel(n, o, p, c)`.

    All pixels have one axis p, so that a tile of a small map may span rows. If `together`, those in a tile, do not
    divide them, the last pixel is computed more than once.
    """
    batch, chunks, height, width, block = shape
    count = height * width
    more = -count % together
    pixels = te.compute((batch, chunks, count + more, block),
                        lambda n, o, p, c: pixel(n, o, tir.min(p, count - 1) if more else p, c), "pixels")
    return te.compute(shape, lambda n, o, h, w, c: pixels[n, o, h * width + w, c], name, tag=TAG)


def padded(data: te.Tensor, kh: int, kw: int, strides: Sequence[int], padding: Sequence[int],
           dilation: Sequence[int]) -> tuple:
    """`data` (N, C/i, H, W, i) or (N, C, H, W) with zeros around it, and the convolution's height and width."""
    (sh, sw), (dh, dw) = _pair(strides), _pair(dilation)
    top, left, bottom, right = get_pad_tuple(padding, ((kh - 1) * dh + 1, (kw - 1) * dw + 1))
    rows, columns = get_const_tuple(data.shape)[2:4]
    height = (rows + top + bottom - (kh - 1) * dh - 1) // sh + 1
    width = (columns + left + right - (kw - 1) * dw - 1) // sw + 1
    if top or left or bottom or right:
        block = [0] * (len(data.shape) - 4)
        data = pad(data, [0, 0, top, left, *block], [0, 0, bottom, right, *block], name="padded")
    return data, height, width


@autotvm.register_topi_schedule("conv2d.blocked")
def schedule_conv2d(cfg: ConfigEntity, outs: list[te.Tensor]) -> te.Schedule:
    return _schedule(cfg, outs)


@autotvm.register_topi_schedule("depthwise_conv2d.blocked")
def schedule_depthwise_conv2d(cfg: ConfigEntity, outs: list[te.Tensor]) -> te.Schedule:
    return _schedule(cfg, outs)


def _schedule(cfg, outs):
    schedule, out, pixels, data = begun(outs)
    if is_padded(data):
        schedule[data].compute_inline()
    tile = spread(cfg, schedule[out])
    schedule[pixels].compute_at(schedule[out], tile)
    _, o, p, c = pixels.op.axis
    *channel, row, column = pixels.op.reduce_axis
    if channel and c.dom.extent == FEW:
        # addresses would take as many instructions as sums; within a vector's channels they are constants
        channel = schedule[pixels].split(*channel, gcd(int(channel[0].dom.extent), FEW))
        schedule[pixels].unroll(channel[1])
    # of the outer loop one vector at a time is in a register, of the inner one all: they should be the fewer
    sums = (o, p) if cfg["tile"].val[0] <= cfg["tile"].val[1] else (p, o)
    schedule[pixels].reorder(*channel, row, column, *sums, c)
    for axis in (row, column, *sums):
        schedule[pixels].unroll(axis)
    schedule[pixels].vectorize(c)
    return schedule


def begun(outs: list[te.Tensor]) -> tuple:
    """(schedule, its output, pixels, data) of a convolution of `as_map` and the operators after it."""
    out = outs if isinstance(outs, te.Tensor) else outs[0]
    schedule = te.create_schedule(out.op)
    found = []
    traverse_inline(schedule, out.op, lambda op: found.append(op) if op.tag == TAG else None)
    convolution, = found
    if convolution.output(0) != out:
        schedule[convolution].compute_inline()
    pixels, = convolution.input_tensors
    return schedule, out, pixels, pixels.op.input_tensors[0]


def is_padded(data: te.Tensor) -> bool:
    return isinstance(data.op, te.ComputeOp) and data.op.name == "padded"


def in_tiles(cfg: ConfigEntity, stage: te.Stage) -> tir.IterVar:
    """Split `stage` into the tiles that `cfg` chooses; returns the one axis of all tiles.

    A thread gets adjacent ones. A band of rows comes with all its channels before the next, so that a core reads what
    it has itself written a layer before: from another core it takes longer, most of all from one with another cache.
    """
    pixels, blocks = cfg["tile"].val
    n, o, h, w, c = stage.op.axis
    bands = _bands(stage, pixels)
    o, o_tile = stage.split(o, blocks)
    if int(h.dom.extent) > 1:
        band, h = stage.split(h, nparts=bands)
        p, p_tile = stage.split(stage.fuse(h, w), pixels)
        first = [n, band]
    else:  # the last tile may end beyond the row; a fused axis can only be split by what divides it
        p, p_tile = stage.split(w, pixels)
        band, p = stage.split(p, nparts=bands)
        first = [n, h, band]
    unrolled(stage, *first, o, p, o_tile, p_tile, c)
    return stage.fuse(*first, o, p)


def _bands(stage, pixels):
    """How many bands of one size, of whole tiles, each map of a batch is cut into."""
    batch, _, height, width, channels = get_const_tuple(stage.op.output(0).shape)
    target = Target.current()
    separate = str(target.attrs.get("mcpu", "")).startswith(SEPARATE)
    if target.kind.name == OPENCL:
        wanted = OPENCL_BANDS
    elif batch * height * width <= SMALL and channels == LONG and not separate:
        wanted = 1
    else:
        wanted = BANDS
    rows = height > 1
    length = height if rows else -(-width // pixels)
    fit = [n for n in divisors(length, length) if not rows or length // n * width % pixels == 0]
    return min(fit, key=lambda n: abs(log(n * batch / wanted)))


def unrolled(stage: te.Stage, *axes: tir.IterVar) -> None:
    """Order `axes`, the last three of which are a tile's: two that are unrolled, and a vector."""
    stage.reorder(*axes)
    for axis in axes[-3:-1]:
        stage.unroll(axis)
    stage.vectorize(axes[-1])


def spread(cfg: ConfigEntity, stage: te.Stage) -> tir.IterVar:
    """Give the tiles of `stage` to the processor's threads; returns the axis of one tile.

    In OpenCL, as groups of one work item, which computes some tiles one after the other: to start it takes as long as a
    small one.
    """
    axis = in_tiles(cfg, stage)
    if Target.current().kind.name != OPENCL:
        stage.parallel(axis)
        return axis
    n, chunks, height, width, _ = get_const_tuple(stage.op.output(0).shape)
    pixels, blocks = cfg["tile"].val
    in_map = -(-height * width // pixels)
    in_band = in_map // _bands(stage, pixels)
    tiles = n * (chunks // blocks) * in_map
    # part of a band or some bands of channels: to find a tile's place then takes no division
    fit = [f for f in divisors(tiles, tiles) if in_band % f == 0 or f % in_band == 0]
    together = min(fit, key=lambda f: abs(log(tiles / f / GROUPS)))
    group, axis = stage.split(axis, together)
    in_groups(stage, group)
    return axis


def in_groups(stage: te.Stage, axis: tir.IterVar) -> tir.IterVar:
    """Bind `axis` to OpenCL's groups, each of one work item; returns the axis of the item."""
    group, item = stage.split(axis, 1)
    stage.bind(group, te.thread_axis("blockIdx.x"))
    stage.bind(item, te.thread_axis("threadIdx.x"))
    return item

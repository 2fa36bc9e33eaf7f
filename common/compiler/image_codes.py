"""The codes of a picture, as the dot products of an int8 network's first layer read them.

They are padded, and a pixel's three bytes are side by side, with a fourth. TVM computes them one by one, with a test of
each for the border. Here 16 pixels of a row are one vector of 32-bit words, made of a vector of each colour.
"""
from functools import partial

import tvm
from tvm import relay, te, tir
from tvm.relay import dataflow_pattern as pattern
from tvm.relay.op import op
from tvm.target import Target

from common.compiler.dot_products import in_bytes

NAME, LAYOUT, BYTES = "mobilenetv2.image_codes", "NCHW4c", 4
LANES = 16  # pixels at a time


def with_image_codes(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """`module` of the layout for `target`, with the operator of this file in place of TVM's for the same numbers."""
    if not in_bytes(target):
        return module
    return relay.transform.InferType()(tvm.IRModule.from_expr(pattern.rewrite(_Codes(), module["main"])))


class _Codes(pattern.DFPatternCallback):
    """layout_transform(pad(cast(clip(data x scale + shift, 0, 255), uint8), zero)) of fewer than four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.scale, self.shift, self.zero = pattern.wildcard(), *(pattern.is_constant() for _ in range(3))
        self.clip = pattern.is_op("clip")(pattern.is_op("cast")(self.data) * self.scale + self.shift)
        self.pad = pattern.is_op("nn.pad")(pattern.is_op("cast")(self.clip), self.zero)
        self.pattern = pattern.is_op("layout_transform")(self.pad)

    def callback(self, before: relay.Expr, post: relay.Expr, found: tvm.ir.container.Map) -> relay.Expr:
        data, clip, pad = (found[part][0] for part in (self.data, self.clip, self.pad))
        (_, more), *added = ((int(start), int(end)) for start, end in pad.attrs.pad_width[1:])
        scale, shift, zero = (found[part][0].data.numpy() for part in (self.scale, self.shift, self.zero))
        if (before.attrs.dst_layout, pad.checked_type.dtype, scale.size, shift.size) != (LAYOUT, "uint8", 1, 1) \
                or data.checked_type.dtype != "float32" or not more or int(pad.checked_type.shape[1]) != BYTES:
            return post
        return relay.Call(op.get(NAME), [data], tvm.ir.make_node(
            "DictAttrs", scale=scale.item(), shift=shift.item(), low=clip.attrs.a_min, high=clip.attrs.a_max,
            zero=zero.item(), rows=added[0], columns=added[1]))


def _type(arguments, attrs):
    batch, _, height, width = arguments[0].shape
    return relay.TensorType((batch, 1, height + sum(map(int, attrs["rows"])), width + sum(map(int, attrs["columns"])),
                             BYTES), "uint8")


def _compute(attrs, inputs, out_type):
    return [te.extern(out_type.shape, list(inputs), partial(_statement, attrs), dtype="uint8", name="image_codes")]


def _statement(attrs, inputs, outputs):
    (image,), (codes,) = inputs, outputs
    (_, channels, height, width), (batch, _, rows, columns, _) = (map(int, buffer.shape) for buffer in (image, codes))
    top, left = (int(attrs[axis][0]) for axis in ("rows", "columns"))
    builder = tir.ir_builder.create()

    def number(value, dtype, lanes):
        value = tir.const(value, dtype)
        return value if lanes == 1 else tir.Broadcast(value, lanes)

    def code(n, channel, h, w, lanes):
        scale, shift, low, high = (number(float(attrs[name]), "float32", lanes)
                                   for name in ("scale", "shift", "low", "high"))
        numbers = image.vload([n, channel, h, w], f"float32x{lanes}") * scale + shift
        return tir.max(tir.min(numbers, high), low).astype(f"int32x{lanes}")

    def store(n, h, w, words, lanes):
        builder.emit(codes.vstore([n, 0, h, w, 0], tir.reinterpret(f"uint8x{BYTES * lanes}", words)))

    def pixels(n, h, w, lanes):
        words = [code(n, channel, h, w, lanes) * number(256 ** channel, "int32", lanes) for channel in range(channels)]
        store(n, h + top, w + left, sum(words[1:], words[0]), lanes)

    def border(n, h, start, count):
        with builder.for_range(0, count) as w:
            store(n, h, start + w, number(int(attrs["zero"]) * 0x10101, "int32", 1), 1)

    with builder.for_range(0, batch * rows, kind="parallel") as row:
        n, h = tir.indexdiv(row, rows), tir.indexmod(row, rows)
        with builder.if_scope(tir.all(h >= top, h < top + height)):
            border(n, h, 0, left)
            border(n, h, left + width, columns - left - width)
            with builder.for_range(0, width // LANES) as block:
                pixels(n, h - top, block * LANES, LANES)
            with builder.for_range(0, width % LANES) as w:
                pixels(n, h - top, width - 1 - w, 1)
        with builder.else_scope():
            border(n, h, 0, columns)
    return builder.get()


def _strategy(attrs, inputs, out_type, target):
    strategy = op.OpStrategy()
    strategy.add_implementation(_compute, lambda attrs, outs, target: te.create_schedule([out.op for out in outs]),
                                name=NAME)
    return strategy


op.register(NAME, "codes of a picture")
op.get(NAME).set_num_inputs(1)
op.get(NAME).add_argument("data", "Tensor", "float32 (N, C, H, W), C below 4")
op.get(NAME).set_attrs_type_key("DictAttrs")
op.get(NAME).add_type_rel("ImageCodes", _type)
op.register_pattern(NAME, op.OpPattern.OPAQUE)
op.register_strategy(NAME, tvm.target.override_native_generic_func("image_codes_strategy")(_strategy))

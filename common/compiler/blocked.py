"""Blocked channels: have TVM lay a network out as NCHW16c, and use the templates of `common.compiler.schedules`.

A key of the target asks for it, as in `llvm -keys=nchw16c,cpu`.
"""
from collections.abc import Callable
from math import gcd

import tvm
from tvm import relay
from tvm.relay import dataflow_pattern
from tvm.relay.op.strategy.generic import (
    conv2d_NCHWc_strategy,
    depthwise_conv2d_NCHWc_strategy,
    wrap_compute_conv2d,
    wrap_topi_schedule,
)
from tvm.topi.nn import conv2d_alter_layout

from common.compiler import schedules
from common.compiler.one_row import in_one_row
from common.compiler.processor import has_feature

# a target's key for the layout: channels in a block
BLOCKS = {"nchw16c": 16, "nchw8c": 8, "nchw4c": 4}
X86_VECTORS = ((16, "avx512f"), (8, "avx2"))


@conv2d_alter_layout.register(list(BLOCKS))
def alter_layout(attrs: tvm.ir.Attrs, inputs: list, tinfos: list, out_type: relay.Type) -> relay.Expr | None:
    """The convolution over blocks of channels; None (as it is) if it is grouped, but not depthwise in blocks."""
    data, kernel = tinfos
    if attrs["data_layout"] != "NCHW" or attrs["kernel_layout"] != "OIHW":
        return None
    outputs, per_group, *_ = (int(n) for n in kernel.shape)
    channels, block = int(data.shape[1]), block_of(tvm.target.Target.current())
    inner, outer = gcd(channels, block), gcd(outputs, block)
    new = {key: attrs[key] for key in attrs.keys()}  # noqa: SIM118 (not a dict)
    new |= {"channels": outputs, "data_layout": f"NCHW{inner}c" if inner > 1 else "NCHW",
            "out_layout": f"NCHW{outer}c"}
    if attrs.groups == 1:
        return relay.nn.contrib_conv2d_nchwc(*inputs, **new | {"kernel_layout": f"OIHW{inner}i{outer}o"})
    if attrs.groups == channels == outputs and per_group == 1 and inner > 1:
        return relay.nn.contrib_depthwise_conv2d_nchwc(*inputs, **new | {"kernel_layout": f"OIHW1i{outer}o"})
    return None


def layout_for(target: tvm.target.Target, floats: int = 0) -> str:
    """The layout with blocks as long as a vector of the processor that `target` compiles for; "" if it is for none.

    `floats`: the numbers in a vector, for targets that do not say, such as OpenCL on a processor.
    """
    if target.kind.name == "llvm":
        floats = next((width for width, feature in X86_VECTORS if has_feature(target, feature)), 4)
    return f"nchw{min(floats, 16)}c" if f"nchw{min(floats, 16)}c" in BLOCKS else ""


def layout_of(target: tvm.target.Target) -> str:
    """The key of the layout among the target's, or "" for TVM's own."""
    return next((key for key in target.keys if key in BLOCKS), "")


def block_of(target: tvm.target.Target) -> int:
    """Channels in a block of the layout; 1 for TVM's own."""
    return BLOCKS.get(layout_of(target), 1)


def lay_out(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """`module` (NCHW) over blocks of channels if `target` has a layout for them, else in those that TVM gives it."""
    if layout_of(target):
        changes = [change(block_of(target)) for change in (_DenseAsConvolution, _OddConvolution)]
        module = tvm.IRModule.from_expr(dataflow_pattern.rewrite(changes, module["main"]))
    with target, tvm.transform.PassContext(opt_level=3):
        module = tvm.transform.Sequential([
            relay.transform.InferType(), relay.transform.SimplifyInference(),  # BatchNorm knows no blocks
            relay.transform.CanonicalizeOps(), relay.transform.AlterOpLayout(), relay.transform.InferType()])(module)
    return in_one_row(module) if block_of(target) == schedules.FEW else module


class _DenseAsConvolution(dataflow_pattern.DFPatternCallback):
    """A fully connected layer as a 1x1 convolution, in which the images of a batch are the pixels of one row.

    Units of zeros make their number a multiple of `block`; they are left out of the result.
    """

    def __init__(self, block: int) -> None:
        super().__init__(require_type=True)
        self.block = block
        self.pattern = dataflow_pattern.is_op("nn.dense")(dataflow_pattern.wildcard(), dataflow_pattern.wildcard())

    def callback(self, pre: relay.Expr, post: relay.Expr, node_map: tvm.ir.container.Map) -> relay.Expr:
        data, weight = post.args
        (batch, channels), (units, _) = (map(int, argument.checked_type.shape) for argument in pre.args)
        if pre.checked_type.dtype != "float32":
            return post
        row = relay.reshape(relay.transpose(data), (1, channels, 1, batch))
        more = -units % self.block
        kernel = relay.reshape(relay.nn.pad(weight, ((0, more), (0, 0))), (units + more, channels, 1, 1))
        sums = relay.nn.conv2d(row, kernel, kernel_size=(1, 1), channels=units + more)
        return relay.strided_slice(relay.transpose(relay.reshape(sums, (units + more, batch))), (0, 0), (batch, units))


class _OddConvolution(dataflow_pattern.DFPatternCallback):
    """A convolution whose channels would fill a quarter of a block or less, such as a classifier of 1001 classes.

    Channels of zeros make their number a multiple of `block`; they are left out of the result.
    """

    def __init__(self, block: int) -> None:
        super().__init__(require_type=True)
        self.block = block
        self.pattern = dataflow_pattern.is_op("nn.conv2d")(dataflow_pattern.wildcard(), dataflow_pattern.wildcard())

    def callback(self, pre: relay.Expr, post: relay.Expr, node_map: tvm.ir.container.Map) -> relay.Expr:
        (data, weight), attrs = post.args, pre.attrs
        outputs = int(pre.args[1].checked_type.shape[0])
        if (gcd(outputs, self.block) * 4 > self.block or attrs.groups != 1 or attrs.data_layout != "NCHW"
                or attrs.kernel_layout != "OIHW" or pre.checked_type.dtype != "float32"):
            return post
        more = -outputs % self.block
        same = {key: attrs[key] for key in attrs.keys()}  # noqa: SIM118 (not a dict)
        wider = relay.nn.conv2d(data, relay.nn.pad(weight, ((0, more), (0, 0), (0, 0), (0, 0))),
                                **same | {"channels": outputs + more})
        return relay.strided_slice(wider, (0,), (outputs,), axes=(1,))


def strategy(compute: Callable, schedule: Callable, name: str) -> Callable:
    """Of convolutions, whose `compute` takes the layouts too."""
    return only(wrap_compute_conv2d(compute, need_data_layout=True, need_out_layout=True), schedule, name)


def only(compute: Callable, schedule: Callable, name: str) -> Callable:
    """TVM's strategy of a single implementation; `compute` as TVM wraps it."""
    def chosen_for(attrs, inputs, out_type, target):
        chosen = relay.op.OpStrategy()
        chosen.add_implementation(compute, wrap_topi_schedule(schedule), name=name)
        return chosen
    return chosen_for


conv2d_NCHWc_strategy.register(list(BLOCKS))(
    strategy(schedules.conv2d, schedules.schedule_conv2d, "conv2d.blocked"))
depthwise_conv2d_NCHWc_strategy.register(list(BLOCKS))(
    strategy(schedules.depthwise_conv2d, schedules.schedule_depthwise_conv2d, "depthwise_conv2d.blocked"))

"""Pooling of whole maps and softmax in OpenCL on processors: a work item computes a row of the output by itself.

By TVM's schedules the work items of a group share a row. A processor runs them one after the other, each up to where
they wait for each other. A key of the target asks for these instead: `opencl -keys=nchw16c,rows,opencl,gpu`.
"""
from tvm import relay, te
from tvm.relay.op.strategy.generic import wrap_compute_softmax
from tvm.target import get_native_generic_func
from tvm.topi import nn

from common.compiler.blocked import BLOCKS, only
from common.compiler.schedules import in_groups

KEY = "rows"
POOL = "nn.global_avg_pool2d"


def schedule_softmax(outs: list[te.Tensor]) -> te.Schedule:
    schedule, _ = _in_rows(outs)
    return schedule


def schedule_pool(outs: list[te.Tensor]) -> te.Schedule:
    schedule, stages = _in_rows(outs)
    for stage in stages:
        *_, channels = stage.op.axis
        if int(channels.dom.extent) in BLOCKS.values():
            stage.reorder(*stage.op.reduce_axis, channels)
            stage.vectorize(channels)
    return schedule


def _in_rows(outs):
    """(schedule, its stages), with a group of one work item for each row along the output's last axis."""
    out = outs if isinstance(outs, te.Tensor) else outs[0]
    schedule = te.create_schedule(out.op)
    item = in_groups(schedule[out], schedule[out].fuse(*out.op.axis[:-1]))
    stages = [stage for stage in schedule.stages if isinstance(stage.op, te.ComputeOp)]
    for stage in stages:
        if stage.op != out.op:
            stage.compute_at(schedule[out], item)
    return schedule, stages


get_native_generic_func("softmax_strategy").register(
    only(wrap_compute_softmax(nn.softmax), schedule_softmax, "softmax.rows"), [KEY])
get_native_generic_func(f"{POOL}_strategy").register(
    only(relay.op.get(POOL).get_attr("FTVMCompute"), schedule_pool, f"{POOL}.rows"), [KEY])

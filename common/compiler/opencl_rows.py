"""Pooling of whole maps and softmax in OpenCL on processors: a work item computes a row of the output by itself.

By TVM's schedules the work items of a group share a row. A processor runs them one after the other, each up to where
they wait for each other. A key of the target asks for these instead: `opencl -keys=nchw16c,rows,opencl,gpu`.
"""
from collections.abc import Callable

from tvm import relay, te
from tvm.relay.op.strategy.generic import wrap_compute_softmax, wrap_topi_schedule
from tvm.target import get_native_generic_func
from tvm.topi import nn

from common.compiler.blocked import BLOCKS

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
    group, item = schedule[out].split(schedule[out].fuse(*schedule[out].op.axis[:-1]), 1)
    schedule[out].bind(group, te.thread_axis("blockIdx.x"))
    schedule[out].bind(item, te.thread_axis("threadIdx.x"))
    stages = [stage for stage in schedule.stages if isinstance(stage.op, te.ComputeOp)]
    for stage in stages:
        if stage.op != out.op:
            stage.compute_at(schedule[out], item)
    return schedule, stages


def _register(operator: str, compute: Callable, schedule: Callable) -> None:
    def strategy(attrs, inputs, out_type, target):
        chosen = relay.op.OpStrategy()
        chosen.add_implementation(compute, wrap_topi_schedule(schedule), name=f"{operator}.{KEY}")
        return chosen

    get_native_generic_func(f"{operator}_strategy").register(strategy, [KEY])


_register("softmax", wrap_compute_softmax(nn.softmax), schedule_softmax)
_register(POOL, relay.op.get(POOL).get_attr("FTVMCompute"), schedule_pool)

"""Build a network for a target, and write the files that run it without a compiler."""
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import tvm
from tvm import autotvm, relay
from tvm.contrib import cc, graph_executor
from tvm.relay.backend import te_compiler

from common.base.errors import InputError, is_of_memory, with_kind
from common.compiler import opencl_vectors  # noqa: F401 (TVM calls it)
from common.compiler.blocked import lay_out
from common.compiler.image_codes import with_image_codes
from common.compiler.lifting import lifted
from common.compiler.narrowing import narrowing
from common.compiler.relay_network import Network
from common.inference.weights import PARAMS, Weights, packed, save_weights

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a linker may say of a disk
# of TVM's passes, those that find nothing in these networks: each has the types of the whole graph inferred again,
# SimplifyExpr for each of its rules, which was a third of a compile
NEEDLESS = ["SimplifyExpr", "SimplifyExprPostAlterOp", "FoldScaleAxis", "BackwardFoldScaleAxis",
            "ForwardFoldScaleAxis", "qnn.Legalize", "CanonicalizeCast", "FlattenAtrousConv"]
logging.getLogger("autotvm").setLevel(logging.ERROR)  # a warning, once for each process, that nothing was tuned
te_compiler.libinfo = cache(te_compiler.libinfo)  # asked for each candidate schedule: a quarter of a compile's time


class Built(NamedTuple):
    """`weights`: how the library's inputs, besides the image, are made from a checkpoint's parameters. `params`: those
    inputs that hold other numbers, {name: tvm.nd.NDArray}."""
    library: tvm.relay.backend.executor_factory.GraphExecutorFactoryModule
    weights: Weights | None
    params: dict[str, Any]
    tuned: int    # layers with a choice of schedules for which tuning records made it; equal ones count once
    untuned: int  # those that had no record


@contextmanager
def compiled_by_tvm(symbol_file: str | Path, target: str) -> Iterator[None]:
    """Errors of TVM in this block, except too little memory, become an InputError that names the symbol's file."""
    try:
        yield
    except Exception as error:  # of any kind: TVM's Python code fails on what a schedule did not foresee
        if isinstance(error, (InputError, OSError)) or is_of_memory(error):
            raise
        raise InputError(f"{symbol_file}: TVM cannot compile this network for target {target!r}: "
                         f"{with_kind(error)}") from None


def build(network: Network, target: tvm.target.Target, records: Sequence = ()) -> Built:
    """`network` for what `resolve_target` returns, with tuning records (of common.compiler.records.Records)."""
    context = tvm.transform.PassContext(opt_level=3, config=narrowing(target), disabled_pass=NEEDLESS)
    with _Best(records) as best, context:
        module = with_image_codes(lay_out(network.module, target), target)
        module, inputs = lifted(module, network.params, network.folded and network.folded.shapes)
        library = relay.build(module, target=target)
    params = dict(library.get_params())  # arrays in the graph itself
    if network.folded is None:
        params |= {name: tvm.nd.array(array) for name, array in packed(inputs, network.params).items()}
        weights = None
    else:
        weights = Weights(network.folded.identity, inputs)
    return Built(library, weights, params, len(best.found), len(best.missing))


def executor_of(network: Network, target: tvm.target.Target) -> graph_executor.GraphModule:
    """`network` built for this processor, with its weights, to be run in this process."""
    built = build(network._replace(folded=None), target)
    executor = graph_executor.GraphModule(built.library["default"](tvm.cpu()))
    executor.set_input(**built.params)
    return executor


class _Best(autotvm.task.ApplyHistoryBest):
    """AutoTVM's choice of the fastest record, which notes which layers had one."""

    def __init__(self, records: Sequence) -> None:
        super().__init__(records)
        self._recorded = {record[0].task.workload for record in records}
        self.found, self.missing = set(), set()

    def _query_inside(self, target, workload):
        (self.found if workload in self._recorded else self.missing).add(workload)
        return super()._query_inside(target, workload)


def save(built: Built, folder: str | Path, description: dict, **options: Any) -> None:
    """Write network.so, graph.json, weights.json or network.params, and `description` as network.json.

    `options` are those of TVM's export_library, such as cc="aarch64-linux-gnu-g++". Raises InputError if there is no
    C++ compiler, or if it cannot link, OSError if the files cannot be written.
    """
    linker = options.get("cc") or cc.get_cc() or ""
    if "fcompile" not in options and not shutil.which(linker):
        raise InputError(f"compiling needs a C++ compiler: {linker} is not there" if linker else
                         "compiling needs a C++ compiler: install g++")
    folder = Path(folder)
    if built.weights:
        save_weights(folder, built.weights)
    if built.params:
        (folder / PARAMS).write_bytes(tvm.runtime.save_param_dict(built.params))
    (folder / "graph.json").write_text(built.library.get_graph_json())
    with tempfile.TemporaryDirectory(dir=folder) as objects:
        try:
            built.library.get_lib().export_library(str(folder / "network.so"), workspace_dir=objects, **options)
        except RuntimeError as error:
            full = next((number for number in FULL if os.strerror(number) in str(error)), None)
            if full:
                raise OSError(full, os.strerror(full), str(folder / "network.so")) from None
            raise InputError(f"{linker} cannot link the network: {_of_linker(str(error))}") from None
    (folder / "network.json").write_text(json.dumps(description, indent=1) + "\n")


def _of_linker(text):
    """The linker's first line, in the text of TVM's error."""
    lines = [line.strip() for line in text.splitlines()]
    said = (line for line in lines if line and not line.startswith(("Compilation error", "Command line")))
    return next(said, "it failed without a message")

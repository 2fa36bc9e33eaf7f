"""Compile a checkpoint in a process of its own: what crashes or leaks in a compiler ends with it.

The request comes as JSON on standard input: {prefix, epoch, data_shape, target, device, precision, records, output,
parent, elsewhere}. The files that `common.inference.network` runs are written into the folder `output`; `elsewhere`
says that they are for another machine. Messages for the user go to standard output, an error to standard error. The
exit status is 74 if files cannot be written.
"""
import json
import os
import sys

from common.base.errors import InputError, reported, with_kind
from common.base.processes import dies_with
from common.checkpoint.params import checkpoint_files

TIMES = {"llvm": "eight seconds", "opencl": "fifteen seconds"}  # on two cores


def main(request: dict) -> None:
    dies_with(request["parent"])
    _import_tvm()
    import tvm

    from common.compiler.blocked import block_of
    from common.compiler.build import build, compiled_by_tvm, save
    from common.compiler.precision import in_precision, target_for
    from common.compiler.processor import export_options
    from common.compiler.records import choose
    from common.compiler.relay_network import load_network
    from common.compiler.targets import check_runs_here, resolve_target
    from common.inference.runtime import Device

    name, device = request["target"], request["device"] and Device(*request["device"])
    prefix, epoch, precision = request["prefix"], request["epoch"], request["precision"]
    target = target_for(resolve_target(name, device.floats if device else 0), precision)
    if not request["elsewhere"]:
        check_runs_here(name, target)
    network = load_network(prefix, epoch, tuple(request["data_shape"]), block_of(target))
    records = choose(request["records"], target, device)
    with compiled_by_tvm(checkpoint_files(prefix, epoch)[0], name):
        network = in_precision(network, precision, target, prefix, epoch)
        print(f"compiling for {name}, about {TIMES.get(target.kind.name, 'half a minute')}", flush=True)
        built = build(network, target, records.records if records else ())
    try:
        save(built, request["output"], {
            "data_shape": network.data_shape, "num_classes": network.num_classes, "precision": precision,
            "target": str(target), "kind": target.kind.name, "records": records.path.name if built.tuned else None,
            "tuned": built.tuned, "untuned": built.untuned, "tvm": tvm.__version__}, **export_options(target))
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        sys.exit(os.EX_IOERR)


def _import_tvm():
    try:
        import common.compiler  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "tvm":
            raise
        raise InputError(f"TVM's compiler cannot be loaded: {with_kind(error)}") from None


if __name__ == "__main__":
    with reported("compiler"):
        main(json.load(sys.stdin))

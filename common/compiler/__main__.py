"""Compile a checkpoint, as a process of its own: what crashes or leaks in a compiler ends with it.

A request as JSON on standard input: {prefix, epoch, data_shape, target, device, precision, records, output,
parent, elsewhere}.
What `common.inference.network` runs is written into the folder `output`; `elsewhere`, it is for another machine. A
message for the user goes to standard output, an error to standard error; the exit status is 74 where nothing can be
written.
"""
import ctypes
import json
import os
import signal
import sys

from common.errors import InputError, last_line, reported

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main(request: dict) -> None:
    if not _dies_with(request["parent"]):
        return
    import tvm

    from common.compiler.blocked import block_of
    from common.compiler.build import build, save, with_precision
    from common.compiler.checkpoint import load_network
    from common.compiler.cross import export_options
    from common.compiler.records import choose
    from common.compiler.targets import check_runs_here, resolve_target
    from common.inference.device import Device

    name, device = request["target"], request["device"] and Device(*request["device"])
    target = resolve_target(name, device.floats if device else 0)
    if not request["elsewhere"]:
        check_runs_here(name, target)
    network = load_network(request["prefix"], request["epoch"], tuple(request["data_shape"]),
                           block_of(target))
    network = with_precision(network, request["precision"], target)
    records = choose(request["records"], target, device)
    print(f"compiling for {name}, half a minute or so", flush=True)
    try:
        built = build(network, target, records.records if records else ())
    except tvm.error.TVMError as error:
        raise InputError(f"TVM cannot compile this network for target {name!r}: {last_line(error)}") from None
    try:
        save(built.library, request["output"], {
            "data_shape": network.data_shape, "num_classes": network.num_classes, "precision": request["precision"],
            "target": str(target), "kind": target.kind.name, "records": records and records.path.name,
            "tuned": built.tuned, "untuned": built.untuned, "tvm": tvm.__version__}, **export_options(target))
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        sys.exit(os.EX_IOERR)


def _dies_with(parent) -> bool:
    """Have the kernel end this process when its parent ends, however that ends; False where it is gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


if __name__ == "__main__":
    with reported("compiler"):
        main(json.load(sys.stdin))

"""TVM's RPC server, on whose device schedules are measured. tools/tune.py starts it on its own machine. On a board,

    TVM_USE_RUNTIME_LIB=1 python -m common.inference.rpc_server 192.168.1.2 9190 board

makes the board known as `board` to the RPC tracker at 192.168.1.2, port 9190. TVM's runtime alone is loaded: its
compiler brings an LLVM that conflicts with that of OpenCL's drivers. No driver is opened before the server forks for a
measurement.
"""
import argparse
import multiprocessing
import os
import threading
from functools import partial

import tvm
from tvm.rpc.server import PopenRPCServerState

from common.base.arguments import ArgumentParser, port
from common.base.errors import reported
from common.base.processes import dies_with
from common.inference.boards import boards_at
from common.inference.plugin import PLUGIN, load_plugin

PORTS = 9000, 9190


def serve(parent: int, opencl: bool, host: str, tracker: tuple, key: str) -> None:
    """Serve this machine's devices at `host` as `key` of a tracker's (host, port), until process `parent` ends."""
    dies_with(parent)
    os.register_at_fork(after_in_child=partial(dies_with, os.getpid()))  # it forks processes that measure
    start(opencl, host, tracker, key)


def start(opencl: bool, host: str, tracker: tuple[str, int], key: str) -> threading.Thread:
    """Serve in a thread: on a free port of the address `host`, known to the tracker (host, port) as `key`."""
    multiprocessing.set_start_method("fork", force=True)  # no longer the default in Python 3.14
    if opencl and not tvm.runtime.enabled("opencl"):
        load_plugin()
    thread = threading.Thread(target=_serve_on, args=(host, tracker, key))
    thread.start()
    return thread


def _serve_on(host, tracker, key):
    here = os.getcwd()
    while True:  # TVM's thread ends if a kernel crashes, and leaves us in a folder that is gone
        state = PopenRPCServerState(host, *PORTS, key=key, tracker_addr=tracker, silent=True)
        state.thread.join()
        state.sock.close()
        os.chdir(here)


def get_args_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, prog="python -m common.inference.rpc_server")
    tracker = parser.add_argument_group("RPC tracker, which tools/tune.py --rpc HOST:PORT names too")
    tracker.add_argument("host", help="its name or address")
    tracker.add_argument("port", type=port, help="9190 if it was started with TVM's default")
    tracker.add_argument("key", help="what --key of tools/tune.py calls this machine")
    return parser


def main(args: argparse.Namespace) -> None:
    boards_at(args.host, args.port, f"{args.host} {args.port}")  # TVM's server would wait for it silently
    opencl = PLUGIN.exists() or tvm.runtime.enabled("opencl")
    start(opencl, "0.0.0.0", (args.host, args.port), args.key)
    print(f"{args.key}: serving {'OpenCL and ' if opencl else ''}this processor", flush=True)


if __name__ == "__main__":
    with reported("rpc_server"):
        main(get_args_parser().parse_args())

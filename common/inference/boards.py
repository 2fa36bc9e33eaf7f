"""The boards that an RPC tracker of TVM knows, and which device one of them has."""
import socket
import struct
import sys
from typing import TYPE_CHECKING

import tvm
from tvm.rpc import base

from common.base.errors import InputError, last_line
from common.inference.choices import kind_of

if TYPE_CHECKING:
    from common.inference.runtime import Device

PATIENCE = 5  # seconds for a tracker to answer


def board(host: str, port: int, key: str, target: str) -> "Device":
    """The board called `key` at an RPC tracker. Raises InputError if it is not there, or has no such device."""
    # not above: it opens OpenCL's drivers, and the RPC server imports this module
    from common.inference.runtime import Device

    kind, where = kind_of(target), f"--rpc {host}:{port}"
    free = boards_at(host, port, where)
    if key not in free:
        raise InputError(f"{where}: no board is called {key!r} there; there are: {', '.join(sorted(free)) or 'none'}")
    if not free[key]:
        print(f"waiting for {key}, which is busy", file=sys.stderr, flush=True)
    try:
        session = tvm.rpc.connect_tracker(host, port).request(key, session_timeout=60, max_retry=1)
        device = session.device(kind)
        if not device.exist:  # TVM's runner would look for it forever
            raise InputError(f"{where} --key {key}: it has no {kind} device, or its TVM was not started with one "
                             "(docs/inference.md)")
        return Device(key if kind == "llvm" else device.device_name, 0, ())
    except (tvm.error.TVMError, OSError, RuntimeError) as error:
        raise InputError(f"{where} --key {key}: {last_line(error)}") from None


def boards_at(host: str, port: int, given: str) -> dict:
    """{key: how many are free} of the boards at an RPC tracker. If none answers, raises InputError that begins with how
    it was `given`."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            if base.recvall(connection, 4) != struct.pack("<i", base.RPC_TRACKER_MAGIC):
                raise OSError("what answers is not TVM's tracker")
            base.sendjson(connection, [base.TrackerCode.SUMMARY])
            _, summary = base.recvjson(connection)
    except OSError as error:
        raise InputError(f"{given}: no RPC tracker answers ({error.strerror or error})") from None
    keys = {server["key"].partition(":")[2] for server in summary["server_info"]}
    return {key: summary["queue_info"].get(key, {"free": 0})["free"] for key in keys}

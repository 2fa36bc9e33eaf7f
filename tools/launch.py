#!/usr/bin/env python
"""Start a distributed run of MXNet: one scheduler, servers and workers, on this machine or over ssh. Examples:

    python tools/launch.py -n 2 -s 1 python train_imagenet.py --kv-store dist_sync --data-train train.rec
    python tools/launch.py -n 4 -H hosts.txt python train_imagenet.py --kv-store dist_sync --data-train /nfs/train.rec

Every process runs the same command; the environment (DMLC_ROLE and others) tells it what it is, and `import mxnet` in
a server or scheduler serves until the end. The exit status is that of the first process that fails, 128 + signal where
a signal killed it; all others are then ended. SIGINT and SIGTERM are passed on to the workers. docs/scaling.md tells
more.
"""
import argparse
import ipaddress
import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.arguments import ArgumentParser, amount, port, positive
from common.errors import InputError, reported
from common.launching.hosts import (
    address_for,
    check_hosts,
    free_port,
    local_line,
    passed_on,
    read_hosts,
    remote_line,
    ssh_command,
)
from common.launching.supervise import LEAVE, Process, Signals, end, supervise


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, usage="launch.py -n WORKERS [options] COMMAND...")
    parser.add_argument("-n", "--num-workers", type=positive, required=True, help="number of workers")
    parser.add_argument("-s", "--num-servers", type=positive, help="number of servers (default: as many as workers)")
    parser.add_argument("--grace", type=amount, default=20,
                        help="seconds that the workers have to end after SIGINT or SIGTERM, before SIGKILL")
    hosts = parser.add_argument_group("over ssh")
    hosts.add_argument("-H", "--hostfile", help="a file of hosts, one a line; workers and servers are dealt out in "
                       "turn, the scheduler stays here (default: all on this machine)")
    hosts.add_argument("--ssh", default="ssh", help='the program, as in --ssh "ssh -p 2222"')
    hosts.add_argument("--address", type=ipaddress.IPv4Address, metavar="IPV4",
                       help="this machine's address for the hosts (default: that on the way to the first of them)")
    hosts.add_argument("--port", type=port, help="port of the scheduler (default: one that is free)")
    hosts.add_argument("--env", metavar="NAME", action="append",
                       help="pass this variable of the environment to the hosts too (PATH, VIRTUAL_ENV, PYTHONPATH, "
                       "LD_LIBRARY_PATH, DMLC_*, MXNET_*, PS_*, OMP_* and KMP_* are)")
    parser.add_argument("command", nargs="...", metavar="COMMAND", help="what every process runs, with its arguments")
    return parser


def main(args: argparse.Namespace) -> int:
    """The exit status of the run."""
    command = args.command[args.command[:1] == ["--"]:]
    if not command:
        raise InputError("no command to run (see --help)")
    if not shutil.which(command[0]):
        raise InputError(f"{command[0]}: no such command here, or not executable")
    hosts = read_hosts(args.hostfile) if args.hostfile else []
    ssh = ssh_command(args.ssh) if hosts else []
    servers = args.num_servers or args.num_workers
    address = str(args.address or (address_for(hosts) if hosts else "127.0.0.1"))
    env = {"DMLC_PS_ROOT_URI": address, "DMLC_PS_ROOT_PORT": str(free_port(address, args.port)),
           "DMLC_NUM_WORKER": str(args.num_workers), "DMLC_NUM_SERVER": str(servers)}
    passed = passed_on(args.env or [])
    check_hosts(ssh, hosts, passed, command)

    heeded = [number for number in (*LEAVE, signal.SIGTSTP) if signal.getsignal(number) != signal.SIG_IGN]
    processes = []
    with Signals(heeded) as signals:
        try:
            for role, count in (("scheduler", 1), ("server", servers), ("worker", args.num_workers)):
                for i in range(count):
                    own = {**env, "DMLC_ROLE": role, f"DMLC_{role.upper()}_ID": str(i)}
                    host = hosts[i % len(hosts)] if hosts and role != "scheduler" else None
                    line = [*ssh, host, remote_line({**passed, **own}, command)] if host else None
                    processes.append(Process(role, i, host, line or local_line(command), own, signals.before))
            return supervise(processes, args.grace, signals)
        finally:
            end(processes)


if __name__ == "__main__":
    with reported("launch.py"):
        sys.exit(main(get_args_parser().parse_args()))

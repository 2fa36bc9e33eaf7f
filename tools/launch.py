#!/usr/bin/env python
"""Start a distributed run of MXNet: one scheduler, servers and workers, on this machine or over ssh. Examples:

    python tools/launch.py -n 2 -s 1 python train_imagenet.py --kv-store dist_sync --data-train train.rec
    python tools/launch.py -n 4 -H hosts.txt python train_imagenet.py --kv-store dist_sync --data-train /nfs/train.rec

The flags of MXNet's own launch.py mean the same here (exceptions: docs/scaling.md).
Every process runs the same command; the environment (DMLC_ROLE and others) gives it its role, and `import mxnet` in
a server or scheduler serves until the end. The exit status is that of the first process that fails, 128 + signal if
a signal killed it; all others are then ended. SIGINT and SIGTERM are passed on to the workers. See docs/scaling.md.
"""
import argparse
import ipaddress
import os
import shlex
import shutil
import signal
import sys
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser, amount, port, positive
from common.base.errors import InputError, reported
from common.base.machine import usable_cores
from common.launching.hosts import (
    address_for,
    check_hosts,
    destination,
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
    parser.add_argument("--launcher", choices=("local", "ssh"),
                        help="run on this machine, or on the hosts of -H (default: ssh if -H is given)")
    parser.add_argument("--grace", type=amount, default=20,
                        help="seconds that the workers have to end after SIGINT or SIGTERM, before SIGKILL")
    hosts = parser.add_argument_group("over ssh")
    hosts.add_argument("-H", "--hostfile", help="a file of hosts, NAME or NAME:PORT, one per line; workers and servers "
                       "are dealt out in turn, the scheduler stays here (default: all on this machine)")
    hosts.add_argument("--ssh", default="ssh", help='the program, as in --ssh "ssh -p 2222"')
    hosts.add_argument("--address", type=ipaddress.IPv4Address, metavar="IPV4",
                       help="this machine's address for the hosts (default: that of the route to the first of them)")
    hosts.add_argument("--port", type=port, help="port of the scheduler (default: a free one)")
    hosts.add_argument("--sync-dst-dir", help=argparse.SUPPRESS)
    variables = parser.add_argument_group("variables of the environment, several with commas between")
    variables.add_argument("--env", metavar="NAME", action="append", default=[],
                           help="pass this one to the hosts too (PATH, VIRTUAL_ENV, PYTHONPATH, LD_LIBRARY_PATH, "
                           "DMLC_*, MXNET_*, PS_*, OMP_* and KMP_* are)")
    for role in ("server", "worker"):
        variables.add_argument(f"--env-{role}", metavar="NAME:VALUE", type=settings, action="append", default=[],
                               help=f"set this one for every {role}")
    parser.add_argument("command", nargs="...", metavar="COMMAND", help="what every process runs, with its arguments")
    return parser


def settings(text: str) -> list[tuple[str, str]]:
    """ "A:1,B:2" as [("A", "1"), ("B", "2")]."""
    pairs = [pair.partition(":") for pair in text.split(",")]
    if not all(name.isidentifier() and colon for name, colon, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME:VALUE, with commas between several")
    return [(name, value) for name, _, value in pairs]


def command_of(words: list[str]) -> list[str]:
    """The program to run and its arguments. One quoted word is split as a shell would do it."""
    words = words[words[:1] == ["--"]:]
    if len(words) == 1 and not shutil.which(words[0]):
        try:
            words = shlex.split(words[0])
        except ValueError as error:
            raise InputError(f"{words[0]}: cannot be split into words ({error})") from None
    if not words:
        raise InputError("no command to run (see --help)")
    if not shutil.which(words[0]):
        raise InputError(f"{words[0]}: no such command here, or not executable")
    return words


def main(args: argparse.Namespace) -> int:
    """The exit status of the run."""
    command = command_of(args.command)
    if args.launcher == "ssh" and not args.hostfile:
        raise InputError("--launcher ssh: give the hosts with -H")
    if args.launcher == "local" and args.hostfile:
        raise InputError(f"--launcher local: runs on this machine alone; leave out -H {args.hostfile}")
    if args.sync_dst_dir:
        raise InputError(f"--sync-dst-dir {args.sync_dst_dir}: not done here; copy this folder to the same path on "
                         "every host first")
    hosts = read_hosts(args.hostfile) if args.hostfile else []
    ssh = ssh_command(args.ssh) if hosts else []
    servers = args.num_servers or args.num_workers
    address = str(args.address or (address_for(hosts) if hosts else "127.0.0.1"))
    env = {"DMLC_PS_ROOT_URI": address, "DMLC_PS_ROOT_PORT": str(free_port(address, args.port)),
           "DMLC_NUM_WORKER": str(args.num_workers), "DMLC_NUM_SERVER": str(servers)}
    passed = passed_on([name for names in args.env for name in names.split(",")])
    threads = {}
    if not hosts and "OMP_NUM_THREADS" not in os.environ:  # or each process would take all cores
        threads["OMP_NUM_THREADS"] = str(max(1, usable_cores() // args.num_workers))
    of_role = {"scheduler": {}, "server": {**threads, **dict(chain(*args.env_server))},
               "worker": {**threads, **dict(chain(*args.env_worker))}}
    check_hosts(ssh, hosts, passed, command)

    heeded = [number for number in (*LEAVE, signal.SIGTSTP) if signal.getsignal(number) != signal.SIG_IGN]
    processes = []
    with Signals(heeded) as signals:
        try:
            for role, count in (("scheduler", 1), ("server", servers), ("worker", args.num_workers)):
                for i in range(count):
                    own = {**of_role[role], **env, "DMLC_ROLE": role, f"DMLC_{role.upper()}_ID": str(i)}
                    host = hosts[i % len(hosts)] if hosts and role != "scheduler" else None
                    line = [*ssh, *destination(host), remote_line({**passed, **own}, command)] if host else None
                    processes.append(Process(role, i, host, line or local_line(command), own, signals.before))
            return supervise(processes, args.grace, signals)
        finally:
            end(processes)


if __name__ == "__main__":
    with reported("launch.py"):
        sys.exit(main(get_args_parser().parse_args()))

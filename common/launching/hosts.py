"""Hosts, addresses and command lines for a run of tools/launch.py over ssh."""
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from common.base.errors import InputError
from common.base.files import read_text

WATCHED = Path(__file__).with_name("watched.py")
SSH_OPTIONS = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15"]
CHECK_SECONDS = 30  # for a host to answer before the run starts
SILENCE = 120       # seconds without a sign of life from launch.py, after which a host ends its part
PASSED = re.compile(r"(DMLC|MXNET|PS|OMP|KMP)_\w+|PATH|PYTHONPATH|LD_LIBRARY_PATH|VIRTUAL_ENV")
HOST = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@-]*(:[0-9]{1,5})?")
TEST = """for name in python3 "$1"; do
  command -v "$name" >/dev/null || { echo "$name: no such command" >&2; exit 1; }
done"""


def read_hosts(path: str | os.PathLike) -> list[str]:
    """The hosts of a file, NAME or NAME:PORT, one per line; # begins a comment. Raises InputError for another file."""
    try:
        lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file of hosts") from None
    hosts = [line for line in lines if line]
    if not hosts:
        raise InputError(f"{path}: no host in it; give one per line")
    for host in hosts:
        if not HOST.fullmatch(host):
            raise InputError(f"{path}: {host!r} is not a host's name; give one per line")
    return hosts


def ssh_command(text: str) -> list[str]:
    """The words of --ssh, and options for programs without a terminal. Raises InputError if it is not installed."""
    try:
        program, *options = shlex.split(text)
    except ValueError:
        raise InputError(f"--ssh {text!r}: not a command") from None
    if not shutil.which(program):
        raise InputError(f"{program}: no such command; install ssh, or name it with --ssh")
    return [program, *options, *SSH_OPTIONS]


def destination(host: str) -> list[str]:
    """One of the hosts, as arguments of ssh."""
    name, _, port = host.partition(":")
    return ["-p", port, name] if port else [name]


def passed_on(names: list[str]) -> dict[str, str]:
    """The variables of this environment that are passed to the hosts; DMLC_NODE_HOST is each machine's own."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise InputError(f"--env {missing[0]}: it is not set")
    return {name: value for name, value in os.environ.items()
            if name in names or PASSED.fullmatch(name) and name != "DMLC_NODE_HOST"}


def check_hosts(ssh: list[str], hosts: list[str], env: dict[str, str], command: list[str]) -> None:
    """Raises InputError unless every host lets us in and has the folder, python3 and the command."""
    line = f"{at_home(env)} sh -c {shlex.join([TEST, 'sh', command[0]])}"
    tests = {host: subprocess.Popen([*ssh, *destination(host), line], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
             for host in dict.fromkeys(hosts)}
    give_up = time.monotonic() + CHECK_SECONDS
    try:
        for host, process in tests.items():
            try:
                _, message = process.communicate(timeout=max(0.1, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise InputError(f"{host}: no answer in {CHECK_SECONDS} s") from None
            if process.returncode:
                last = message.strip().splitlines()[-1:] or [f"ssh ended with exit status {process.returncode}"]
                raise InputError(f"{host}: {last[0].strip()}")
    finally:
        for process in tests.values():
            process.kill()


def local_line(command: list[str]) -> list[str]:
    """The command under watched.py on this machine."""
    return [sys.executable, "-IS", str(WATCHED), "0", *command]


def remote_line(env: dict[str, str], command: list[str]) -> str:
    """The command line for a host's shell, in the current folder."""
    return f"{at_home(env)} python3 -IS -c {shlex.join([WATCHED.read_text(), str(SILENCE), *command])}"


def at_home(env: dict[str, str]) -> str:
    """The start of a command line: in the same folder as here, with these variables."""
    settings = [f"{name}={value}" for name, value in env.items()]
    return f"cd {shlex.quote(os.getcwd())} && exec env {shlex.join(settings)}"


def address_for(hosts: list[str]) -> str:
    """This machine's address on the way to the first host that is not this machine by its loopback name."""
    found = "127.0.0.1"
    for host in hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            try:
                way.connect((destination(host)[-1].rpartition("@")[2], 22))  # sends nothing
            except OSError as error:
                raise InputError(f"{host}: {error.strerror}; give this machine's address with --address") from None
            found = way.getsockname()[0]
        if not found.startswith("127."):
            break
    return found


def free_port(address: str, port: int | None = None) -> int:
    """A free port of this machine: `port`, if it is given."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port or 0))
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on {address} port {port or 'any'}: "
                             f"{getattr(error, 'strerror', 'ports end at 65535')}; see --address and --port") from None
        return listener.getsockname()[1]

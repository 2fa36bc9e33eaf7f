"""This machine: its processor and the part of it that this process may use, environment variables that libraries do
not check, and loading what `make setup` compiled from native/."""
import ctypes
import itertools
import os
import platform
import re
import struct
import sys
from contextlib import suppress
from pathlib import Path

from common.base.errors import InputError

ROOT = Path("/")
PROC = ROOT / "proc"
QUOTA = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # of control groups, version 2 and 1; in microseconds
FLAGS = ("flags", "Features")  # of x86 and of ARM
IDENTIFYING = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU architecture",
               "CPU variant", "CPU part", *FLAGS)
THREADS, PIXELS = r"[1-9]\d{0,3}", r"[1-9]\d{0,17}"
NUMBERS = {THREADS: "a number of threads", PIXELS: "a number of pixels"}
# of the header of a 64-bit ELF file: its magic bytes, and the place of its last part, the table of sections
ELF, HEADER = b"\x7fELF\x02", "<5s35xQ10xHH2x"


def processor_name(proc: Path = PROC) -> str:
    """The name of the board, if there is one, or of the processor, as Linux gives it; else the numbers of its maker and
    kind, or its architecture."""
    with suppress(OSError):
        return (proc / "device-tree" / "model").read_text(errors="replace").strip("\0\n ")
    fields = _fields(proc)
    if fields.get("model name"):
        return fields["model name"]
    numbers = [f"{name} {fields[name]}" for name in ("CPU implementer", "CPU part") if name in fields]
    return ", ".join([platform.machine(), *numbers])


def processor_flags() -> tuple:
    """Names of its instruction sets, as Linux gives them."""
    fields = _fields(PROC)
    return tuple(word for name in FLAGS for word in fields.get(name, "").split())


def processor_identity() -> dict:
    """What distinguishes it from others that code may be compiled for; {} if Linux does not say."""
    fields = _fields(PROC)
    return {name: fields[name] for name in IDENTIFYING if name in fields}


def _fields(proc):
    """/proc/cpuinfo, of the first processor that has a field."""
    fields = {}
    with suppress(OSError):
        for line in (proc / "cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields


def usable_processors(root: Path = ROOT) -> int:
    """Processors as the kernel counts them: threads of cores, all of which image decoders use."""
    return min(len(os.sched_getaffinity(0)), granted_processors(root))


def usable_cores(root: Path = ROOT) -> int:
    """Cores: two threads of one core count once, since arithmetic that fills a core leaves nothing for a second."""
    siblings = {(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", cpu)
                for cpu in os.sched_getaffinity(0)}
    return min(len({path.read_text() if path.exists() else cpu for path, cpu in siblings}), granted_processors(root))


def granted_processors(root: Path = ROOT) -> int:
    """Processors whose time the control groups of this process (version 2 or 1) grant it, rounded up: the limit of
    `docker run --cpus` and of Kubernetes. sys.maxsize without a limit."""
    granted = [sys.maxsize]
    for folder, files in itertools.product(_control_groups(root), QUOTA):
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            quota, period = map(int, " ".join((folder / name).read_text() for name in files).split())
            if quota > 0:
                granted.append(-(-quota // period))
    return min(granted)


def _control_groups(root):
    """The folders of those that this process is in, and of those around them."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            for mount in {controllers, *(controllers or "unified").split(",")}:
                folder = root / "sys/fs/cgroup" / mount / path.strip("/")
                yield from (folder, *folder.parents)


def check_environment(allowed: dict[str, str]) -> None:
    """Raise InputError for a variable that is set, but not to what its regular expression in `allowed` matches."""
    for name, pattern in allowed.items():
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(pattern, value, re.ASCII):
            what = NUMBERS.get(pattern) or f"one of {pattern.replace('|', ', ')}"
            raise InputError(f"the environment's {name} is {value!r}: give {what}, or unset it")


def load_library(path: str | Path, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """A shared library. Raises OSError if it cannot be loaded; also if it is cut short, which would otherwise end the
    process."""
    with open(path, "rb") as file:
        header = file.read(struct.calcsize(HEADER))
    if header.startswith(ELF) and len(header) == struct.calcsize(HEADER):
        _, table, entry, entries = struct.unpack(HEADER, header)
        if os.path.getsize(path) < table + entry * entries:
            raise OSError(f"{path}: cut short")
    return ctypes.CDLL(str(path), mode)

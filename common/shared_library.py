"""Loading what `make setup` compiled from native/."""
import ctypes
import os
import struct
from pathlib import Path

# of an ELF file's header, 64 bits: its magic bytes, and where its last part is, the table of sections
ELF, HEADER = b"\x7fELF\x02", "<5s35xQ10xHH2x"


def load_library(path: str | Path, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """A shared library. Raises OSError where it cannot be loaded, also where it is cut short, which would otherwise end
    the process."""
    with open(path, "rb") as file:
        header = file.read(struct.calcsize(HEADER))
    if header.startswith(ELF) and len(header) == struct.calcsize(HEADER):
        _, table, entry, entries = struct.unpack(HEADER, header)
        if os.path.getsize(path) < table + entry * entries:
            raise OSError(f"{path}: cut short")
    return ctypes.CDLL(str(path), mode)

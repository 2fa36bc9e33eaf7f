"""The members of a tar archive, one after the other, from any of them on."""
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.base.errors import InputError
from common.packing.names import check_listable

MAX_BYTES = 256 << 20  # the largest image of ImageNet has 15 MB
BLOCK = tarfile.BLOCKSIZE
EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE)  # headers about the next one, which tarfile holds in memory
MAX_EXTENDED, MAX_EXTENSIONS = 1 << 20, 8  # bytes of one; their number before a member

REFUSED = (tarfile.TarError, OSError, ValueError)  # ValueError: an extended header has text for a number


def members(file: BinaryIO, at: int, end: int, archive: Path) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """(member, offset of the next header) of the tar in `file`, from the header at `at` to byte `end`.

    Unlike tarfile's own iteration it keeps no list of them. Raises InputError for a damaged header, and for a tar that
    ends without its block of zeros.
    """
    def damaged(at):
        return InputError(f"{archive}: damaged or cut off at byte {at} of {os.fstat(file.fileno()).st_size}; download "
                          "it again")
    file.seek(at)
    if file.read(BLOCK) == bytes(BLOCK):
        return
    try:
        _check_extended(file, at)
        file.seek(at)
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file is not its own)
    except REFUSED:
        raise damaged(at) from None
    while True:
        try:
            _check_extended(file, tar.offset)
            member = tar.next()
        except REFUSED:
            raise damaged(tar.offset) from None
        if member is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # its list of all members so far
        if member.size < 0 or not member.offset < tar.offset <= end:
            raise damaged(member.offset)
        yield member, tar.offset
    file.seek(tar.offset)
    if tar.offset + BLOCK > end or file.read(BLOCK) != bytes(BLOCK):
        raise damaged(tar.offset)


def _check_extended(file, at):
    """Raise ValueError if the extended headers at `at` are larger or more than any archiver writes."""
    for _ in range(MAX_EXTENSIONS):
        file.seek(at)
        header = file.read(BLOCK)
        if header[156:157] not in EXTENDED:
            return
        size = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape").size
        if not 0 <= size <= MAX_EXTENDED:
            raise ValueError("an extended header's size")
        at += BLOCK + -(-size // BLOCK) * BLOCK
    raise ValueError("extended headers without a member")


def content(file: BinaryIO, member: tarfile.TarInfo) -> bytes | InputError:
    """Of an image, a member; or the reason why it cannot be packed."""
    if not member.isreg() or member.issparse():
        return InputError("not a file")
    if member.size > MAX_BYTES:
        return InputError(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        check_listable(member.name)
    except InputError as error:
        return error
    file.seek(member.offset_data)
    return file.read(member.size)

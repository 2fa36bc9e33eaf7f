"""Whether another user may have written what is in a folder, by the rules of ssh and sudo."""
import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path


def check_private(folder: str | Path) -> None:
    """Raise PermissionError unless `folder` is this user's, is no link, and nobody else can write to it or replace it:
    the folders above it must belong to this user or root, and others must not be able to write to them, unless they are
    sticky, as /tmp is."""
    if not is_own(folder, stat.S_ISDIR):
        raise PermissionError(None, "is a link, belongs to another user, or others can write to it", str(folder))
    for parent in Path(folder).resolve().parents:
        status = parent.stat()
        if status.st_uid not in (0, os.getuid()) or not status.st_mode & stat.S_ISVTX and _others_write(status):
            raise PermissionError(None, f"others can put another in its place: they can write to {parent}", str(folder))


def is_own(path: str | Path, kind: Callable[[int], bool]) -> bool:
    """Whether `path` exists, is of the `kind` (stat.S_ISREG or stat.S_ISDIR), no link, and this user's. For a folder,
    nobody else must be able to write to it either."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    writable = stat.S_ISDIR(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return kind(status.st_mode) and status.st_uid == os.getuid() and not writable


def _others_write(status: os.stat_result) -> bool:
    """Whether anyone but the owner and root can. A group with this user's name and no other member, which many systems
    make for each user, counts as this user."""
    if not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    try:
        name, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(status.st_gid)
    except KeyError:
        return True
    return bool(status.st_mode & stat.S_IWOTH or group.gr_name != name or {*group.gr_mem} - {name})

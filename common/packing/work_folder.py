"""Whose OUT/.prepare is: the folder of the work on a data set that is not finished, for one process at a time."""
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.base.errors import InputError
from common.base.files import locked
from common.packing.unfinished import STATE, Unfinished

WORK, LOCK = ".prepare", "lock"
OLD_STATE = "identity.json"  # of versions whose work this one cannot go on with
OWN = re.compile(r"lock|\.?(state\.json|dataset\.json|synset\.txt|skipped\.csv)(\.\d+\.partial)?"
                 r"|(train|val)\.(rec|idx|lst|bucket-\d+)")


@contextmanager
def work_folder(out: Path, identity: dict, names: Iterable[str], commit_seconds: float) -> Iterator[Unfinished]:
    """The work on OUT, which belongs to this process alone and is of this `identity`: begun, or gone on with.

    Raises InputError for a folder of others, work of another identity, files of these `names` in OUT that are
    not of this work, and a full disk.
    """
    work = out / WORK
    if work.is_symlink() or work.exists() and not work.is_dir():
        raise InputError(f"{work}: a link, or not a folder; move it away")
    if not (work / STATE).exists() and (found := [out / name for name in names if (out / name).exists()]):
        raise InputError(f"{found[0]}: exists, and nothing says how it was made; move it away, or choose another "
                         "folder")
    work.mkdir(parents=True, exist_ok=True)
    with locked(work / LOCK, f"{out}: another run is at work in this folder"):
        if foreign := _foreign(work):
            raise InputError(f"{foreign}: not part of a data set that is being made; move {work} away, or choose "
                             "another folder")
        if (work / OLD_STATE).exists():
            print(f"{work}: an older version began this, and this one cannot go on with it; beginning anew", flush=True)
            for path in sorted(work.iterdir(), key=lambda path: path.name == OLD_STATE):  # which tells whose it is
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        unfinished = Unfinished(work, identity, commit_seconds)
        if changed := difference(unfinished.identity, identity):
            raise InputError(f"{work}: begun with other {changed}; go on with that, or remove it to begin again")
        try:
            unfinished.settle()
            yield unfinished
            shutil.rmtree(work)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                error.filename = error.filename or str(out)  # that of a write names none
                raise
            raise InputError(f"{out}: the disk is full; make space and run the same command again: it goes on where it "
                             "was") from None
        except KeyboardInterrupt:
            print(f"{out}: run the same command again to go on", file=sys.stderr)
            raise
        finally:
            unfinished.close()


def remove_work(out: Path) -> None:
    """What is left in OUT of a run that was killed at its very end; a folder of others stays."""
    with suppress(OSError):
        if not (out / WORK).is_symlink() and not _foreign(out / WORK):
            shutil.rmtree(out / WORK)


def _foreign(work):
    """Something in the folder that is not of this work, or a link, which would lead elsewhere; else None."""
    names = sorted(os.listdir(work))
    if OLD_STATE in names:
        return None
    return next((work / name for name in names
                 if not OWN.fullmatch(name) or not stat.S_ISREG((work / name).lstat().st_mode)), None)


def difference(before: dict, now: dict) -> str:
    """The first thing that differs, such as "options.quality: 95 instead of 90"; "" if nothing does."""
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old != new and isinstance(old, dict) and isinstance(new, dict):
            return f"{name}.{difference(old, new)}"
        if old != new:
            return f"{name}: {old} instead of {new}"
    return ""

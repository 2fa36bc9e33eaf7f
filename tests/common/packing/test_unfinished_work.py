"""What an interrupted run leaves is read by the next one: damaged or made by others, it is refused, and nothing outside
the output folder is read, changed or removed."""
import shutil

import pytest

from common.base.errors import InputError
from tests.packing import Killed, contents, killed_at, run

pytestmark = pytest.mark.usefixtures("kit_read_once")
BUCKET = ".prepare/val.bucket-000"
STATE = ".prepare/state.json"


@pytest.fixture(scope="module")
def interrupted(archives, tmp_path_factory):
    """val is in its bucket."""
    out = tmp_path_factory.mktemp("interrupted") / "out"
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "preadv", 0)
        with pytest.raises(Killed):
            run(archives[0], out)
    return out


@pytest.fixture
def out(interrupted, tmp_path):
    return shutil.copytree(interrupted, tmp_path / "out")


def refused(source, out, match):
    with pytest.raises(InputError, match=match) as error:
        run(source, out)
    assert "\n" not in str(error.value) and not (out / "dataset.json").exists()


@pytest.mark.parametrize("damage", [
    lambda content: b"[" * 100_000, lambda content: b"5", lambda content: b"\xff", lambda content: b"",
    lambda content: content[:-1], lambda content: content.replace(b'"sort', b'"sor'),
    lambda content: content.replace(b"1", b"2", 1),
])
def test_a_damaged_state(archives, out, damage):
    (out / STATE).write_bytes(damage((out / STATE).read_bytes()))
    refused(archives[0], out, r"state\.json: damaged, .*; remove .*\.prepare")


@pytest.mark.parametrize("at", [0, 3, 7, 14, 20, 5000, -1, None])
def test_a_damaged_bucket(archives, out, at):
    """A bit in it is not as it was, or its end is missing."""
    content = bytearray((out / BUCKET).read_bytes())
    if at is not None:
        content[at] ^= 4
    (out / BUCKET).write_bytes(content if at is not None else content[:-1])
    refused(archives[0], out, "bucket-000: damaged, .*; remove")


@pytest.mark.parametrize("name", [".prepare", ".prepare/lock", ".prepare/val.rec", BUCKET, STATE])
def test_links_are_not_followed(archives, out, tmp_path, name):
    victim = tmp_path / "victim"
    if (out / name).exists():
        (out / name).replace(victim)
    else:
        victim.write_bytes(b"")
    if victim.is_file():
        victim.write_bytes(b"victim")
    (out / name).symlink_to(victim)
    before = {path: path.read_bytes() for path in (victim, *victim.rglob("*")) if path.is_file()}
    with pytest.raises((InputError, OSError)) as error:
        run(archives[0], out)
    assert f"{name}" in str(error.value)
    assert before == {path: path.read_bytes() for path in (victim, *victim.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_of_that_name_that_is_anothers_stays(archives, reference, tmp_path, finished):
    out = shutil.copytree(reference, tmp_path / "out") if finished else tmp_path / "out"
    (out / ".prepare" / "train").mkdir(parents=True)
    (out / ".prepare" / "train" / "notes.txt").write_text("mine")
    if finished:
        run(archives[0], out)
    else:
        refused(archives[0], out, r"\.prepare/train: not part of a data set .*; move .*\.prepare away")
    assert (out / ".prepare" / "train" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["train", "other", "val.bucket-000"])
def test_what_does_not_belong_there(archives, out, name):
    path = out / ".prepare" / name
    path.unlink(missing_ok=True)
    path.mkdir()
    refused(archives[0], out, f"{name}: not part of a data set")


def test_an_older_version_began(archives, reference, tmp_path, capsys):
    """Its work, which cannot be gone on with, goes; but not what it has finished."""
    work = tmp_path / "out" / ".prepare"
    (work / "val").mkdir(parents=True)
    for name in ("lock", "identity.json", "val/state.json", "val/val.rec"):
        (work / name).write_text("x" if name != "lock" else "")
    (tmp_path / "out" / "val.rec").write_text("finished")
    refused(archives[0], tmp_path / "out", "val.rec: exists, and nothing says how it was made")
    assert (tmp_path / "out" / "val.rec").read_text() == "finished" and (work / "val" / "val.rec").exists()
    (tmp_path / "out" / "val.rec").unlink()
    run(archives[0], tmp_path / "out")
    assert "older version" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(reference)

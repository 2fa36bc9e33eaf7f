"""What an interrupted run leaves is read by the next one: damaged or made by others, it is refused, and nothing outside
the output folder is read, changed or removed."""
import shutil
import zlib

import pytest

from common.base.errors import InputError
from common.packing.journal import read_sealed, sealed
from common.packing.part import ENTRY
from tests.packing import Killed, killed_at, run

BUCKET = ".prepare/val/bucket-000"
STATE = ".prepare/val/state.json"


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


def change(path, changed, work):
    """Give a sealed file another content, and its checksum."""
    path.write_text(sealed(changed(read_sealed(path, work))))


def refused(source, out, match):
    with pytest.raises(InputError, match=match) as error:
        run(source, out)
    assert "\n" not in str(error.value) and not (out / "dataset.json").exists()


def state(**values):
    return lambda saved: {**saved, "state": {**saved["state"], **values}}


@pytest.mark.parametrize("changed", [
    lambda saved: {**saved, "files": {**saved["files"], "../../../victim": [3, 0]}},
    lambda saved: {**saved, "files": {**saved["files"], "state.json": [3, 0]}},
    lambda saved: {**saved, "files": {"bucket-000": 5}},
    lambda saved: {**saved, "files": {"bucket-000": ["5", 0]}},
    lambda saved: {**saved, "files": ["bucket-000"]},
    lambda saved: {**saved, "kept": ["../../../victim"]},
    lambda saved: {**saved, "kept": 5},
    lambda saved: {**saved, "state": []},
    lambda saved: {**saved, "state": {"phase": "sort"}},
    lambda saved: [saved],
    lambda saved: "sort",
    state(phase="done", files={"../../../victim": {"bytes": 6, "sha256": "0" * 64}}),
    state(phase="done", files={f"val.{kind}": {"bytes": 6, "sha256": 0} for kind in ("rec", "idx", "lst")}),
    state(phase="done"), state(phase=["sort"]), state(position="x"), state(position=[1 << 70]), state(position=[0.5]),
    state(taken="a"), state(taken=True), state(written=-1), state(written=1), state(images=[]), state(images=["a"] * 3),
    state(buckets=10 ** 12), state(buckets=0, bucket=1), state(sorted=9), state(sorted=11), state(md5=5),
    state(md5="\n" * 32),
])
def test_a_state_that_cannot_be(archives, out, tmp_path, changed):
    (tmp_path / "victim").write_text("victim")
    change(out / STATE, changed, out / ".prepare")
    refused(archives[0], out, r"(state\.json: of another version or damaged|val\.rec: was moved away or changed); "
            r"remove .*\.prepare to begin again")
    assert (tmp_path / "victim").read_text() == "victim"


@pytest.mark.parametrize("name", [STATE, ".prepare/identity.json"])
@pytest.mark.parametrize("damage", [
    lambda content: b"[" * 100_000, lambda content: b"[]", lambda content: b"5", lambda content: b"\xff",
    lambda content: content[:-1], lambda content: content.replace(b'"sort', b'"sor'),
    lambda content: sealed([1]).encode(), lambda content: content.replace(b"1", b"2", 1),
])
def test_damaged_files_of_the_work(archives, out, name, damage):
    content = (out / name).read_bytes()
    (out / name).write_bytes(damage(content))
    if (out / name).read_bytes() != content:
        refused(archives[0], out, r"json: of another version or damaged; remove .*\.prepare to begin again$")


@pytest.mark.parametrize("at", [0, 8, 14, 20, 5000, -1])
def test_a_damaged_bucket(archives, out, at):
    content = bytearray((out / BUCKET).read_bytes())
    content[at] ^= 4
    (out / BUCKET).write_bytes(content)
    refused(archives[0], out, "bucket-000: of another version or damaged; remove")


def entries(path):
    """A bucket of one image of this name, of the first class."""
    return ENTRY.pack(0, 0, len(path), 0) + path


@pytest.mark.parametrize("content", [
    b"x", entries(b"../../victim"), entries(b"n00000007/.."), entries(b"n00000007/a/b"), entries(b"n00000007/\0"),
    entries(b"n00000011/a"), entries(b"n00000007/"), entries(b"n00000007/a")[:-1],
    entries(b"n00000007/a").replace(b"\0\0\0\0\x0b", b"\x03\0\0\0\x0b"), entries(b"n00000007/a") + b"\0",
    entries(b"n00000007/missing"), b""])
@pytest.mark.parametrize("source", ["archives", "tree"])
def test_a_bucket_of_others(request, archives, tmp_path, source, content):
    """Its checksum is right, and what is in it is not."""
    source = request.getfixturevalue(source)
    source = source[0] if isinstance(source, tuple) else source
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "fsync", 3)
        with pytest.raises(Killed):
            run(source, out)
    (out / BUCKET).write_bytes(content)
    change(out / STATE, lambda saved: {**saved, "files": {"bucket-000": [len(content), zlib.crc32(content)]}},
           out / ".prepare")
    (tmp_path / "victim").write_text("victim")
    refused(source, out, r"(bucket-000|state\.json): of another version or damaged; remove")


@pytest.mark.parametrize("line", ["x", "[" * 100_000, "5", "[5, 5]", '["a"]', "\u00e9"])
def test_a_damaged_list_of_what_was_skipped(archives, out, line):
    content = line.encode()
    (out / ".prepare/val/skipped").write_bytes(content)
    change(out / STATE, lambda saved: {**saved, "files": {**saved["files"], "skipped": [len(content),
                                                                                        zlib.crc32(content)]}},
           out / ".prepare")
    refused(archives[0], out, "skipped: of another version or damaged; remove")


@pytest.mark.parametrize("name", [".prepare", ".prepare/lock", ".prepare/val", BUCKET, STATE])
def test_links_are_not_followed(archives, out, tmp_path, name):
    victim = tmp_path / "victim"
    (out / name).replace(victim)
    (out / name).symlink_to(victim)
    if victim.is_file():
        victim.write_bytes(content := b"victim")
    else:
        before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    refused(archives[0], out, f"{name}: a link, or not what belongs there; remove .*prepare to begin again")
    if victim.is_file():
        assert victim.read_bytes() == content
    else:
        assert before == {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_of_that_name_that_is_anothers_stays(archives, reference, tmp_path, finished):
    out = shutil.copytree(reference, tmp_path / "out") if finished else tmp_path / "out"
    (out / ".prepare" / "train").mkdir(parents=True)
    (out / ".prepare" / "train" / "notes.txt").write_text("mine")
    if finished:
        run(archives[0], out)
    else:
        refused(archives[0], out, r"\.prepare/train: no part of a data set that is being made; move .*\.prepare away")
    assert (out / ".prepare" / "train" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["val/folder", "train", "other"])
def test_what_does_not_belong_there(archives, out, name):
    path = out / ".prepare" / name
    if path.name == "train":
        path.write_text("x")
    else:
        path.mkdir()
    refused(archives[0], out, f"{name}: a link, or not what belongs there")

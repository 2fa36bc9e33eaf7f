"""The cache as several processes see it, and as they leave it. The entries here are no networks but small files."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.base.errors import InputError
from common.base.files import make_folder
from common.inference.cache import MANIFEST, Cache, clear_cache
from common.zoo.files import folders
from tests.conftest import ROOT

KEYS = [character * 32 for character in "abcd"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(folder):
    (folder / "network.so").write_bytes(b"code" * 1000)
    (folder / "graph.json").write_text("{}")


def never(folder):
    raise AssertionError("made again")


def in_process(code, *arguments):
    """A process that runs `code`, with `cache` and `key` at hand."""
    start = f"import os, sys, time; from common.inference.cache import Cache; cache, key = Cache(), {KEYS[0]!r}\n"
    return subprocess.Popen([sys.executable, "-c", start + code, *map(str, arguments)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_an_entry_is_made_once_and_found_by_later_processes(folder):
    entry = Cache().entry(KEYS[0], make)
    assert (entry / "network.so").read_bytes() == b"code" * 1000
    assert Cache().entry(KEYS[0], never) == entry == folder / KEYS[0]
    other = in_process("print(cache.entry(key, None))")
    assert other.communicate()[0] == f"{entry}\n"


def test_the_folder_is_where_the_user_has_it(tmp_path, monkeypatch):
    monkeypatch.delenv("MOBILENETV2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache().folder == tmp_path / "xdg" / "mxnet-mobilenet-v2" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache().folder == tmp_path / ".cache" / "mxnet-mobilenet-v2" / "compiled"


def test_downloads_beside_it_may_be_others_to_write_and_stay(tmp_path, monkeypatch):
    """Where a user's umask gives the group what the user has."""
    monkeypatch.delenv("MOBILENETV2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = os.umask(0o002)
    try:
        make_folder(folders()[1])
        Cache().entry(KEYS[0], make)
    finally:
        os.umask(before)
    downloads = tmp_path / "mxnet-mobilenet-v2"
    assert [path.stat().st_mode & 0o777 for path in (downloads, downloads / "compiled")] == [0o775, 0o700]
    (downloads / ".x.params.lock").touch()
    (downloads / "x.params").touch()
    Cache().clear()
    assert sorted(path.name for path in downloads.iterdir()) == [".x.params.lock", "compiled", "x.params"]


def test_nobody_else_can_write_to_the_folder_or_it_is_not_used(folder, monkeypatch):
    Cache().entry(KEYS[0], make)
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / KEYS[0])} == {0o700}
    (folder / KEYS[0]).chmod(0o770)
    with pytest.raises(AssertionError, match="made again"):
        Cache().entry(KEYS[0], never)
    (folder / KEYS[0]).chmod(0o700)
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="others can write"):
        Cache()
    folder.chmod(0o700)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(PermissionError, match="another user"):
        Cache()


@pytest.mark.parametrize(("mode", "group", "owner", "usable"), [
    (0o755, "me", "me", True), (0o775, "me", "me", True), (0o775, "staff", "me", False), (0o1777, "staff", "me", True),
    (0o777, "me", "me", False), (0o1777, "staff", "root", True), (0o755, "staff", "another", False)])
def test_nobody_else_can_put_a_folder_in_its_place_or_it_is_not_used(folder, monkeypatch, mode, group, owner, usable):
    """As the folder that it lies in says: /tmp is one that will do, and so is one of the user's own group."""
    Cache()
    user, known, place = os.getuid(), Path.stat, folder.parent

    def stat(path, **options):
        status = list(known(path, **options))
        if path == place:
            status[0] = status[0] & ~0o7777 | mode
            status[4] = {"me": user, "root": 0, "another": user + 1}[owner]
        return os.stat_result(status)
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr("pwd.getpwuid", lambda number: SimpleNamespace(pw_name="me"))
    monkeypatch.setattr("grp.getgrgid", lambda number: SimpleNamespace(gr_name=group, gr_mem=["me"]))
    with nullcontext() if usable else pytest.raises(PermissionError, match=f"they can write to {place}"):
        Cache()


def test_a_link_to_a_folder_is_not_used(folder, tmp_path, monkeypatch):
    Cache()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "link"))
    with pytest.raises(PermissionError, match="is a link"):
        Cache()


def everything_in(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


FOREIGN = {  # what has something of the cache's names, and is not of its making
    "mysite/manifest.json": '{"name": "My site", "icons": []}', "mysite/index.html": "<html>",
    f"{'f' * 32}/manifest.json": '{"name": "My site", "icons": []}', f"{'e' * 32}/manifest.json": "{}",
    f"{'d' * 31}/manifest.json": json.dumps({"x": [1, "0" * 64]}), f"{'d' * 31}/x": "1",
    ".notes.lock": "mine", ".notes.abcdefgh.partial/x": "half", f".{'f' * 32}.partial/x": "half",
    f".{'F' * 32}.lock": "mine", "report.partial": "x",
}


@pytest.mark.parametrize("end", [clear_cache, lambda: Cache().entry(KEYS[1], make)], ids=["clear", "bound"])
def test_what_others_keep_in_the_folder_stays(folder, tmp_path, monkeypatch, end):
    monkeypatch.setenv("MOBILENETV2_CACHE_MB", "0")
    for name, text in FOREIGN.items():
        (folder / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    make(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / MANIFEST).write_text(json.dumps({name: [1, "0" * 64] for name in ("network.so",
                                                                                               "graph.json")}))
    (folder / KEYS[2]).symlink_to(tmp_path / "elsewhere")
    (folder / f".{KEYS[2]}.lock").symlink_to(tmp_path / "elsewhere" / "graph.json")
    before = everything_in(tmp_path)
    Cache().entry(KEYS[0], make)
    end()
    after = everything_in(tmp_path)
    assert all(after[name] == content for name, content in before.items())
    assert (folder / KEYS[0]).exists() == (end is not clear_cache)  # it was made a moment ago


def put_beside(entry):
    (entry / "notes.txt").write_text("mine")


def without_a_manifest(entry):
    (entry / MANIFEST).unlink()


def elsewhere(entry):
    entry.rename(entry.with_name("elsewhere"))
    entry.symlink_to("elsewhere")


def a_file(entry):
    shutil.rmtree(entry)
    entry.write_text("mine")


@pytest.mark.parametrize("change", [put_beside, without_a_manifest, elsewhere, a_file])
def test_an_entry_that_holds_more_is_neither_used_nor_removed(folder, change):
    Cache().entry(KEYS[0], make)
    change(folder / KEYS[0])
    before = everything_in(folder)
    with pytest.raises(OSError, match=KEYS[0]):
        Cache().entry(KEYS[0], never)
    clear_cache()
    after = everything_in(folder)
    assert all(after[name] == content for name, content in before.items() if name.suffix != ".lock")


def part_that_is_a_link(entry):
    (entry / "graph.json").rename(entry.parent / "graph.json")
    (entry / "graph.json").symlink_to(entry.parent / "graph.json")


def truncated(entry):
    os.truncate(entry / "network.so", 100)


def changed(entry):
    (entry / "network.so").write_bytes(b"evil" * 1000)


def missing(entry):
    (entry / "graph.json").unlink()


def without_sums(entry):
    (entry / MANIFEST).write_text("{}")


def with_half_a_manifest(entry):
    os.truncate(entry / MANIFEST, 30)


def with_a_deep_manifest(entry):
    (entry / MANIFEST).write_text("[" * 100_000)


@pytest.mark.parametrize("damage", [truncated, changed, missing, without_sums, with_half_a_manifest,
                                    with_a_deep_manifest, part_that_is_a_link])
def test_a_damaged_entry_is_made_again(folder, damage, capsys):
    Cache().entry(KEYS[0], make)
    damage(folder / KEYS[0])
    entry = Cache().entry(KEYS[0], make)
    assert (entry / "network.so").read_bytes() == b"code" * 1000
    assert "is damaged" in capsys.readouterr().err
    Cache().entry(KEYS[0], never)
    assert capsys.readouterr().err == ""


def test_what_fails_leaves_nothing(folder):
    def half(folder):
        make(folder)
        raise InputError("no such target")
    with pytest.raises(InputError, match="no such target"):
        Cache().entry(KEYS[0], half)
    assert [path.name for path in folder.iterdir()] == [f".{KEYS[0]}.lock"]  # for who waits for it
    Cache().entry(KEYS[0], make)


def test_the_least_recently_used_goes_unless_that_was_just_now(folder, monkeypatch):
    monkeypatch.setenv("MOBILENETV2_CACHE_MB", "1")

    def entry(i):
        return Cache().entry(KEYS[i], lambda folder: (folder / "x").write_bytes(bytes(400_000)))

    def left():
        return [KEYS.index(path.name) for path in sorted(folder.glob("[!.]*"))]

    entry(0)
    entry(1)
    for i, seconds in ((0, 1000), (1, 2000)):
        os.utime(folder / KEYS[i] / MANIFEST, (seconds, seconds))
    entry(0)
    entry(2)
    assert left() == [0, 2]
    entry(3)  # more than fits, for an hour
    assert left() == [0, 2, 3]
    clear_cache()
    assert list(folder.iterdir()) == []


def test_a_clock_that_jumps_only_changes_which_entry_goes_first(folder):
    for key, seconds in zip(KEYS, (0, 2_000_000_000, 4_000_000_000)):  # 1970, 2033, 2096
        Cache().entry(key, make)
        os.utime(folder / key / MANIFEST, (seconds, seconds))
    assert all(Cache().entry(key, never) == folder / key for key in KEYS[:3])


def test_a_limit_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("MOBILENETV2_CACHE_MB", "2G")
    with pytest.raises(InputError, match="MOBILENETV2_CACHE_MB='2G'"):
        Cache()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_file_system(folder):
    folder.write_text("a file")
    with pytest.raises(OSError):
        Cache()


MAKE_SLOWLY = """
def make(folder):
    (folder / "network.so").write_bytes(b"half")
    print("making", flush=True)
    time.sleep(float(sys.argv[1]))
    (folder / "network.so").write_bytes(b"whole")
print((cache.entry(key, make) / "network.so").read_bytes().decode())
"""


def test_of_two_processes_one_makes_the_entry_and_the_other_waits():
    processes = [in_process(MAKE_SLOWLY, 0.5) for _ in range(3)]
    printed = sorted(process.communicate() for process in processes)
    assert [out for out, _ in printed] == ["making\nwhole\n", "whole\n", "whole\n"]


def test_when_the_maker_is_killed_the_one_that_waits_makes_it(folder):
    first = in_process(MAKE_SLOWLY, 1000)
    assert first.stdout.readline() == "making\n"
    second = in_process(MAKE_SLOWLY, 0)
    assert "another process is compiling the same" in second.stderr.readline()
    assert len(list(folder.glob(".*.partial"))) == 1 and not list(folder.glob("[!.]*"))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.communicate()[0] == "making\nwhole\n"
    assert not list(folder.glob(".*.partial"))


def test_what_a_killed_process_left_goes_with_the_next_entry_and_what_a_living_one_makes_stays(folder):
    killed = in_process(MAKE_SLOWLY, 1000)
    assert killed.stdout.readline() == "making\n"
    left, = folder.glob(".*.partial")
    Cache().entry(KEYS[1], make)
    assert left.exists()
    killed.kill()
    killed.communicate()
    Cache().entry(KEYS[2], make)
    assert not left.exists()


@pytest.mark.long
def test_processes_killed_at_any_moment_leave_only_whole_entries(folder):
    """Three processes that make, remove and read entries without pause, killed after random times, 40 times."""
    code = """
import random
def make(folder):
    for name in "abcdef":
        (folder / name).write_bytes(random.randbytes(50_000))
while True:
    key = random.choice("cdef") * 32
    entry = cache.entry(key, make)
    if random.random() < 0.3:
        cache.clear()
"""
    generator = random.Random(3)
    for _ in range(40):
        processes = [in_process(code) for _ in range(3)]
        time.sleep(generator.uniform(0.3, 1.5))
        errors = []
        for process in processes:
            process.kill()
            errors.append(process.communicate()[1])
        assert not re.findall("Traceback.*|.*damaged.*", "".join(errors), re.DOTALL)
    cache = Cache()
    for character in "cdef":
        cache.entry(character * 32, make)
    assert not list(folder.glob(".*.partial")) and len(list(Path(folder).glob("[!.]*"))) == 4

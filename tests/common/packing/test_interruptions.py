"""However often the work is interrupted, what comes out is the same, or an error."""
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.base.digest import FollowedDigest
from common.base.errors import InputError
from common.packing.unfinished import Unfinished
from tests.archives import write_devkit
from tests.conftest import ROOT
from tests.packing import SHORT_SIDE, Killed, command, contents, killed_at, run, without_description

pytestmark = pytest.mark.usefixtures("kit_read_once")


@pytest.mark.parametrize("growth", [20, pytest.param(1 + 1 / 16, marks=pytest.mark.long)])
@pytest.mark.parametrize(("source", "name"), [("archives", "replace"), ("archives", "fsync"), ("archives", "preadv"),
                                             ("tree", "replace"), ("tree", "fsync")])
def test_a_run_that_ends_anywhere_is_gone_on_with(request, reference, tmp_path, monkeypatch, source, name, growth):
    """At renames, commits and in the middle of writing: no file looks finished, and the bytes are the same."""
    monkeypatch.setattr("common.packing.part.BUCKET_BYTES", 100_000)
    source = request.getfixturevalue(source)
    source = source[0] if isinstance(source, tuple) else source
    run(source, tmp_path / "expected")
    expected = contents(tmp_path / "expected")
    assert without_description(tmp_path / "expected") == without_description(reference)
    count = 0
    while True:
        out = tmp_path / f"{name}{count}"
        with monkeypatch.context() as patch:
            killed_at(patch, name, count)
            try:
                run(source, out, commit_seconds=0)
                break
            except Killed:
                assert not (out / "dataset.json").exists()
        run(source, out)
        assert contents(out) == expected, f"after {count} calls of {name}"
        count = max(count + 1, int(count * growth))
    assert count > 3


def test_work_that_was_begun_otherwise_is_not_mixed(archives, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, "preadv", 3)
        with pytest.raises(Killed):
            run(archives[0], tmp_path / "out")
    with pytest.raises(InputError, match="begun with other options"):
        run(archives[0], tmp_path / "out", quality=90)
    source = shutil.copytree(archives[0], tmp_path / "source")
    os.utime(source / "ILSVRC2012_img_val.tar", (1, 1))
    with pytest.raises(InputError, match="begun with other sources.val.modified: "):
        run(source, tmp_path / "out")
    source = shutil.copytree(archives[0], tmp_path / "other")
    write_devkit(source / "ILSVRC2012_devkit_t12.tar.gz", [1] * 10)
    with pytest.raises(InputError, match="begun with other sources.val.labels_sha256: "):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "train" / "aa").mkdir(),
    lambda folder: next((folder / "train").glob("*/*")).unlink(),
    lambda folder: next((folder / "train").glob("*/*")).write_bytes(b"other"),
    lambda folder: os.utime(next((folder / "train").glob("*/*")), (1, 1)),
])
def test_folders_that_change_in_between(tree, tmp_path, monkeypatch, change):
    source = shutil.copytree(tree, tmp_path / "source")
    with monkeypatch.context() as patch:
        killed_at(patch, "fsync", 5)
        with pytest.raises(Killed):
            run(source, tmp_path / "out", commit_seconds=0)
    change(source)
    with pytest.raises(InputError, match=r"begun with other sources\.(train|val)\."):
        run(source, tmp_path / "out")


def test_the_md5_is_not_computed_twice(archives, reference, tmp_path, monkeypatch):
    """Once the archive has been read to its end, a kill does not cost another reading."""
    with monkeypatch.context() as patch:
        killed_at(patch, "preadv", 20)  # some of val are 10
        with pytest.raises(Killed):
            run(archives[0], tmp_path / "out")
    algorithms = []

    class Noted(FollowedDigest):
        def __init__(self, path, algorithm):
            algorithms.append(algorithm)
            super().__init__(path, algorithm)
    monkeypatch.setattr("common.packing.part.FollowedDigest", Noted)
    run(archives[0], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(reference)
    assert algorithms == ["sha256"]


def test_what_is_moved_away_in_the_end_is_missed(archives, tmp_path, monkeypatch):
    out, replace = tmp_path / "out", os.replace

    def killed(old, new):
        if Path(new) == out / "dataset.json":
            raise Killed
        replace(old, new)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            run(archives[0], out)
    (out / "val.rec").unlink()
    with pytest.raises(InputError, match="val.rec: was moved away"):
        run(archives[0], out)
    assert not (out / "dataset.json").exists()


def test_two_runs_at_once(archives, tmp_path):
    work = tmp_path / "out" / ".prepare"
    work.mkdir(parents=True)
    with open(work / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run"):
            run(archives[0], tmp_path / "out")


def test_what_was_committed_stays(tmp_path):
    work = Unfinished(tmp_path, {"step": 1}, commit_seconds=0)
    work.append("a", b"one")
    work.append("b", b"x")
    work.settle()
    work.append("a", b"two" * 100_000)
    work.append("c", b"new")
    work.remove("b")
    work.close()
    work = Unfinished(tmp_path, {"step": 2}, commit_seconds=0)
    assert work.identity == {"step": 1} and [work.length(name) for name in "abc"] == [3, 1, 0]
    work.append("a", b"!")
    work.remove("b")
    work.settle()
    assert (tmp_path / "a").read_bytes() == b"one!" and not (tmp_path / "b").exists()
    work.close()


IN_A_SMALL_FOLDER = """
set -e
mount -t tmpfs -o size=100k none "$1"
if {command} 2> "$2/err"; then exit 9; fi
ls -A "$1" > "$2/left"
mount -o remount,size=50m "$1"
{command}
cp "$1"/* "$2"
"""


def test_a_full_disk(archives, reference, tmp_path):
    """Told in one line; once there is space, the work goes on."""
    small, copy = tmp_path / "small", tmp_path / "copy"
    small.mkdir()
    copy.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", small], capture_output=True).returncode:
        pytest.skip("needs unshare and a mount of its own")
    script = IN_A_SMALL_FOLDER.format(command=shlex.join(command(archives[0], small)))
    subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", small, copy], cwd=ROOT, check=True,
                   capture_output=True)
    assert (copy / "err").read_text() == (f"prepare_imagenet.py: error: {small}: the disk is full; make space and "
                                          "run the same command again: it goes on where it was\n")
    assert (copy / "left").read_text() == ".prepare\n"
    (copy / "err").unlink()
    (copy / "left").unlink()
    assert contents(copy) == contents(reference)


@pytest.mark.long
def test_killed_at_random_moments(archives, tree, reference, tmp_path):
    """SIGKILL, ten times, over the whole time that the work takes; then a rerun."""
    rng = np.random.RandomState(0)
    driver = ("import sys; from common.packing.prepare import prepare; "
              f"prepare(sys.argv[1], sys.argv[2], short_side={SHORT_SIDE}, any_count=True, commit_seconds=0)")
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", driver, archives[0], tmp_path / "whole"], cwd=ROOT, check=True)
    whole = time.monotonic() - start
    run(tree, tmp_path / "of-tree")
    expected = {archives[0]: contents(reference), tree: contents(tmp_path / "of-tree")}
    for kill in range(10):
        for source in expected:
            out = tmp_path / f"{source.name}-{kill}"
            process = subprocess.Popen([sys.executable, "-c", driver, source, out], cwd=ROOT)
            time.sleep(rng.uniform(0.1, whole))
            process.send_signal(signal.SIGKILL)
            process.wait()
            run(source, out)
            assert contents(out) == expected[source]

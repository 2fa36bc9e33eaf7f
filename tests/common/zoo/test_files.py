"""Published weights: found, fetched, taken, recognised."""
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.base.errors import InputError
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing
from common.find_mxnet import mx
from common.modelzoo import (
    entries,
    fetch,
    table,
    take,
    verify,
)
from common.zoo import files
from tests.common.zoo.conftest import CLASSES, CONTENT, manifest_of
from tests.conftest import ROOT
from tests.http_server import Answer


@pytest.fixture
def manifest(tmp_path, server):
    return manifest_of(tmp_path, server.url, "x-0000.params", hash=f"sha1 {hashlib.sha1(CONTENT).hexdigest()}")


def test_it_is_downloaded_once_to_the_folder_that_is_named(tmp_path, manifest, server):
    files.MODELS.mkdir()
    for _ in range(2):
        assert fetch("x", manifest=manifest) == tmp_path / "cache" / "x-0000.params"
    assert (tmp_path / "cache" / "x-0000.params").read_bytes() == CONTENT and len(server.requests) == 1
    (tmp_path / "cache" / "x-0000.params").rename(files.MODELS / "x-0000.params")
    assert fetch("x", manifest=manifest).parent == files.MODELS and len(server.requests) == 1
    assert fetch("x", tmp_path / "other", manifest).parent == tmp_path / "other"


@pytest.mark.parametrize("named", ["/proc", "file/folder"])
def test_it_is_downloaded_to_the_first_folder_that_can_be_written(tmp_path, monkeypatch, manifest, named):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOBILENETV2_MODELS", str(tmp_path / named))
    assert fetch("x", manifest=manifest).parent == files.MODELS


def test_without_a_named_folder_it_is_models_then_the_cache_of_the_home(tmp_path, monkeypatch, manifest):
    monkeypatch.delenv("MOBILENETV2_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch("x", manifest=manifest).parent == files.MODELS
    monkeypatch.setattr(files, "MODELS", Path("/proc"))
    assert fetch("x", manifest=manifest).parent == tmp_path / "mxnet-mobilenet-v2"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which does not count, as compiled networks have it too
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    assert fetch("x", manifest=manifest).parent == tmp_path / "someone" / ".cache" / "mxnet-mobilenet-v2"


@pytest.mark.parametrize("wrong", [[], ["cache"], ["models"], ["cache", "models"]], ids=str)
def test_another_file_does_not_hide_the_right_one(tmp_path, manifest, server, wrong):
    for folder in ("cache", "models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x-0000.params").write_bytes(b"mine" if folder in wrong else CONTENT)
    if len(wrong) < 2:
        right = "models" if "cache" in wrong else "cache"
        assert fetch("x", manifest=manifest) == tmp_path / right / "x-0000.params"
        assert any(line.endswith(f"{right}/x-0000.params") for line in table(manifest))
    else:
        with pytest.raises(InputError, match="cache/x-0000.params: is not the file of x"):
            fetch("x", manifest=manifest)
    assert server.requests == []
    for folder in wrong:
        assert (tmp_path / folder / "x-0000.params").read_bytes() == b"mine"


def test_what_is_no_file_at_all_does_not_hide_it_either(tmp_path, manifest):
    (tmp_path / "cache" / "x-0000.params").mkdir(parents=True)
    with pytest.raises(InputError, match="cache/x-0000.params: is not the file of x .*(directory|bytes)"):
        fetch("x", manifest=manifest)
    assert fetch("x", files.MODELS, manifest) == fetch("x", manifest=manifest) == files.MODELS / "x-0000.params"


def test_a_checkpoint_of_mxnets_is_whole(tmp_path, manifest):
    """However it comes; and what is beside it already is left alone."""
    (tmp_path / "right").write_bytes(CONTENT)
    takes = {"fetched": lambda folder: fetch("x", folder, manifest),
             "taken": lambda folder: take("x", tmp_path / "right", folder, manifest)}
    for name, put in takes.items():
        prefix = tmp_path / name / "x"
        for _ in range(2):
            assert put(tmp_path / name) == Path(f"{prefix}-0000.params")
            symbol = mx.sym.load(f"{prefix}-symbol.json")
            assert symbol.infer_shape(data=(1, 3, 64, 64))[1] == [(1, CLASSES)]
            assert load_preprocessing(prefix) == Preprocessing(72, 64, (1, 2, 3), (4, 5, 6))
            for companion in ("x-symbol.json", "x-preprocess.json"):  # for weights that were there before
                (tmp_path / name / companion).unlink()
        for companion in ("x-symbol.json", "x-preprocess.json"):
            (tmp_path / name / companion).write_text("mine")
        put(tmp_path / name)
        assert [Path(f"{prefix}-{end}.json").read_text() for end in ("symbol", "preprocess")] == ["mine"] * 2


READ_ONLY = """
import sys
from pathlib import Path
from common.modelzoo import fetch, locate, prefix_of
from common.zoo import files
from common.base.errors import reported
files.MODELS = Path(sys.argv[1])
with reported("x"):
    print(locate("x", manifest=sys.argv[2]))
    print(prefix_of("x", manifest=sys.argv[2]), prefix_of("x", manifest=sys.argv[2]))
    fetch("x", files.MODELS, sys.argv[2])
"""


def test_weights_in_a_folder_that_cannot_be_written_are_copied(tmp_path, manifest, server):
    files.MODELS.mkdir()
    (files.MODELS / "x-0000.params").write_bytes(CONTENT)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77; shift; exec "$@"'
    process = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", files.MODELS, sys.executable, "-c", READ_ONLY,
                              files.MODELS, manifest], cwd=ROOT, capture_output=True, text=True, check=False)
    if process.returncode == 77 or process.stderr.startswith("unshare:"):
        pytest.skip("needs unshare and a mount of its own")
    assert process.stdout.split() == [f"{files.MODELS}/x-0000.params", *[f"{tmp_path}/cache/x"] * 2], process.stderr
    assert process.stderr == f"x: error: {files.MODELS}: cannot be written to (Read-only file system)\n"
    assert sorted(os.listdir(tmp_path / "cache")) == ["x-0000.params", "x-preprocess.json", "x-symbol.json"]
    assert (tmp_path / "cache" / "x-0000.params").read_bytes() == CONTENT
    assert os.listdir(files.MODELS) == ["x-0000.params"] and server.requests == []


def test_a_file_that_is_there_is_verified_and_left_alone(tmp_path, manifest, server):
    path = fetch("x", manifest=manifest)
    path.write_bytes(CONTENT[:-1] + b"x")
    for call in (lambda: fetch("x", manifest=manifest), lambda: take("x", manifest, manifest=manifest)):
        with pytest.raises(InputError, match=r"x-0000\.params: is not the file of x \(sha1 .* expected .*move it away"):
            call()
    assert path.read_bytes() == CONTENT[:-1] + b"x" and len(server.requests) == 1


def test_where_it_cannot_be_had_one_line_says_what_to_do(tmp_path, manifest, server):
    server.answers = [Answer(status=404)]
    with pytest.raises(InputError) as raised:
        fetch("x", manifest=manifest)
    line, = str(raised.value).splitlines()
    for word in (f"{server.url}: HTTP 404 Not Found", hashlib.sha1(CONTENT).hexdigest(),
                 str(tmp_path / "cache" / "x-0000.params"), "python -m common.modelzoo fetch x --from FILE"):
        assert word in line


def test_a_file_brought_by_hand_is_verified_and_put_in_place(tmp_path, manifest, server):
    (tmp_path / "wrong").write_bytes(CONTENT + b"x")
    with pytest.raises(InputError, match="wrong: is not the file of x: sha1"):
        take("x", tmp_path / "wrong", manifest=manifest)
    (tmp_path / "right").write_bytes(CONTENT)
    assert take("x", tmp_path / "right", manifest=manifest) == fetch("x", manifest=manifest)
    assert server.requests == []
    assert sorted(os.listdir(tmp_path / "cache")) == ["x-0000.params", "x-preprocess.json", "x-symbol.json"]


def test_a_file_in_its_place_is_not_overwritten_where_no_hash_tells_which_is_right(tmp_path):
    manifest = manifest_of(tmp_path, "https://weights.invalid/x", "x.safetensors", "timm")
    (tmp_path / "one").write_bytes(CONTENT)
    (tmp_path / "other").write_bytes(CONTENT + b"x")
    for _ in range(2):
        path = take("x", tmp_path / "one", manifest=manifest)
    with pytest.raises(InputError, match=f"{path}: .*other"):
        take("x", tmp_path / "other", manifest=manifest)
    assert path.read_bytes() == CONTENT


def test_the_archive_brought_by_hand_will_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("net.params", CONTENT)
    manifest = manifest_of(tmp_path, "https://weights.invalid/x", "x.params", "gluon", member="net.params",
                           hash=f"sha1 {hashlib.sha1(CONTENT).hexdigest()}")
    assert take("x", tmp_path / "x.zip", manifest=manifest).read_bytes() == CONTENT


def test_a_file_is_recognised_by_its_hash(tmp_path, manifest):
    (tmp_path / "y").write_bytes(CONTENT)
    entry, certain = verify(tmp_path / "y", manifest)
    assert entry.name == "x" and certain
    for prefix in (8, 20):
        digits = hashlib.sha256(CONTENT).hexdigest()[:prefix]
        known = manifest_of(tmp_path, "http://x", "z", "gluon", hash=f"sha256-prefix {digits}")
        assert verify(tmp_path / "y", known)[1]
    with pytest.raises(InputError, match=f"none of the files .*sha1 {hashlib.sha1(CONTENT).hexdigest()}"):
        verify(tmp_path / "y", ROOT / "models" / "zoo.toml")


def test_without_a_hash_name_and_format_have_to_do(tmp_path, server):
    manifest = manifest_of(tmp_path, server.url, "x.safetensors", "timm")
    path = fetch("x", manifest=manifest)
    assert verify(path, manifest) == (entries(manifest)["x"], False)
    path.rename(tmp_path / "y")
    with pytest.raises(InputError, match="none of the files"):
        verify(tmp_path / "y", manifest)
    server.content = b"<html>Log in to this network</html>"
    with pytest.raises(InputError, match="it does not begin as such a file does"):
        fetch("x", manifest=manifest)
    assert not path.exists()


def test_pipes_and_devices_are_not_read(tmp_path, manifest):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        for call in (lambda: take("x", path, manifest=manifest), lambda: verify(path, manifest)):  # noqa: B023
            with pytest.raises(InputError, match=f"{path}: is a pipe or a device"):
                call()

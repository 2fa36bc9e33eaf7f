"""What code written for MXNet's examples takes from common/util.py."""
import os
from pathlib import Path

import pytest

from common.base.errors import InputError
from common.util import download_file, get_gpus
from tests.http_server import Answer, Server, serving


@pytest.fixture
def server():
    with serving(Server(b"content")) as running:
        yield running


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")


def test_a_file_is_kept_unless_it_is_to_be_written_anew(server):
    assert download_file(server.url) == "weights" and download_file(server.url, "new/folder/x") == "new/folder/x"
    server.content = b"other"
    download_file(server.url)
    download_file(server.url, "new/folder/x", force_write=True)
    assert Path("weights").read_text() == "content" and Path("new/folder/x").read_text() == "other"
    assert os.listdir("new/folder") == ["x"] and len(server.requests) == 3


def test_what_the_server_does_not_give_leaves_the_old_file(server):
    Path("weights").write_text("mine")
    server.answers = [Answer(status=404), Answer(length=False)]
    for _ in range(2):
        with pytest.raises(InputError, match=server.url):
            download_file(server.url, force_write=True)
    assert Path("weights").read_text() == "mine" and os.listdir() == ["weights"]


@pytest.mark.parametrize("script, number", [
    ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA H200 (UUID: GPU-2)'", 2),
    ("echo 'NVIDIA-SMI has failed'; exit 9", 0), (None, 0)])
def test_gpus_are_those_that_nvidia_smi_lists(tmp_path, monkeypatch, script, number):
    monkeypatch.setenv("PATH", f"{tmp_path}")
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert get_gpus() == number

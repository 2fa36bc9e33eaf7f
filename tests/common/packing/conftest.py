"""The same images as archives and as folders, and what they are packed to."""

from functools import cache

import pytest

from common.packing import find
from tests.archives import write_archives, write_folders
from tests.packing import run


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return folder, write_archives(folder)


@pytest.fixture(scope="module")
def kit_read_once():
    """The development kit of a path is read once: its reader is a process that imports SciPy, most of a run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "read_devkit", cache(find.read_devkit))
        yield


@pytest.fixture(scope="session")
def tree(archives, tmp_path_factory):
    """The same images in folders, with a hidden file."""
    folder = tmp_path_factory.mktemp("tree")
    write_folders(folder, archives[1])
    (folder / "train" / "n00000007" / ".hidden").write_text("x")
    return folder


@pytest.fixture(scope="session")
def reference(archives, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    run(archives[0], out)
    return out

"""Development kits: what they say of the classes, and damaged ones, some of which SciPy's reader does not survive."""
import gzip
import io
import tarfile

import numpy as np
import pytest

from common.base.errors import InputError
from common.packing import imagenet
from common.packing.imagenet import META, read_devkit
from tests.archives import CLASSES, add, write_devkit
from tests.fuzzing import changed_bytes


def test_classes_are_sorted_and_numbered_as_the_kit_does(tmp_path):
    write_devkit(tmp_path / "kit", [3, 1, 2])
    devkit = read_devkit(tmp_path / "kit")
    assert devkit.classes == tuple(sorted(CLASSES))
    assert devkit.val_classes == ("n00000042", "n00000011", "n00000007")


@pytest.mark.parametrize("wnid", ["a\nb", "../../x", "n123", ""])
def test_classes_that_are_no_wordnet_ids_are_refused(tmp_path, wnid):
    write_devkit(tmp_path / "kit", [1], {wnid: 1})
    with pytest.raises(InputError, match="kit: damaged, or not the development kit") as error:
        read_devkit(tmp_path / "kit")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [5, pytest.param(500, marks=pytest.mark.long)])
def test_a_damaged_one_is_read_or_refused(tmp_path, monkeypatch, count):
    monkeypatch.setattr(imagenet, "SECONDS", 3)
    write_devkit(tmp_path / "kit", [1, 2, 3])
    with tarfile.open(tmp_path / "kit") as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    refused = 0
    for number in range(count):
        rng, buffer = np.random.RandomState(number), io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in members:
                add(archive, name, changed_bytes(rng, content, [content]) if name == META else content)
        (tmp_path / "damaged").write_bytes(gzip.compress(buffer.getvalue()))
        try:
            read_devkit(tmp_path / "damaged")
        except InputError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{tmp_path}/damaged: ")
            refused += 1
    assert refused

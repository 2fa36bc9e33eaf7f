"""What a file hashes to."""
import hashlib
import os
import random
import subprocess

import pytest

from common.zoo.hashes import PREFIX, Hash, fault, git_blob_id

CONTENT = random.Random(0).randbytes(300_000)
SHA1 = Hash("sha1", hashlib.sha1(CONTENT).hexdigest())


@pytest.mark.parametrize("size", [0, 1, 12, 4096, (1 << 20) - 1, (1 << 20) + 7, 3_000_000])
def test_git_blob_id_is_that_of_git(tmp_path, size):
    file = tmp_path / "file"
    file.write_bytes(random.Random(size).randbytes(size))
    told = subprocess.run(["git", "hash-object", "--no-filters", str(file)], capture_output=True, text=True, check=True)
    assert git_blob_id(file) == told.stdout.strip()


def test_hashes_tell_the_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    digits = hashlib.sha256(CONTENT).hexdigest()
    for right in (SHA1, Hash("sha256", digits), Hash(PREFIX, digits[:8]), None):
        assert fault(file, right, len(CONTENT)) is None
    assert fault(file, start=(3, CONTENT[3:9])) is None and fault(file, SHA1, start=(3, b"other")) is not None
    assert fault(file, SHA1, 7) == "300,000 bytes, expected 7"
    assert fault(file, Hash(PREFIX, "00000000"), None) == f"{PREFIX} {digits[:8]}, expected 00000000"


def test_what_no_weights_are_as_large_as_is_not_hashed(tmp_path):
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 200 * 10 ** 9)  # holes
    assert fault(tmp_path / "file", SHA1) == "200,000,000,000 bytes, more than weights have"

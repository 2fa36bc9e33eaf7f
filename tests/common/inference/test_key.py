"""What makes a compiled network another one."""
import shutil

import pytest

from common.inference import key
from common.inference.key import key_of


@pytest.fixture
def given(one_convolution, tmp_path):
    """Arguments of key_of, of a checkpoint that may be changed."""
    for suffix in ("-symbol.json", "-0000.params"):
        shutil.copy(f"{one_convolution}{suffix}", tmp_path / f"x{suffix}")
    shutil.copy(tmp_path / "x-0000.params", tmp_path / "x-0001.params")
    return {"prefix": tmp_path / "x", "epoch": 0, "data_shape": (1, 3, 8, 8), "target": "llvm",
            "precision": "float32", "records": None}


def test_what_it_was_asked_for_is_in_the_key(given, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{} ")
    others = [{"data_shape": (2, 3, 8, 8)}, {"target": "llvm -mcpu=core-avx2"}, {"target": "opencl"},
              {"precision": "int8"}, {"records": tmp_path / "a.json"}, {"records": tmp_path / "b.json"}]
    keys = [key_of(**{**given, **other}) for other in [{}, *others]]
    assert len(set(keys)) == len(keys)
    assert key_of(**{**given, "epoch": 1}) == key_of(**given) == keys[0]  # the same parameters


@pytest.mark.parametrize("name", ["x-symbol.json", "x-0000.params"])
def test_every_byte_of_the_checkpoint_is_in_the_key(given, tmp_path, name):
    before = key_of(**given)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    assert key_of(**given) != before


def test_what_compiles_and_what_it_compiles_for_are_in_the_key(given, tmp_path, monkeypatch):
    llvm, opencl = key_of(**given), key_of(**{**given, "target": "opencl"})
    with monkeypatch.context() as patch:
        patch.setattr(key, "PLATFORMS", [])
        assert key_of(**given) == llvm and key_of(**{**given, "target": "opencl"}) != opencl
    for name, value in (("_processor", lambda: [("model name", "another")]), ("_libraries", list)):
        with monkeypatch.context() as patch:
            patch.setattr(key, name, value)
            assert key_of(**given) != llvm
    copy = shutil.copytree(key.COMMON, tmp_path / "common", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(key, "COMMON", copy)
    assert key_of(**given) == llvm
    with (copy / "compiler" / "build.py").open("a") as file:
        file.write("# changed\n")
    assert key_of(**given) != llvm


def test_the_processor_is_told_by_its_name_and_flags():
    names = {name for name, _ in key._processor()}
    assert {"flags", "Features"} & names and "cpu MHz" not in names

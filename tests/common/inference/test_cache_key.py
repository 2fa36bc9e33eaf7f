"""What makes a compiled network another one."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.base.errors import InputError
from common.inference import cache_key as key
from common.inference.cache_key import key_of


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
    for name, value in (("processor_identity", lambda: {"model name": "another"}), ("_libraries", list)):
        with monkeypatch.context() as patch:
            patch.setattr(key, name, value)
            assert key_of(**given) != llvm
    for folder in ("common", "symbols", "tuning"):
        shutil.copytree(key.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(key, "ROOT", tmp_path)
    for changed, matters in (("common/training/module.py", False), ("common/compiler/build.py", True)):
        with (tmp_path / changed).open("a") as file:
            file.write("# changed\n")
        assert (key_of(**given) != llvm) == matters


def test_the_calibration_is_in_the_key_of_int8(given, tmp_path):
    int8, float32 = {**given, "precision": "int8"}, key_of(**given)
    keys = [key_of(**int8)]  # the compiler tells that it is missing
    for content in ("{}", "{} "):
        (tmp_path / "x-0000-int8.json").write_text(content)
        keys.append(key_of(**int8))
    assert len({*keys, float32}) == 4 and key_of(**given) == float32


def test_all_modules_that_the_compiler_imports_are_in_the_key(one_convolution, tmp_path):
    """Of this repository, as a process that compiles has them at its end."""
    code = """
import json, os, sys
from pathlib import Path
from common.compile import main
main({**json.loads(sys.argv[1]), "parent": os.getppid()})
files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
print(json.dumps([file for file in files if file and Path(file).is_relative_to(Path.cwd()) and ".venv" not in file]))
"""
    request = {"prefix": str(one_convolution), "epoch": 0, "data_shape": [1, 3, 8, 8], "target": "llvm",
               "device": None, "precision": "float32", "records": "auto", "output": str(tmp_path), "elsewhere": False}
    process = subprocess.run([sys.executable, "-c", code, json.dumps(request)], cwd=key.ROOT, capture_output=True,
                             text=True, check=True)
    imported = set(map(Path, json.loads(process.stdout.splitlines()[-1])))
    found = set(key.modules_of(key.ROOT / key.COMPILER))
    assert len(imported) > 15 and imported <= found
    trained = key.ROOT / "common" / "training" / "module.py"
    assert trained.exists() and trained not in found


def test_records_that_are_a_pipe_are_not_waited_for(given, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe or a device"):
        key_of(**{**given, "records": tmp_path / "pipe"})


def test_a_file_that_no_checkpoint_is_as_large_as_is_not_hashed(given, tmp_path):
    os.truncate(tmp_path / "x-0000.params", 200 * 10 ** 9)  # holes
    with pytest.raises(InputError, match=r"x-0000.params: has more than 1024 MiB"):
        key_of(**given)

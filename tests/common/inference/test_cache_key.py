"""What makes a compiled network another one."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.fold import identity, load_folded
from common.checkpoint.params import load_checkpoint_params, save_checkpoint_params
from common.inference import cache_key as key


def key_of(prefix, epoch, data_shape, **others):
    return key.key_of(identity(*load_folded(prefix, epoch, data_shape)), prefix, epoch, data_shape, **others)


@pytest.fixture
def given(one_convolution, tmp_path):
    """Arguments of key_of, of a checkpoint that may be changed."""
    for suffix in ("-symbol.json", "-0000.params"):
        shutil.copy(f"{one_convolution}{suffix}", tmp_path / f"x{suffix}")
    arg_params, _ = load_checkpoint_params(tmp_path / "x-0000.params")
    save_checkpoint_params(tmp_path / "x-0001.params", {name: 0 * array for name, array in arg_params.items()}, {})
    return {"prefix": tmp_path / "x", "epoch": 0, "data_shape": (1, 3, 8, 8), "target": "llvm",
            "precision": "float32", "records": None}


def test_what_it_was_asked_for_is_in_the_key(given, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{} ")
    others = [{"data_shape": (2, 3, 8, 8)}, {"target": "llvm -mcpu=core-avx2"}, {"target": "opencl"},
              {"precision": "int8"}, {"records": tmp_path / "a.json"}, {"records": tmp_path / "b.json"}]
    keys = [key_of(**{**given, **other}) for other in [{}, *others]]
    assert len(set(keys)) == len(keys)
    assert key_of(**{**given, "epoch": 1}) == key_of(**given) == keys[0]  # other numbers


def test_every_operator_and_shape_is_in_the_key(given, tmp_path):
    keys = [key_of(**given)]
    symbol = (tmp_path / "x-symbol.json").read_text()
    for old, new in (('"a_max": "6"', '"a_max": "7"'), ('"kernel": "(3, 3)"', '"kernel": "(1, 1)"')):
        (tmp_path / "x-symbol.json").write_text(symbol.replace(old, new))
        keys.append(key_of(**given))
    (tmp_path / "x-symbol.json").write_text(symbol)
    arg_params, _ = load_checkpoint_params(tmp_path / "x-0000.params")
    for name in arg_params:
        changed = {**arg_params, name: np.concatenate([arg_params[name]] * 2)}
        save_checkpoint_params(tmp_path / "x-0000.params", changed, {})
        keys.append(key_of(**given))
    assert len(set(keys)) == len(keys) == 3 + 4


def test_what_compiles_and_what_it_compiles_for_are_in_the_key(given, tmp_path, monkeypatch):
    llvm, opencl = key_of(**given), key_of(**{**given, "target": "opencl"})
    with monkeypatch.context() as patch:
        patch.setattr(key, "PLATFORMS", [])
        assert key_of(**given) == llvm and key_of(**{**given, "target": "opencl"}) != opencl
    for name, value in (("processor_identity", lambda: {"model name": "another"}), ("_libraries", list)):
        with monkeypatch.context() as patch:
            patch.setattr(key, name, value)
            assert key_of(**given) != llvm
    for folder in ("common", "symbols"):
        shutil.copytree(key.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(key, "ROOT", tmp_path)
    for changed, matters in (("common/training/module.py", False), ("common/compiler/build.py", True)):
        with (tmp_path / changed).open("a") as file:
            file.write("# changed\n")
        assert (key_of(**given) != llvm) == matters


def test_the_numbers_and_the_calibration_are_in_the_key_of_int8(given, tmp_path):
    int8, float32 = {**given, "precision": "int8"}, key_of(**given)
    assert key_of(**{**int8, "epoch": 1}) != key_of(**int8)
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
    packages = {key.ROOT / "common" / "__init__.py"}
    assert len(imported) > 15 and imported - packages <= set(key.sources())


def test_records_that_are_a_pipe_are_not_waited_for(given, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe or a device"):
        key_of(**{**given, "records": tmp_path / "pipe"})

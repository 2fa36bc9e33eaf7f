"""What --help tells of each command."""
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

COMMANDS = ["train_imagenet.py", "eval_imagenet.py", "from_mxnet.py",
            *(f"tools/{path.name}" for path in sorted((ROOT / "tools").glob("*.py"))),
            *(f"-m common.modelzoo{command}" for command in ("", " list", " fetch", " verify"))]
FEW = 6  # options that need no groups


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_groups_and_defaults(command):
    process = subprocess.run([sys.executable, *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0 and not process.stderr, process.stderr
    described, *groups = re.split(r"^(?=\w[\w ,()]*:\n)", process.stdout, flags=re.M)
    assert re.search(rf"^ {{4}}.*python {re.escape(command)}", described, re.M), "no example"
    options = [re.findall(r"^  (--?\w[^\n]*(?:\n {4,}\S[^\n]*)*)", group, re.M) for group in groups]
    assert all(len(group) <= FEW for group in options if group and group[0].startswith("-h"))
    for option in sum(options, []):
        assert "default: False" not in option and "default: (" not in option and "default: [" not in option, option
        assert re.search(r"(\s{2}|\n)\S+ \S", option), f"no help: {option}"


@pytest.mark.parametrize("command", ["train_imagenet.py", "eval_imagenet.py", "from_mxnet.py"])
def test_help_comes_at_once(command, tmp_path):
    """Without MXNet and TVM, whose imports take seconds."""
    for name in ("mxnet", "tvm"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    process = subprocess.run([sys.executable, command, "--help"], cwd=ROOT, capture_output=True, text=True,
                             env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert process.returncode == 0 and not process.stderr, process.stderr

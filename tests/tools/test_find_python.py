import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def find(tmp_path):
    """Run find_python.sh where PATH has only what `programs` names: "good" is this Python, "bad" a shim that fails,
    "old" and "new" one that calls itself 3.9 and 3.15."""
    def run(programs, **env):
        version = f'exec "{sys.executable}" -c "import sys; sys.version_info = (3, {{}}); $2"'
        for name, kind in programs.items():
            body = {"good": f'exec "{sys.executable}" "$@"', "bad": "exit 127",
                    "old": version.format(9), "new": version.format(15)}[kind]
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        process = subprocess.run(["/bin/sh", str(ROOT / "tools" / "find_python.sh")], capture_output=True, text=True,
                                 env={"PATH": str(tmp_path), **env}, check=False)
        return process.returncode, process.stdout.strip().replace(f"{tmp_path}/", ""), process.stderr
    return run


def test_python3_if_it_starts_and_is_in_range(find):
    assert find({"python3": "good", "python3.14": "good"})[:2] == (0, "python3")


@pytest.mark.parametrize("kind", ["bad", "old", "new"])
def test_else_the_newest_that_does(find, kind):
    others = {"python3": kind, "python3.14": "bad", "python3.11": "good", "python3.10": "good"}
    assert find({**others, "python3.13": "good"})[:2] == (0, "python3.13")
    assert find({**others, "python3.13": kind})[:2] == (0, "python3.11")


def test_what_is_asked_for(find):
    assert find({"python3.11": "good", "mine": "good"}, PYTHON="mine")[:2] == (0, "mine")
    assert find({}, PYTHON=sys.executable)[:2] == (0, sys.executable)
    for kind in ("bad", "old", "new"):
        code, out, message = find({"broken": kind}, PYTHON="broken")
        assert (code, out) == (1, "") and message.startswith("PYTHON=broken is not") and message.count("\n") == 1


def test_nothing_found_says_what_to_install(find):
    for kind in ("bad", "old", "new"):
        code, out, message = find({"python3": kind})
        assert (code, out) == (1, "") and "install one" in message and message.count(os.linesep) == 1

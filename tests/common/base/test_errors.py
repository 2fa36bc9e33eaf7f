"""How a program ends that cannot go on: one line, and a status that says so."""
import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from common.base.errors import REQUIREMENTS, InputError, Stopped, missing_package, reported
from common.find_mxnet import mx
from tests.conftest import ROOT


def ends(capsys, raises):
    """(the line, the status) of a program whose work does this."""
    with pytest.raises(SystemExit) as end, reported("x.py"):
        raises()
    return capsys.readouterr().err.removesuffix("\n"), end.value.code


def raising(error):
    def raises():
        raise error
    return raises


@pytest.mark.parametrize(("raises", "line", "status"), [
    (raising(InputError("a.rec: no records")), "x.py: error: a.rec: no records", 1),
    (raising(InputError("a\nb\033[31m.rec: no records")), r"x.py: error: a\nb\x1b[31m.rec: no records", 1),
    (raising(Stopped(15, "stopped, run it again")), "x.py: stopped, run it again", 143),
    (raising(KeyboardInterrupt()), "x.py: interrupted", 130),
    (lambda: os.stat("/nowhere/a"), "x.py: error: /nowhere/a: No such file or directory", 1),
    (raising(OSError("the disk")), "x.py: error: input or output: the disk", 1),
    (raising(MemoryError()), "x.py: error: out of memory (MemoryError): give it more, or less to do at a time, such as "
                             "smaller batches", 1),
    (lambda: mx.nd.ones((2, 3)) + mx.nd.ones((5, 7)), "x.py: error: MXNet: ", 1),
    (lambda: mx.sym.Activation(act_type="x"), "x.py: error: MXNet: Invalid Input: 'x', valid values are: {'relu', ", 1),
    (raising(ModuleNotFoundError("No module named 'onnx.defs'", name="onnx.defs")),
     "x.py: error: onnx is not installed: pip install -r requirements.txt", 1),
    (raising(ModuleNotFoundError("No module named 'tvm'", name="tvm")),
     "x.py: error: tvm is not installed: pip install -r requirements-inference.txt", 1),
    (raising(ModuleNotFoundError("No module named 'common.x'", name="common.x")),
     "x.py: error: No module named 'common.x'", 1),
    (raising(ModuleNotFoundError("MXNet is not here: install it", name="mxnet")),
     "x.py: error: MXNet is not here: install it", 1),
], ids=["input", "name", "stopped", "interrupted", "file", "no-file", "memory", "mxnet", "mxnet-lists", "package",
        "tvm", "own", "told"])
def test_one_line(capsys, raises, line, status):
    said, code = ends(capsys, raises)
    assert code == status and "\n" not in said
    assert said.startswith(line) if line.endswith(" ") else said == line


# of those that may not be here, or come with another
DISTRIBUTIONS = {"skimage": "scikit-image", "tensorflow": "tensorflow-cpu", "urllib3": "requests"}


def test_what_a_missing_package_is_installed_by_installs_it():
    files = [*ROOT.glob("*.py"), *(ROOT / "common").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    imported = {name.partition(".")[0] for node in nodes for name in (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else
        [node.module] if isinstance(node, ast.ImportFrom) else [])}
    packages = {*imported, *REQUIREMENTS} - {path.stem for path in ROOT.iterdir()} - {
        "tomllib", *sys.stdlib_module_names}
    assert {"onnx", "cv2", "h5py", "torch", "safetensors", "tvm"} <= packages
    names = {package: found[0] for package, found in packages_distributions().items()} | DISTRIBUTIONS
    for package in packages:
        said = missing_package(ModuleNotFoundError(f"No module named {package!r}", name=package))
        text = (ROOT / said.removeprefix(f"{package} is not installed: pip install -r ")).read_text()
        text += "".join((ROOT / name).read_text() for name in re.findall(r"^-r (\S+)", text, re.MULTILINE))
        assert re.search(rf"^{names.get(package, package)}(==|;|\s|$)", text, re.MULTILINE | re.IGNORECASE), said


def test_a_slip_of_the_program_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError), reported("x.py"):
        1 / 0  # noqa: B018


WRITES = """
import subprocess, sys
from common.base.errors import reported
with reported("x.py"):
    print("result")
    print("note", file=sys.stderr)
    with open("file", "w") as file:  # of no number that libraries write to
        assert file.fileno() > 2
    subprocess.run(["sh", "-c", "echo >&2 || exit 1"], check=True) if sys.stderr.name == "/dev/null" else None
"""


@pytest.mark.parametrize(("redirected", "status", "said"), [
    (">/dev/full", 1, "note\nx.py: error: input or output: No space left on device\n"),
    ("| true", 141, "note\n"),
    (">&-", 1, "x.py: error: standard output: is closed\n"),
    ("2>&-", 0, ""),
    ("<&- 2>&-", 0, ""),
])
def test_where_the_output_goes_nowhere(redirected, status, said, tmp_path):
    """Also what Python still holds back when the work is done."""
    (tmp_path / "x.py").write_text(WRITES)
    command = f"{sys.executable} x.py {redirected}" if "|" not in redirected else \
        f"{{ sleep 0.5; {sys.executable} x.py; }} {redirected}; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True,
                             env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""})
    assert (process.returncode, process.stderr) == (status, said)

"""What the requirements files pin, and that the locks agree with it."""
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LOCKS = sorted((ROOT / "locks").glob("*.txt"))
OF_PYTORCH = "https://download.pytorch.org/whl/cpu"


def pins(path):
    """{(name, version)} of the lines of a requirements file."""
    lines = [line for line in path.read_text().splitlines() if re.match(r"\w", line)]
    return {tuple(re.match(r"([\w.-]+)==([\w.]+)", line).groups()) for line in map(normalized, lines) if "==" in line}


def normalized(line):
    name, equals, rest = line.partition("==")
    return name.lower().replace("_", "-") + equals + rest


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_has_hashes_and_no_source_but_pypi_and_pytorchs(lock):
    text = lock.read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line and not line.startswith(("#", "--extra-index-url"))]
    assert packages and all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line) for line in packages)
    assert set(re.findall(r"https?:\S+", text)) <= {OF_PYTORCH}


@pytest.mark.parametrize(("requirements", "locks"), [
    ("requirements-inference.txt", ("packages",)), ("requirements-dev.txt", ("packages",)),
    ("requirements.txt", ("packages", "mxnet==1.9.1")), ("requirements-cu117.txt", ("mxnet-cu117==1.9.1",)),
    ("requirements-converters.txt", ("converters", "pytorch"))])
def test_what_is_required_is_locked(requirements, locks):
    """`make lock` was run after the last change."""
    wanted = pins(ROOT / requirements)
    assert wanted and not wanted - set().union(*(pins(ROOT / "locks" / f"{name}.txt") for name in locks))


def test_by_hand_and_by_make_the_versions_are_the_same():
    assert pins(ROOT / "locks" / "packages.txt") <= pins(ROOT / "constraints.txt")


def test_mxnet_itself_can_be_imported_first(tmp_path):
    """In an environment as `make setup` makes it."""
    shutil.copy(ROOT / "tools" / "mxnet.pth", tmp_path)
    shutil.copy(ROOT / "symbols" / "_numpy.py", tmp_path / "_mxnet_numpy.py")
    code = f"import site; site.addsitedir({str(tmp_path)!r})\nimport mxnet, sys; print('_mxnet_numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr

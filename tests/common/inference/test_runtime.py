"""How this machine's processor is named and counted."""
import os
import subprocess
import sys

import pytest

from common.inference.cores import usable_cores, usable_processors
from common.inference.runtime import processor_name
from tests.conftest import ROOT


@pytest.mark.parametrize(("cpuinfo", "model", "name"), [
    ("processor\t: 0\nmodel name\t: Some(R) Processor @ 2GHz\nflags\t: a\n", None, "Some(R) Processor @ 2GHz"),
    ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n", b"Raspberry Pi 4 Model B\0",
     "Raspberry Pi 4 Model B"),
    ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n\nprocessor\t: 1\nCPU part\t: 0xd41\n", None,
     f"{os.uname().machine}, CPU implementer 0x41, CPU part 0xd40"),
    (None, None, os.uname().machine)])
def test_processors_and_boards_have_names(tmp_path, cpuinfo, model, name):
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    if model:
        (tmp_path / "device-tree").mkdir()
        (tmp_path / "device-tree" / "model").write_bytes(model)
    assert processor_name(tmp_path) == name


def test_only_what_this_process_may_use_is_counted():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == usable_processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= usable_cores() <= usable_processors() == len(allowed)


@pytest.mark.parametrize(("given", "threads"), [({}, str(usable_cores())), ({"OMP_NUM_THREADS": "1"}, "None"),
                                                ({"TVM_NUM_THREADS": "7"}, "7")])
def test_threads_that_are_asked_for_are_left(given, threads):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    code = "import os, common.inference.runtime; print(os.environ.get('TVM_NUM_THREADS'))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**environment, **given}, text=True, check=True,
                          capture_output=True).stdout == f"{threads}\n"

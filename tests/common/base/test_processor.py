"""How this machine's processor is named, told from others, and counted."""
import os
import sys

import pytest

from common.base.machine import (
    granted_processors,
    processor_flags,
    processor_identity,
    processor_name,
    usable_cores,
    usable_processors,
)
from tests.control_groups import CONTROL_GROUPS, put


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


@pytest.mark.parametrize(("files", "granted"), CONTROL_GROUPS)
def test_the_quota_of_control_groups_bounds_both(tmp_path, files, granted):
    put(tmp_path, files)
    assert granted_processors(tmp_path) == (granted or sys.maxsize)
    assert usable_processors(tmp_path) == min(len(os.sched_getaffinity(0)), granted or sys.maxsize)
    assert usable_cores(tmp_path) <= usable_processors(tmp_path)


def test_the_processor_is_told_by_its_name_and_instructions():
    identity = processor_identity()
    assert {"flags", "Features"} & identity.keys() and "cpu MHz" not in identity
    assert processor_flags() and set(processor_flags()) <= set(" ".join(identity.values()).split())

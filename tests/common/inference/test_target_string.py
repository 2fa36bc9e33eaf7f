"""What a target string says without TVM."""
import platform

import pytest

from common.inference.choices import is_for_another_machine, kind_of


@pytest.mark.parametrize(("target", "kind"), [("llvm", "llvm"), (" opencl -device=mali", "opencl"), ("", "")])
def test_the_kind_is_the_first_word(target, kind):
    assert kind_of(target) == kind


def test_this_machine_is_no_other():
    assert not any(map(is_for_another_machine, ("llvm", "llvm -mcpu=znver4", "opencl", "",
                                                f"llvm -mtriple={platform.machine()}-linux-gnu")))


@pytest.mark.parametrize("target", ["llvm -mtriple=sparc64-linux-gnu",
                                    "opencl -device=mali -mtriple=sparc64-linux-gnu"])
def test_another_machine(target):
    assert is_for_another_machine(target)

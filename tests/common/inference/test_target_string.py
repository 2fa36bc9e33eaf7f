"""What a target string says without TVM."""
import pytest

from common.inference.choices import kind_of


@pytest.mark.parametrize(("target", "kind"), [("llvm", "llvm"), (" opencl -device=mali", "opencl"), ("", "")])
def test_the_kind_is_the_first_word(target, kind):
    assert kind_of(target) == kind

"""What loading TVM's runtime changes for those who load it, and what is known of its devices."""
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common.base.machine import usable_cores
from common.inference.runtime import vector_floats
from tests.conftest import ROOT


@pytest.mark.parametrize(("given", "threads"), [({}, str(usable_cores())), ({"OMP_NUM_THREADS": "1"}, "None"),
                                                ({"TVM_NUM_THREADS": "7"}, "7")])
def test_threads_that_are_asked_for_are_left(given, threads):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    code = "import os, common.inference.runtime; print(os.environ.get('TVM_NUM_THREADS'))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**environment, **given}, text=True, check=True,
                          capture_output=True).stdout == f"{threads}\n"


@pytest.mark.parametrize(("llvm", "fitted", "told", "floats"), [
    ("znver3", "", 16, 8), ("skylake-avx512", "", 16, 16), ("haswell", "", 8, 8), ("x86-64", "", 16, 4),
    ("generic", "", 4, 4), ("generic", "skylake-avx512", 16, 16), ("generic", "haswell", 16, 8)])
def test_vectors_are_those_of_the_drivers_code(llvm, fitted, told, floats):
    """Not the processor's: PoCL tells those of Zen 4, for which its LLVM makes code of Zen 3."""
    version = f"OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-{llvm}"
    assert vector_floats(SimpleNamespace(native_vector_width_float=told, version=version), fitted) == floats

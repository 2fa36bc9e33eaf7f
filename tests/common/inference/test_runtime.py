"""What loading TVM's runtime changes for those who load it."""
import os
import subprocess
import sys

import pytest

from common.base.machine import usable_cores
from tests.conftest import ROOT


@pytest.mark.parametrize(("given", "threads"), [({}, str(usable_cores())), ({"OMP_NUM_THREADS": "1"}, "None"),
                                                ({"TVM_NUM_THREADS": "7"}, "7")])
def test_threads_that_are_asked_for_are_left(given, threads):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    code = "import os, common.inference.runtime; print(os.environ.get('TVM_NUM_THREADS'))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**environment, **given}, text=True, check=True,
                          capture_output=True).stdout == f"{threads}\n"

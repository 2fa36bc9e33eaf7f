"""What MXNet or TVM would end the process on."""
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(("module", "name", "value", "line"), [
    ("common.find_mxnet", "OMP_NUM_THREADS", "abc", "'abc': give a number of threads, or unset it"),
    ("common.find_mxnet", "MXNET_CPU_WORKER_NTHREADS", "0", "'0': give a number of threads, or unset it"),
    ("common.find_mxnet", "MXNET_ENGINE_TYPE", "x", "'x': give one of NaiveEngine, ThreadedEngine, Threaded"),
    ("common.find_mxnet", "DMLC_ROLE", "", "'': give one of worker, server, scheduler, or unset it"),
    ("common.find_mxnet", "PYTHONOPTIMIZE", "2", "MXNet needs docstrings: run Python without -OO"),
    ("common.inference.runtime", "TVM_NUM_THREADS", "99999", "'99999': give a number of threads, or unset it"),
])
def test_a_value_that_cannot_be_is_one_line(module, name, value, line):
    code = f"from common.base.errors import reported\nwith reported('x.py'):\n    import {module}"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                             env={**os.environ, name: value})
    said, = process.stderr.splitlines()
    assert process.returncode == 1 and said.startswith("x.py: error: ") and line in said

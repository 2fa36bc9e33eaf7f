"""Compile networks with all of TVM, including LLVM. `python -m common.compile` does so as a process of its own.

In one process import in this order: `common.find_mxnet` (if MXNet is needed), this package, `common.inference`.
"""
import os
from importlib.util import find_spec

from common.inference import drivers  # noqa: F401  (before TVM)

os.environ.setdefault("TOPHUB_LOCATION", "NONE")  # or every build tries to download tuning logs

import tvm

if not find_spec("tvm.relay"):
    raise ImportError(f"TVM {tvm.__version__} has no Relay: pip install -r requirements-inference.txt")
if not hasattr(tvm, "relay"):
    raise ImportError("only TVM's runtime is loaded (TVM_USE_RUNTIME_LIB, or common.inference.runtime was imported "
                      "before common.compiler)")

"""Compile networks with all of TVM, LLVM among it. `python -m common.compiler` does so as a process of its own.

In one process import in this order: `common.find_mxnet` where MXNet is needed at all, this package, `common.inference`.
"""
import os

from common.inference import drivers  # noqa: F401  (before TVM)

os.environ.setdefault("TOPHUB_LOCATION", "NONE")  # or every build tries to download tuning logs

import tvm

if not hasattr(tvm, "relay"):
    raise ImportError("import common.compiler before common.inference.runtime, which loads no more than TVM's runtime")

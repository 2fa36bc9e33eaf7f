"""MXNet 1.9.1, imported with the names and settings that it needs today.

    from symbols._mxnet import mx
"""
import os

import numpy as np

from . import _numpy  # noqa: F401
from ._cuda import load_libraries

os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # one log line for each network bound for inference
os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")  # three for each sparse array copied to a dense one

try:
    import mxnet as mx
except OSError:  # a library is missing: of a build for GPUs, where there is no CUDA of its version
    if not load_libraries():
        raise
    import mxnet as mx

if not hasattr(np.ndarray, "tostring"):  # NumPy 2.3 dropped it, and nothing can be added to its types
    for _function in (mx.recordio.pack, mx.recordio.pack_img):
        _names = (name.replace("tostring", "tobytes") for name in _function.__code__.co_names)
        _function.__code__ = _function.__code__.replace(co_names=tuple(_names))

__all__ = ["mx"]

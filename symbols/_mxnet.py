"""MXNet 1.9.1, imported with the names and settings that it needs today.

    from symbols._mxnet import mx
"""
import os

import numpy as np

if "bool" not in vars(np):  # NumPy 1.24 dropped the name, which MXNet 1.9.1 reads at import (Python 3.12)
    np.bool = bool  # type: ignore[attr-defined]
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # one log line for each network bound for inference
os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")  # three for each sparse array copied to a dense one

import mxnet as mx

__all__ = ["mx"]

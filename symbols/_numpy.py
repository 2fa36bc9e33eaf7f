"""Gives NumPy the names that MXNet 1.9.1 reads at import and that NumPy dropped: `bool` in 1.24, most others in 2.0.

`make setup` also installs this file as _mxnet_numpy, and tools/mxnet.pth, which imports it before any mxnet.
"""
import numpy as np

DROPPED = {
    "bool": bool,
    "NAN": np.nan, "NaN": np.nan, "Inf": np.inf, "PINF": np.inf, "NINF": -np.inf, "PZERO": 0.0, "NZERO": -0.0,
    "alltrue": np.all, "sometrue": np.any, "product": np.prod, "round_": np.round, "in1d": np.isin,
    "msort": lambda array: np.sort(array, axis=0), "trapz": getattr(np, "trapezoid", None),
    **dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate")),  # gone since 1.20: MXNet only lists them
}
for name in DROPPED.keys() - vars(np).keys():
    setattr(np, name, DROPPED[name])

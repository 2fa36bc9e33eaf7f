"""An NDArray's memory, for what NumPy and C++ write there, on a processor faster than MXNet."""
import ctypes

import numpy as np

from common.find_mxnet import mx


def memory_of(array: mx.nd.NDArray) -> np.ndarray:
    """The memory of an NDArray of float32, of the processor, after what MXNet was to write there; as long as that
    lives."""
    array.wait_to_read()
    pointer = ctypes.POINTER(ctypes.c_float)()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    return np.ctypeslib.as_array(pointer, array.shape)

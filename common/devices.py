"""The devices that --gpus names."""
from common.errors import InputError
from common.find_mxnet import mx


def contexts(gpus: str) -> list:
    """[mx.cpu()] for an empty string, else the GPUs of a list such as "0,1"."""
    if not gpus:
        return [mx.cpu()]
    try:
        numbers = [int(n) for n in gpus.split(",")]
    except ValueError:
        raise InputError(f"--gpus {gpus}: give numbers with commas between, as in 0,1") from None
    available = mx.context.num_gpus()
    if any(not 0 <= n < available for n in numbers):
        raise InputError(f"--gpus {gpus}: MXNet sees {available} GPUs here"
                         + ("" if available else " (for NVIDIA: make setup MXNET=mxnet-cu117==1.9.1)"))
    return [mx.gpu(n) for n in numbers]

"""Processes that do not outlive the one that started them."""
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def dies_with(parent: int) -> None:
    """Have the kernel end this process when `parent`, which started it, ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)

"""OpenCL's drivers, which have to be loaded before TVM: TVM's compiler loads its LLVM for everyone, and a driver that
brings another LLVM (PoCL) crashes when it is loaded after it."""
import os
from contextlib import suppress

# PoCL's compiler counts its warnings about TVM's code on standard error, a line for each kernel
os.environ.setdefault("POCL_EXTRA_BUILD_FLAGS", "-w")


def _platforms() -> list:
    """OpenCL's platforms, as (platform, devices); empty where there is no loader, driver or device."""
    try:
        import pyopencl
    except ImportError:
        return []
    found = []
    with suppress(pyopencl.Error):  # there is no platform at all
        for platform in pyopencl.get_platforms():
            with suppress(pyopencl.Error):  # one broken driver does not hide the others
                found.append((platform, platform.get_devices()))
    return found


PLATFORMS = _platforms()

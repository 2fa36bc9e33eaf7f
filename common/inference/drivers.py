"""OpenCL's drivers, which have to be loaded before TVM: the LLVM of TVM's compiler is visible to all libraries that are
loaded later, and a driver with an LLVM of its own (PoCL) then crashes."""
import os
from contextlib import suppress

# or PoCL's compiler prints how many warnings TVM's code caused, a line for each kernel
os.environ.setdefault("POCL_EXTRA_BUILD_FLAGS", "-w")
# or PoCL compiles each kernel again when it is first run, which makes it no faster (common.compiler.opencl_vectors)
os.environ.setdefault("POCL_WORK_GROUP_SPECIALIZATION", "0")


def _platforms() -> list:
    """OpenCL's platforms, as (platform, devices); empty if there is no loader, driver or device."""
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

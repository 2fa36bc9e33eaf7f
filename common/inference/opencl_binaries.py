"""Have an OpenCL driver build kernels, as a process of its own, since a driver may build one at a time in each.

JSON on standard input: {"device": its name, "fitted": whether the plug-in chose the processor for which its code is,
"kernels": {name: source}, "parent"}. On standard output, for each, its name and what the driver returns, as TVM's
module reads them: a uint64 length before the bytes of each. Kernels that are built together have the same binary.
"""
import json
import os
import struct
import sys

os.environ["PYOPENCL_NO_CACHE"] = "1"  # TVM's networks are kept by common.inference.cache
TOGETHER = 5  # kernels of a program: PoCL reads its own header for each program, TVM keeps a program for each kernel
ATTRIBUTE = "reqd_work_group_size"  # PoCL 3.0 gives it to the wrong kernels of a program that has others without it


def main(request: dict) -> None:
    import pyopencl

    from common.base.processes import dies_with
    from common.inference.drivers import PLATFORMS

    dies_with(request["parent"])
    if request["fitted"]:  # the driver was told in that process, and has to be told in this one
        from common.inference.runtime import opencl_device
        opencl_device()
    device = next(device for _, devices in PLATFORMS for device in devices
                  if device.name.strip() == request["device"].strip())
    context = pyopencl.Context([device])
    for names in programs(request["kernels"]):
        sources = [request["kernels"][name] for name in names]
        program = pyopencl.Program(context, "".join(sources)).build()
        binary = program.get_info(pyopencl.program_info.BINARIES)[0]
        for name in names:
            for content in (name.encode(), binary):
                sys.stdout.buffer.write(struct.pack("<Q", len(content)) + content)


def programs(kernels: dict[str, str]) -> list[list[str]]:
    """The names of the kernels of each program, of `kernels`, {name: source}."""
    found = []
    for has_attribute in (False, True):
        names = [name for name, source in kernels.items() if (ATTRIBUTE in source) == has_attribute]
        found += [names[start:start + TOGETHER] for start in range(0, len(names), TOGETHER)]
    return found


if __name__ == "__main__":
    main(json.load(sys.stdin))

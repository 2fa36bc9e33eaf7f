"""Have an OpenCL driver build kernels, as a process of its own, since a driver may build one at a time in each.

JSON on standard input: {"device": its name, "kernels": {name: source}, "parent"}. On standard output, for each, its
name and what the driver returns, as TVM's module reads them: a uint64 length before the bytes of each. Kernels that are
built together have the same binary.
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
    device = next(device for _, devices in PLATFORMS for device in devices
                  if device.name.strip() == request["device"].strip())
    context = pyopencl.Context([device])
    of_one_kind = [[], []]
    for kernel in request["kernels"].items():
        of_one_kind[ATTRIBUTE in kernel[1]].append(kernel)
    for kernels in (kind[start:start + TOGETHER] for kind in of_one_kind for start in range(0, len(kind), TOGETHER)):
        names, sources = zip(*kernels)
        program = pyopencl.Program(context, "".join(sources)).build()
        binary = program.get_info(pyopencl.program_info.BINARIES)[0]
        for name in names:
            for content in (name.encode(), binary):
                sys.stdout.buffer.write(struct.pack("<Q", len(content)) + content)


if __name__ == "__main__":
    main(json.load(sys.stdin))

"""OpenCL C for processors: with loads, stores, minimum and maximum of vectors in place of vload, vstore, min and max,
and with the size of groups.

PoCL's own are functions of its library that are not inlined: each call has all registers saved to memory, which makes a
convolution three to four times slower, and on AMD's processors with AVX-512 PoCL 3.0 crashes when it compiles min and
max of 16 numbers. These use Clang's vectors, as PoCL and other OpenCL drivers for processors are built on Clang. TVM
hands each kernel's source to `tvm_callback_opencl_postproc`. A program of several kernels has each definition once.

Where a group is one work item, as in this repository's schedules, the kernel says so. PoCL then compiles it well at
once, and need not do so again for the size that it is first run with (`common.inference.drivers`).
"""
import re

import tvm

from common.compiler.blocked import layout_of

TYPES = ("float", "half", "double", "int", "uint", "long", "ulong", "short", "ushort", "char", "uchar")
SPACES = ("__global", "__local", "__private")
VECTOR = """
#ifndef UNALIGNED_{type}{lanes}
#define UNALIGNED_{type}{lanes}
typedef {type}{lanes} unaligned_{type}{lanes} __attribute__((aligned(sizeof({type}))));
#endif"""
ACCESS = """
#ifndef INLINED_{type}{lanes}{space}
#define INLINED_{type}{lanes}{space}
static {type}{lanes} __attribute__((overloadable, always_inline))
inlined_vload{lanes}(int offset, const {space} {type}* source) {{
  return *(const {space} unaligned_{type}{lanes}*)(source + offset * {lanes});
}}
static void __attribute__((overloadable, always_inline))
inlined_vstore{lanes}({type}{lanes} value, int offset, {space} {type}* target) {{
  *({space} unaligned_{type}{lanes}*)(target + offset * {lanes}) = value;
}}
#endif"""
EXTREMES = """
#ifndef EXTREMES_{type}
#define EXTREMES_{type}
static {type} __attribute__((overloadable, always_inline))
inlined_max({type} a, {type} b) {{
  return a < b ? b : a;
}}
static {type} __attribute__((overloadable, always_inline))
inlined_min({type} a, {type} b) {{
  return b < a ? b : a;
}}
#endif"""
ALONE = "__attribute__((reqd_work_group_size(1, 1, 1)))"


@tvm.register_func("tvm_callback_opencl_postproc", override=True)
def for_processors(source: str, target: tvm.target.Target) -> str:
    """`source`, TVM's OpenCL C of a kernel, if the target is a processor; unchanged for other devices."""
    if not layout_of(target):
        return source
    types = [name for name in TYPES if re.search(rf"\b{name}\d*\b", source)]
    lanes = sorted(set(map(int, re.findall(rf"\b(?:vload|vstore|{'|'.join(TYPES)})(\d+)\b", source))))
    definitions = [VECTOR.format(type=name, lanes=n) for name in types for n in lanes]
    definitions += [ACCESS.format(type=name, lanes=n, space=space) for name in types for n in lanes for space in SPACES]
    if re.search(r"\b(?:min|max)\(", source):
        definitions += [EXTREMES.format(type=f"{name}{n}") for name in types for n in ("", *lanes)]
    pragmas = re.match(r"(?:\s*(?:#.*|//.*)?\n)*", source).end()  # they enable half
    calls = re.sub(r"\b(v(?:load|store)\d+|min|max)\(", r"inlined_\1(", source[pragmas:])
    if "get_local_id(" not in calls:  # the work item's number in its group is always 0
        calls = calls.replace("__kernel void ", f"__kernel {ALONE} void ")
    return source[:pragmas] + "".join(definitions) + "\n" + calls

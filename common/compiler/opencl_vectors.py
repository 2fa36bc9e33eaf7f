"""Loads and stores of vectors in OpenCL C for processors, in place of vload and vstore.

PoCL's vload16 is a function of its library that is not inlined: each call has all registers saved to memory, which
makes a convolution three to four times slower. These are made of what Clang has for vectors, on which PoCL and other
OpenCL for processors are built. TVM hands each kernel's source to `tvm_callback_opencl_postproc`.
"""
import re

import tvm

from common.compiler.blocked import layout_of

TYPES = ("float", "half", "int", "uint", "short", "ushort", "char", "uchar")
SPACES = ("__global", "__local", "__private")
VECTOR = """
typedef {type}{lanes} unaligned_{type}{lanes} __attribute__((aligned(sizeof({type}))));"""
ACCESS = """
static {type}{lanes} __attribute__((overloadable, always_inline))
inlined_vload{lanes}(int offset, const {space} {type}* source) {{
  return *(const {space} unaligned_{type}{lanes}*)(source + offset * {lanes});
}}
static void __attribute__((overloadable, always_inline))
inlined_vstore{lanes}({type}{lanes} value, int offset, {space} {type}* target) {{
  *({space} unaligned_{type}{lanes}*)(target + offset * {lanes}) = value;
}}"""


@tvm.register_func("tvm_callback_opencl_postproc", override=True)
def with_inlined_vectors(source: str, target) -> str:
    """`source`, OpenCL C as TVM writes it, for a processor; as it is for other devices."""
    if not layout_of(target):
        return source
    lanes = sorted(set(map(int, re.findall(r"\bv(?:load|store)(\d+)\(", source))))
    definitions = []
    for name in (name for name in TYPES if re.search(rf"\b{name}\d*\b", source)):
        for n in lanes:
            definitions += [VECTOR.format(type=name, lanes=n), *(ACCESS.format(type=name, lanes=n, space=space)
                                                                 for space in SPACES)]
    pragmas = re.match(r"(?:\s*(?:#.*|//.*)?\n)*", source).end()  # which switch half on
    calls = re.sub(r"\b(v(?:load|store)\d+)\(", r"inlined_\1(", source[pragmas:])
    return source[:pragmas] + "".join(definitions) + "\n" + calls

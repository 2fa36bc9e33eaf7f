"""Codes of an int8 layer stored four vectors at a time.

Such a layer ends with cast(clip(x, 0, 255), uint8) of one vector of 16 or 8 numbers after the other. LLVM makes of
each a vector of bytes, and stores it. Here `vpackssdw` and `vpackuswb` make one vector of bytes of those of four
adjacent pixels. What is below 0 becomes 0 by them, so that the clip needs no maximum.
"""
import tvm
from tvm import tir
from tvm.target import Target

from common.compiler.dot_products import in_bytes

TOGETHER = 4
INTRINSICS = {  # LLVM's, by the number of 32-bit integers in a vector: two vectors to 16 bits, two of those to 8
    16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
    8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
}
UNROLLED = 2  # the phase of TVM's lowering after which loops are unrolled and in vectors


def narrowing(target: Target) -> dict:
    """The setting of TVM's PassContext for `target`."""
    return {"tir.add_lower_pass": [(UNROLLED, _narrowed)]} if in_bytes(target) else {}


@tir.transform.prim_func_pass(opt_level=0)
def _narrowed(function, module, context):
    return function.with_body(tir.stmt_functor.ir_transform(function.body, None, _joined, ["tir.SeqStmt"]))


def _joined(sequence):
    """The statements of `sequence`, with runs of adjacent stores as one of up to TOGETHER vectors."""
    statements, run = [], []
    for statement in (*sequence, None):
        if run and (len(run) == TOGETHER or not _follows(statement, run[-1])):
            statements.append(_store(run) if len(run) > 1 else run[0])
            run = []
        if _numbers(statement) is not None:
            run.append(statement)
        elif statement is not None:
            statements.append(statement)
    return tir.stmt_seq(*statements)


def _numbers(statement):
    """What `statement` casts to a vector of bytes and stores, if that is a clip to 0..255, else None."""
    value = getattr(statement, "value", None)
    if not isinstance(statement, tir.BufferStore) or not isinstance(value, tir.Cast) \
            or value.dtype not in [f"uint8x{lanes}" for lanes in INTRINSICS] \
            or not isinstance(value.value, tir.Max) or not isinstance(value.value.a, tir.Min):
        return None
    (index,), clipped = statement.indices, value.value
    low, high = _constant(clipped.b), _constant(clipped.a.b)
    if not isinstance(index, tir.Ramp) or index.stride != 1 or low is None or high is None or low < 0 or high >= 256:
        return None
    return clipped.a if low < 1 else clipped  # a cast truncates


def _constant(vector):
    """That of which all numbers of `vector` are copies; None if it is of another form."""
    constant = isinstance(vector, tir.Broadcast) and isinstance(vector.value, tir.FloatImm)
    return vector.value.value if constant else None


def _follows(statement, store):
    """Whether `statement` stores a vector where that of `store` ends."""
    if _numbers(statement) is None or not statement.buffer.data.same_as(store.buffer.data):
        return False
    index, before = statement.indices[0], store.indices[0]
    return index.lanes == before.lanes and tvm.arith.Analyzer().can_prove_equal(index.base - before.base, before.lanes)


def _store(run):
    lanes = int(run[0].indices[0].lanes)
    vectors = [tir.Cast(f"int32x{lanes}", _numbers(store)) for store in run]
    vectors += vectors[-1:] * (TOGETHER - len(run))
    to_words, to_bytes = INTRINSICS[lanes]
    words = [_call(f"int16x{2 * lanes}", to_words, *vectors[start:start + 2]) for start in (0, 2)]
    packed = tir.reinterpret(f"int32x{lanes}", _call(f"int8x{4 * lanes}", to_bytes, *words))
    # each 128 bits of the result are of four numbers of each vector
    parts = lanes // 4
    order = [TOGETHER * part + vector for vector in range(len(run)) for part in range(parts)]
    codes = tir.reinterpret(f"uint8x{lanes * len(run)}", tir.Shuffle([packed], order))
    return tir.BufferStore(run[0].buffer, codes, [tir.Ramp(run[0].indices[0].base, 1, lanes * len(run))])


def _call(dtype, name, *operands):
    return tir.call_llvm_pure_intrin(dtype, name, tir.const(len(operands), "uint32"), *operands)

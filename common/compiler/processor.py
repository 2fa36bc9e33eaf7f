"""The processor that a target compiles for: its own, or that of its host."""
import tvm

from common.inference.target_string import architecture, is_other_machine

ASKED = ("x86_64", "i386", "i686", "aarch64")  # of another architecture's features TVM may crash when asked


def triple_of(target: tvm.target.Target) -> str:
    """As it was given, or "" for this machine's."""
    return str(_processor(target).attrs.get("mtriple", ""))


def is_elsewhere(target: tvm.target.Target) -> bool:
    """Whether `target` is for another machine than this one's architecture."""
    return bool(triple_of(target)) and is_other_machine(triple_of(target))


def has_feature(target: tvm.target.Target, feature: str) -> bool:
    """Whether the processor has what LLVM calls `feature`."""
    triple = triple_of(target) or tvm.target.codegen.llvm_get_system_triple()
    return architecture(triple) in ASKED and bool(
        tvm.target.codegen.target_has_features(feature, _processor(target)))


def _processor(target):
    return target if target.kind.name == "llvm" else target.host

"""The processor that a target compiles for: its own, or that of its host; networks for another machine are linked by a
cross compiler, or left as objects to be linked there."""
import shutil
from pathlib import Path

import tvm

from common.inference.choices import architecture, is_other_machine

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


def export_options(target: tvm.target.Target) -> dict:
    """Options of TVM's export_library for `target`: none for this machine's architecture; else the cross compiler that
    has the name of the target's triple (`aarch64-linux-gnu-g++`), or, where that is not installed, no linking at all:
    objects/*.o beside network.so's place."""
    if not is_elsewhere(target):
        return {}
    compiler = f"{triple_of(target)}-g++"
    return {"cc": compiler} if shutil.which(compiler) else {"fcompile": keep_objects}


def keep_objects(library: str, objects: list[str], **_: object) -> None:
    """In a linker's place: the objects of `library` in the folder objects/ beside it."""
    folder = Path(library).with_name("objects")
    folder.mkdir()
    for path in objects:
        shutil.copy(path, folder)

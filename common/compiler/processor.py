"""The processor that a target compiles for: its own, or that of its host. Networks for another machine are linked by a
cross compiler, or left as objects to be linked there (`common.inference.systems` says which machines)."""
import shutil
from pathlib import Path

import tvm

from common.inference.systems import MAKE, build_of, is_other_machine


def triple_of(target: tvm.target.Target) -> str:
    """The -mtriple of its processor; "" for this machine's."""
    return str(_processor(target).attrs.get("mtriple", ""))


def is_elsewhere(target: tvm.target.Target) -> bool:
    """Whether `target` is for another system or architecture than this machine's."""
    return bool(triple_of(target)) and is_other_machine(triple_of(target))


def has_feature(target: tvm.target.Target, feature: str) -> bool:
    """Whether the processor has what LLVM calls `feature`."""
    return bool(tvm.target.codegen.target_has_features(feature, _processor(target)))


def _processor(target):
    return target if target.kind.name == "llvm" else target.host


def export_options(target: tvm.target.Target) -> dict:
    """Options of TVM's export_library for `target`: none for this machine, else the cross compiler with the name of the
    target's triple (`aarch64-linux-gnu-g++`). If that is not installed, or if the bundle's own project links, nothing
    is linked: objects/*.o are written beside the place of network.so."""
    if not is_elsewhere(target):
        return {}
    compiler = f"{triple_of(target)}-g++"
    is_linked = build_of(triple_of(target)) == MAKE and shutil.which(compiler)
    return {"cc": compiler} if is_linked else {"fcompile": keep_objects}


def keep_objects(library: str, objects: list[str], **_: object) -> None:
    """In place of a linker: put the objects of `library` in the folder objects/ beside it."""
    folder = Path(library).with_name("objects")
    folder.mkdir()
    for path in objects:
        shutil.copy(path, folder)

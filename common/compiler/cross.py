"""Networks for another machine: linked by a cross compiler, or left as objects to be linked there."""
import shutil
from pathlib import Path

import tvm

from common.compiler.processor import is_elsewhere, triple_of


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

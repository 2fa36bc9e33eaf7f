"""What TVM's target strings mean here."""
import tvm

from common.base.errors import InputError
from common.base.machine import processor_flags
from common.compiler import opencl_rows
from common.compiler.blocked import layout_for
from common.compiler.processor import has_feature, is_elsewhere, triple_of
from common.inference.choices import kind_of
from common.inference.runtime import device_of
from common.inference.systems import build_of


def host_cpu() -> str:
    """LLVM's name of this processor (`-mcpu=native` would silently fall back to a generic one)."""
    return tvm.target.codegen.llvm_get_system_cpu()


# flags of Linux for instructions that are asked for here, and LLVM's names of them
INSTRUCTIONS = {"avx512_fp16": "avx512fp16", "avx512_vnni": "avx512vnni"}


def this_processor() -> str:
    """The target string of this processor: LLVM's name of it, with instructions that it has though others of that name
    have not. LLVM goes by the model's number, which is another one in some virtual machines."""
    named, flags = f"llvm -mcpu={host_cpu()}", processor_flags()
    target = tvm.target.Target(named)
    unnamed = [f"+{instruction}" for flag, instruction in INSTRUCTIONS.items()
               if flag in flags and not has_feature(target, instruction)]
    return f"{named} -mattr={','.join(unnamed)}" if unnamed else named


HOST_OPTIONS = ("-mtriple=", "-mcpu=", "-mattr=", "-mabi=", "-mfloat-abi=")


def resolve_target(name: str, floats: int = 0) -> tvm.target.Target:
    """tvm.target.Target of "opencl", "llvm" (this processor) or any TVM target string.

    Unless the string has -keys, the target of a processor is given the layout of `common.compiler.blocked` as a key:
    a processor that llvm compiles for, or one that runs OpenCL, whose vectors hold `floats` numbers.

    The code around the kernels of a target other than llvm runs on a processor: this one, or that of llvm's options in
    the target string (`opencl -device=mali -mtriple=aarch64-linux-gnu`).
    Raises InputError for a target that TVM does not know, a system that nothing is compiled for, or a processor that
    llvm does not know.
    """
    here = this_processor()
    try:
        if kind_of(name) == "llvm":
            processor = target = tvm.target.Target(here if name == "llvm" else name)
            target = tvm.target.Target(target, host=target)  # or TVM would choose another host
        else:
            of_host = [word for word in name.split() if word.startswith(HOST_OPTIONS)]
            processor = tvm.target.Target(" ".join(["llvm", *of_host]) if of_host else here)
            kernels = " ".join(word for word in name.split() if word not in of_host)
            target = tvm.target.Target(kernels, host=processor)
    except (tvm.error.TVMError, ValueError, TypeError, KeyError):
        raise InputError(f"unknown target {name!r}: give opencl, llvm or a TVM target such as "
                         "'opencl -device=mali' or 'llvm -mcpu=skylake-avx512'") from None
    build_of(triple_of(processor))
    _check_processor(name, processor)
    layout = layout_for(target, floats)
    if not layout or "-keys=" in name:
        return target
    blocked = {key: value for key, value in target.export().items() if key != "host"}
    rows = [opencl_rows.KEY] if target.kind.name == "opencl" else []
    blocked = tvm.target.Target({**blocked, "keys": [layout, *rows, *target.keys]})
    return tvm.target.Target(blocked, host=blocked if target.kind.name == "llvm" else processor)


def _check_processor(name, target):
    """LLVM only warns of a processor it does not know (`native` is one), and compiles for a generic one."""
    mcpu = str(target.attrs.get("mcpu", ""))
    if mcpu and mcpu not in [str(cpu) for cpu in tvm.target.codegen.llvm_get_cpu_archlist(target)]:
        raise InputError(f"target {name!r}: LLVM knows no processor {mcpu!r}; --target llvm takes this one "
                         f"({host_cpu()})")


def check_runs_here(name: str, target: tvm.target.Target) -> None:
    """Raises InputError if this machine cannot run code for `target`, which `name` resolved to.

    OpenCL devices are not checked: only a process that has loaded their drivers can (`common.inference.runtime`).
    """
    if is_elsewhere(target):
        raise InputError(f"target {name!r} cannot run here: this is {tvm.target.codegen.llvm_get_system_triple()}")
    if target.kind.name != "opencl":
        device_of(target.kind.name)

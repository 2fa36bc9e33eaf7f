"""What a TVM target string says, read without TVM."""
import platform

TRIPLE = "-mtriple="


def kind_of(target: str) -> str:
    """Its first word: opencl, llvm ...; "" of an empty one."""
    return target.split()[0] if target.split() else ""


def is_for_another_machine(target: str) -> bool:
    """Whether it names a processor of another architecture than this machine's."""
    return any(is_other_machine(word.removeprefix(TRIPLE)) for word in target.split() if word.startswith(TRIPLE))


def is_other_machine(triple: str) -> bool:
    """Whether LLVM's name of a system (aarch64-linux-gnu) is of another architecture than this machine's."""
    return architecture(triple) != platform.machine()


def architecture(triple: str) -> str:
    """The first part of a target triple, such as aarch64."""
    return triple.split("-")[0]

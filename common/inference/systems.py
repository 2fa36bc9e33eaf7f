"""The systems that networks are compiled for, by LLVM's names of them (triples), and what each gets."""
import platform
import re

from common.base.errors import InputError

MAKE, CMAKE = "make", "cmake"  # what builds a bundle's program
# the first pattern that fits a triple decides: what builds its bundle, or why nothing is compiled for it
SYSTEMS: tuple[tuple[str, str | None, str], ...] = (
    (r"(x86_64|aarch64)(-\w+)?-linux-gnu", MAKE, ""),
    (r"(x86_64|aarch64)(-\w+)?-linux-android\d*", CMAKE, ""),
    (r"[^-]+(-\w+)*-(apple|ios|macosx|darwin).*", None, "Apple's systems load only what Apple's own tools have linked "
     "and signed; tools/export_weights.py writes formats for other runtimes"),
    (r"(arm(?!64)|thumb|i[3-6]86).*", None, "it has 32 bits, and what runs a bundle is for 64"),
    (r"(?!x86_64|aarch64|arm64).*", None, "the LLVM in TVM's package makes no code for this processor"),
    (r".*-musl\w*", None, "TVM's package is for glibc: give x86_64-linux-gnu or aarch64-linux-gnu"),
    (r".*", None, "of this processor's systems there are x86_64-linux-gnu, aarch64-linux-gnu, x86_64-linux-android and "
     "aarch64-linux-android"),
)


def architecture(triple: str) -> str:
    """The first part of a triple, such as aarch64."""
    return triple.split("-")[0]


def triple_in(target: str) -> str:
    """The triple that a target string names; "" if it names none."""
    found = re.search(r"(?:^|\s)-mtriple(?:=|\s+)(\S+)", target)
    return found[1] if found else ""


def is_for_another_machine(target: str) -> bool:
    """Whether a target string names another system or architecture than this machine's."""
    return bool(triple_in(target)) and is_other_machine(triple_in(target))


def is_other_machine(triple: str) -> bool:
    """Whether a triple is of another system or architecture than this machine's."""
    return not re.fullmatch(rf"{platform.machine()}(-\w+)?-linux-gnu", triple)


def build_of(triple: str) -> str:
    """MAKE or CMAKE: what builds the program of a bundle for a triple; "" is this machine's.

    Raises InputError, with the reason, for one that nothing is compiled for: TVM may crash on it.
    """
    if not triple:
        return MAKE
    build, reason = next((build, reason) for pattern, build, reason in SYSTEMS if re.fullmatch(pattern, triple))
    if not build:
        raise InputError(f"nothing is compiled for -mtriple={triple}: {reason}")
    return build

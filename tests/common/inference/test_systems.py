"""What each system gets, by its triple; without TVM."""
import platform

import pytest

from common.base.errors import InputError
from common.inference.systems import CMAKE, MAKE, build_of, is_for_another_machine, triple_in

HERE = f"{platform.machine()}-linux-gnu"


@pytest.mark.parametrize("target", ["llvm", "llvm -mcpu=znver4", "opencl", "", f"llvm -mtriple={HERE}",
                                    f"opencl -mtriple={platform.machine()}-pc-linux-gnu"])
def test_this_machine_is_no_other(target):
    assert not is_for_another_machine(target)


@pytest.mark.parametrize("target", ["llvm -mtriple=sparc64-linux-gnu", "opencl -device=mali -mtriple=sparc64-linux-gnu",
                                    f"llvm -mtriple={platform.machine()}-linux-android",
                                    f"llvm -mtriple {platform.machine()}-apple-darwin"])
def test_another_machine(target):
    assert is_for_another_machine(target)


def test_the_triple_of_a_target():
    for target, triple in (("llvm", ""), ("llvm -mtriple=a-b -mcpu=c", "a-b"), ("opencl -mcpu=c -mtriple  a-b", "a-b")):
        assert triple_in(target) == triple


@pytest.mark.parametrize(("build", "triples"), [
    (MAKE, ["", "x86_64-linux-gnu", "x86_64-pc-linux-gnu", "aarch64-linux-gnu", "aarch64-unknown-linux-gnu"]),
    (CMAKE, ["aarch64-linux-android", "aarch64-linux-android24", "aarch64-none-linux-android35",
             "x86_64-linux-android"])])
def test_what_builds_a_bundle(build, triples):
    assert [build_of(triple) for triple in triples] == [build] * len(triples)


@pytest.mark.parametrize(("reason", "triples"), [
    ("Apple", ["arm64-apple-ios", "arm64-apple-ios15.0-simulator", "x86_64-apple-darwin", "aarch64-apple-macosx"]),
    ("32 bits", ["armv7a-linux-androideabi", "armv7l-linux-gnueabihf", "arm-linux-gnueabihf", "i686-linux-gnu",
                 "i686-linux-android", "thumbv7em-none-eabi"]),
    ("LLVM", ["riscv64-linux-gnu", "riscv64-linux-android", "wasm32-unknown-unknown", "sparc64-linux-gnu", "nonsense"]),
    ("glibc", ["aarch64-linux-musl", "x86_64-unknown-linux-musl"]),
    ("aarch64-linux-android", ["x86_64-pc-windows-msvc", "aarch64_be-linux-gnu", "x86_64-linux-gnux32", "x86_64",
                               "arm64-linux-gnu"])])
def test_what_is_refused(reason, triples):
    for triple in triples:
        with pytest.raises(InputError, match=reason) as error:
            build_of(triple)
        assert triple in str(error.value) and "\n" not in str(error.value)

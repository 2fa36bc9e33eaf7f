"""Which target strings there are, and which run here."""
import subprocess
import sys

import pytest

from common.base.errors import InputError
from common.compiler import targets
from common.compiler.precision import target_for
from common.compiler.targets import check_runs_here, host_cpu, resolve_target
from tests.conftest import ROOT


@pytest.mark.parametrize("target", ["fpga", "", "opencl -foo=1", "opencl -max_num_threads=many", "{}"])
def test_unknown_targets_are_refused(target):
    with pytest.raises(InputError, match="unknown target"):
        resolve_target(target)


@pytest.mark.parametrize("target", ["llvm -mcpu={}", "opencl -device=mali -mcpu={}"])
@pytest.mark.parametrize("mcpu", ["native", "pentium9"])
def test_unknown_processors_are_refused(target, mcpu):
    with pytest.raises(InputError, match=f"no processor '{mcpu}'"):
        resolve_target(target.format(mcpu))


@pytest.mark.parametrize("name, flags, target", [
    ("rocketlake", ("avx512_fp16", "avx512_vnni"), "llvm -mcpu=rocketlake -mattr=+avx512fp16"),
    ("rocketlake", ("avx512_vnni",), "llvm -mcpu=rocketlake"),
    ("sapphirerapids", ("avx512_fp16", "avx512_vnni"), "llvm -mcpu=sapphirerapids")])
def test_instructions_that_a_virtual_machines_model_lacks(monkeypatch, name, flags, target):
    monkeypatch.setattr(targets, "host_cpu", lambda: name)
    monkeypatch.setattr(targets, "processor_flags", lambda: flags)
    assert targets.this_processor() == target
    assert target_for(resolve_target("llvm"), "float16" if "avx512_fp16" in flags else "float32")


@pytest.mark.parametrize("target", ["hexagon", "c", "llvm -mtriple=aarch64-linux-android",
                                    "opencl -mtriple=aarch64-linux-android"])
def test_targets_that_cannot_run_here_are_refused(target):
    with pytest.raises(InputError, match="cannot run here"):
        check_runs_here(target, resolve_target(target))


@pytest.mark.parametrize("target", ["llvm -mtriple=riscv64-unknown-linux-gnu -mcpu=generic-rv64",
                                    "opencl -mtriple=wasm32-unknown-unknown", "llvm -mtriple arm64-apple-ios"])
def test_nothing_is_asked_of_a_compiler_that_would_crash(target):
    """LLVM's processors and their instructions, of an architecture that it was built without."""
    with pytest.raises(InputError, match="nothing is compiled for"):
        resolve_target(target)


def test_a_processor_without_half_precision_or_dot_products():
    target = resolve_target("llvm -mtriple=aarch64-linux-gnu")
    assert target_for(target, "int8") == target
    with pytest.raises(InputError, match="no half-precision"):
        target_for(target, "float16")


def test_the_processor_is_this_one_unless_the_target_names_another():
    assert str(resolve_target("llvm").attrs["mcpu"]) == host_cpu()
    assert str(resolve_target("opencl").host.attrs["mcpu"]) == host_cpu()
    mali = resolve_target("opencl -device=mali -mtriple=aarch64-linux-gnu -mcpu=cortex-a73")
    assert mali.kind.name == "opencl" and str(mali.attrs["device"]) == "mali"
    assert (str(mali.host.attrs["mtriple"]), str(mali.host.attrs["mcpu"])) == ("aarch64-linux-gnu", "cortex-a73")


@pytest.mark.parametrize(("code", "message"), [
    ("import common.compiler, common.find_mxnet", "import common.find_mxnet before TVM"),
    ("import common.inference.runtime, common.find_mxnet", "import common.find_mxnet before TVM"),
    ("import common.inference.runtime, common.compiler", "only TVM's runtime is loaded")])
def test_the_wrong_order_of_imports_is_refused_before_it_crashes(code, message):
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert f"ImportError: {message}" in process.stderr

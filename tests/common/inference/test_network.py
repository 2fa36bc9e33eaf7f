"""Networks opened, run and kept, against MXNet; each compile here is of a network of one convolution."""
import io
import os
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.base.errors import InputError
from common.evaluation.score import predict
from common.inference import kernels, network
from common.inference.network import CompiledNetwork, open_network, tuning_line
from tests.checkpoints import save_like
from tests.conftest import ROOT

SHAPE = (2, 3, 8, 8)
DATA = np.random.RandomState(5).normal(0, 1, SHAPE).astype(np.float32)
OPEN = """
import sys
import numpy as np
from common.inference.network import open_network
network = open_network(sys.argv[1], 0, (2, 3, 8, 8), sys.argv[2])
print(network.predict(np.random.RandomState(5).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)).tolist())
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check(probabilities, prefix):
    np.testing.assert_allclose(probabilities, predict(prefix, 0, DATA), atol=1e-5)


@pytest.mark.parametrize("target", ["llvm", "opencl"])
def test_an_answer_stays_and_any_order_of_numbers_will_do(one_convolution, target):
    compiled = open_network(one_convolution, 0, SHAPE, target)
    first = compiled.predict(DATA)
    check(first, one_convolution)
    kept = first.copy()
    transposed = compiled.predict(np.asfortranarray(DATA))
    other = compiled.predict(2 * DATA)
    assert (first == kept).all() and (transposed == kept).all() and (other != kept).any()


def test_a_later_process_runs_what_is_kept_and_loads_no_compiler(one_convolution, cache):
    first = start(OPEN, one_convolution, "llvm")
    printed, said = first.communicate()
    assert first.returncode == 0 and said == "compiling for llvm, about eight seconds\n"
    check(eval(printed), one_convolution)
    second = start(OPEN + """
assert "LLVM" not in open("/proc/self/maps").read() and "libtvm.so" not in open("/proc/self/maps").read()
loaded = [name for name in sys.modules if name.startswith(("tvm.relay", "common.compiler", "mxnet"))]
assert loaded == [], loaded
""", one_convolution, "llvm")
    assert second.communicate() == (printed, "")


@pytest.mark.parametrize("target", [pytest.param("llvm", marks=pytest.mark.long), "opencl"])
def test_a_process_that_uses_all_of_tvm_can_use_it_too(one_convolution, target):
    process = start("import tvm.relay\n" + OPEN, one_convolution, target)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    check(eval(printed), one_convolution)


def test_what_it_is_opened_with(one_convolution, compiled_networks):
    opened = open_network(one_convolution, 0, SHAPE, "llvm")
    assert (opened.data_shape, opened.num_classes, opened.records) == (SHAPE, 3, None)
    assert opened.folder.parent == compiled_networks
    check(opened.predict(DATA), one_convolution)
    with pytest.raises(ValueError, match="expected float32"):
        opened.predict(DATA[:1])


def test_a_network_outlives_another_of_the_same_folder(one_convolution):
    """TVM's code remembers the module that it first ran in."""
    first = open_network(one_convolution, 0, SHAPE, "opencl")
    first.predict(DATA)
    second = open_network(one_convolution, 0, SHAPE, "opencl")
    del first
    check(second.predict(DATA), one_convolution)


def test_another_checkpoint_of_the_network_is_not_compiled(one_convolution, tmp_path, monkeypatch):
    first = open_network(one_convolution, 0, SHAPE, "llvm")
    save_like(one_convolution, 0, tmp_path / "other")
    monkeypatch.setattr(sys, "executable", os.devnull)
    other = open_network(tmp_path / "other", 0, SHAPE, "llvm")
    assert other.folder == first.folder
    for compiled, prefix in ((first, one_convolution), (other, tmp_path / "other")):
        check(compiled.predict(DATA), prefix)
    with pytest.raises(InputError, match="compiled for another network"):
        CompiledNetwork(other.folder, {"conv_weight": np.zeros((4, 3, 3, 3), np.float32)})


def test_a_driver_that_cannot_compile_is_one_line(one_convolution, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("POCL_CACHE_DIR", str(tmp_path))  # of what it compiled before
    monkeypatch.setenv("POCL_EXTRA_BUILD_FLAGS", "-Dfloat=!")
    process = start(OPEN, one_convolution, "opencl")
    *_, last = process.communicate()[1].splitlines()
    assert re.search("InputError: the OpenCL driver of .* cannot compile the network .*expected identifier", last)


def test_without_the_cache_nothing_is_kept(one_convolution, cache):
    opened = open_network(one_convolution, 0, SHAPE, "llvm", cache=False)
    assert opened.folder.is_dir() and not cache.exists()
    folder = opened.folder
    del opened
    assert not folder.exists()


def test_where_nothing_can_be_kept_it_says_so_and_runs(one_convolution, cache, capfd):
    cache.write_text("a file")
    check(open_network(one_convolution, 0, SHAPE, "llvm").predict(DATA), one_convolution)
    warning, compiling = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: compiled networks cannot be kept: ") and str(cache) in warning


def test_a_full_disk_is_an_error_of_the_file_system(one_convolution, tmp_path):
    (tmp_path / "weights.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        network.compile_elsewhere(tmp_path, one_convolution, 0, SHAPE, "llvm")


@pytest.mark.parametrize(("linker", "message"), [
    ("#!/bin/sh\necho ld: cannot find -lstdc++\nexit 1\n", "cc cannot link the network: ld: cannot find -lstdc"),
    pytest.param("#!/bin/sh\nexit 1\n", "cc cannot link the network", marks=pytest.mark.long),
    (None, "needs a C.. compiler: .*cc is not there")])
def test_a_linker_that_fails_is_one_line_and_compiles_once(one_convolution, cache, tmp_path, monkeypatch, capfd, linker,
                                                           message):
    if linker:
        (tmp_path / "cc").write_text(linker)
        (tmp_path / "cc").chmod(stat.S_IRWXU)
    monkeypatch.setenv("CXX", str(tmp_path / "cc"))
    with pytest.raises(InputError, match=message) as error:
        open_network(one_convolution, 0, SHAPE, "llvm")
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == "compiling for llvm, about eight seconds\n"


def test_a_linker_without_room_is_an_error_of_the_file_system(one_convolution, tmp_path, monkeypatch):
    linker = tmp_path / "cc"
    linker.write_text("#!/bin/sh\necho 'ld: final link failed: No space left on device'\nexit 1\n")
    linker.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CXX", str(linker))
    with pytest.raises(OSError, match="No space left on device"):
        open_network(one_convolution, 0, SHAPE, "llvm", cache=False)


def compiler_where(tmp_path, monkeypatch, code):
    """Have `code` run at the start of the compiler's process."""
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize(("code", "message"), [
    ("import importlib.util as u; find = u.find_spec\n"
     "u.find_spec = lambda name, *a: None if name == 'tvm.relay' else find(name, *a)", "has no Relay: pip install -r"),
    ("import os; os.environ['TVM_USE_RUNTIME_LIB'] = '1'", "only TVM's runtime is loaded"),
    ("import os; os.environ['TVM_LIBRARY_PATH'] = '/none'; import sys; sys.modules['tvm._ffi.libinfo'] = None",
     "TVM's compiler cannot be loaded")])
def test_a_tvm_that_cannot_compile_is_one_line(one_convolution, cache, tmp_path, monkeypatch, capfd, code, message):
    compiler_where(tmp_path, monkeypatch, code)
    with pytest.raises(InputError, match=message) as error:
        open_network(one_convolution, 0, SHAPE, "llvm")
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


def test_an_error_of_tvms_python_code_is_one_line(one_convolution, cache, capfd):
    target = "llvm -keys=micro_dev,arm_cpu"
    with pytest.raises(InputError, match=f"TVM cannot compile this network for target '{target}': "):
        open_network(one_convolution, 0, SHAPE, target)
    assert "Traceback" not in capfd.readouterr().err


def test_a_line_says_what_became_of_tuning_records(one_convolution):
    opened = open_network(one_convolution, 0, SHAPE, "llvm -keys=nchw4c,cpu")
    assert tuning_line(opened.about, "auto").startswith("untuned: no ")
    assert tuning_line(opened.about, None).startswith("untuned, as asked")
    assert tuning_line(opened.about, "x.json").startswith("untuned: x.json ")
    avx2 = opened.about | {"target": "llvm -keys=nchw8c,cpu -mcpu=haswell"}
    assert tuning_line(avx2, "auto").startswith("untuned: as fast")
    tuned = {"tuned": 3, "untuned": 1, "records": "x.json"}
    line = tuning_line(tuned, "auto")
    assert line.startswith("tuned: 3 of 4 ") and "x.json" in line


@pytest.mark.parametrize(("target", "message"), [
    ("fpga", "unknown target 'fpga'"), pytest.param("hexagon", "cannot run here", marks=pytest.mark.long),
    ("llvm -mtriple=riscv64-unknown-linux-gnu", "nothing is compiled")])
def test_targets_that_cannot_run_are_refused(one_convolution, target, message, capfd):
    with pytest.raises(InputError, match=message) as error:
        open_network(one_convolution, 0, SHAPE, target)
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


def test_a_compiler_that_crashes_is_one_line(one_convolution, cache, tmp_path, monkeypatch):
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(InputError, match="the compiler ended with SIGSEGV"):
        open_network(one_convolution, 0, SHAPE, "llvm")
    assert not list(cache.glob("[!.]*"))


def processes_of(pid):
    """Ids of the children of a process."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("seconds", [0.05, 1.5])
def test_the_compiler_ends_with_the_process_that_asked(checkpoint, cache, seconds):
    """A MobileNetV2, which takes seconds to compile: killed while the compiler starts, and while it compiles."""
    parent = start(OPEN.replace("8, 8", "64, 64"), checkpoint, "llvm")
    child, = until(lambda: processes_of(parent.pid))
    time.sleep(seconds)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    until(lambda: has_ended(child))
    assert not list(cache.glob("[!.]*"))


def kernels_of(folder):
    return (folder / "kernels").read_bytes()


@pytest.mark.long
def test_opencl_runs_the_kernels_that_are_kept(one_convolution, tmp_path, monkeypatch):
    """Beside this network the kernels of another one, with other constants, give the other's answers."""
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    symbol = (one_convolution.parent / "one-symbol.json").read_text()
    assert '"a_max": "6"' in symbol
    (tmp_path / "other-symbol.json").write_text(symbol.replace('"a_max": "6"', '"a_max": "0.125"'))
    shutil.copy(f"{one_convolution}-0000.params", tmp_path / "other-0000.params")
    ours, other = (open_network(prefix, 0, SHAPE, "opencl") for prefix in (one_convolution, tmp_path / "other"))
    expected = [compiled.predict(DATA) for compiled in (ours, other)]
    check(expected[0], one_convolution)
    check(expected[1], tmp_path / "other")
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    mixed = shutil.copytree(ours.folder, tmp_path / "mixed")
    shutil.copy(other.folder / "kernels", mixed)
    np.testing.assert_allclose(CompiledNetwork(mixed, ours.params).predict(DATA), expected[1], atol=1e-6)


def test_kernels_that_one_program_holds(one_convolution, tmp_path, monkeypatch):
    opened = open_network(one_convolution, 0, SHAPE, "opencl")
    folder = shutil.copytree(opened.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("kernels"))
    monkeypatch.setattr(kernels, "usable_cores", lambda: 1)
    kernels.keep_kernels(folder)
    file, binaries = io.BytesIO(kernels_of(folder)), {}
    count, = struct.unpack("<Q", file.read(8))
    for _ in range(count):
        name, binary = (file.read(*struct.unpack("<Q", file.read(8))) for _ in range(2))
        binaries[name] = binary
    assert len(binaries) == count > len(set(binaries.values()))
    check(CompiledNetwork(folder, opened.params).predict(DATA), one_convolution)


def test_kernels_that_the_driver_refuses_are_built_anew(one_convolution, tmp_path):
    opened = open_network(one_convolution, 0, SHAPE, "opencl")
    folder = shutil.copytree(opened.folder, tmp_path / "copy")
    length, = struct.unpack_from("<Q", kernels_of(folder), 8)
    name = kernels_of(folder)[16:16 + length]
    (folder / "kernels").write_bytes(struct.pack("<QQ", 1, length) + name + struct.pack("<Q", 64) + bytes(64))
    check(CompiledNetwork(folder, opened.params).predict(DATA), one_convolution)


def test_another_machines_network_is_left_to_be_linked_there(one_convolution, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no cross compiler
    network.compile_elsewhere(tmp_path, one_convolution, 0, SHAPE, "llvm -mtriple=aarch64-linux-gnu")
    objects = list((tmp_path / "objects").iterdir())
    assert objects and all(path.read_bytes()[18:20] == b"\xb7\x00" for path in objects)  # ELF's number of AArch64


@pytest.mark.long
@pytest.mark.parametrize("target", ["llvm", "opencl"])
def test_two_processes_killed_at_random_moments_leave_a_usable_cache(one_convolution, cache, target):
    generator, expected = random.Random(7), predict(one_convolution, 0, DATA)
    began, finished = time.monotonic(), 0
    start(OPEN, one_convolution, target).communicate()
    longest = time.monotonic() - began  # on this machine, whatever else it does
    for _ in range(25):
        for left in cache.glob("[!.]*"):  # every second round, compile
            if generator.random() < 0.5:
                shutil.rmtree(left)
        processes = [start(OPEN, one_convolution, target) for _ in range(2)]
        for process in processes:
            time.sleep(generator.uniform(0, longest))
            process.kill()
        for process in processes:
            printed, said = process.communicate()
            assert "Traceback" not in said and "damaged" not in said, said
            if process.returncode == 0:
                np.testing.assert_allclose(eval(printed), expected, atol=1e-5)
                finished += 1
    assert finished
    process = start(OPEN, one_convolution, target)
    printed, said = process.communicate()
    np.testing.assert_allclose(eval(printed), expected, atol=1e-5)
    assert "Traceback" not in said and len(list(cache.glob("[!.]*"))) == 1 and not list(cache.glob(".*.partial"))


def test_a_missing_checkpoint_is_reported_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", os.devnull)
    with pytest.raises(InputError, match="none-symbol.json: No such file"):
        open_network(tmp_path / "none", 0, SHAPE, "llvm")

"""from_mxnet.py as a user runs it."""
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def run(*command, env=None, code=None):
    """The finished process of `python COMMAND`; with `code`, of `python -c CODE COMMAND`."""
    arguments = [sys.executable, *(["-c", code] if code else []), *map(str, command)]
    return subprocess.run(arguments, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True,
                          check=False)


def fails_in_one_line(process, script, *words):
    assert process.returncode in (1, 2), process.stderr
    line, = process.stderr.strip().splitlines()
    assert line.startswith(f"{script}: error: "), process.stderr
    assert all(word in line for word in words), line


PRINTED = re.compile(r"elapsed: \d+\.\dms \(\d+\.\dms\)\n" + "".join(
    rf"TVM prediction top-{rank}: \d+ n\d{{8}} .+ \(0\.\d{{3}}\)\n" for rank in range(1, 6)))


def top_5(output):
    return [(int(label), float(p)) for label, p in re.findall(r"top-\d: (\d+) .* \((0\.\d+)\)", output)]


def test_beagle_on_opencl(testdata):
    process = run("from_mxnet.py", testdata / "images" / "beagle_rot180.jpg", "--model-prefix",
                  testdata / "pretrained" / "imagenet1k-mnetv2-1_0", "--epoch", "0", "--verify", "--repeat", "2")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("device: ") and len(PRINTED.findall(process.stdout)) == 2
    (first, p1), (second, p2), (third, p3), *_ = top_5(process.stdout)
    assert (first, second, third) == (162, 167, 166)
    assert [p1, p2, p3] == pytest.approx([0.585, 0.168, 0.076], abs=0.02)
    assert re.search(r"^OpenCL and MXNet agree \(max difference \d\.\de-\d\d\)$", process.stdout, re.MULTILINE)


def test_cat_on_llvm_without_mxnet(testdata):
    code = "import runpy, sys; sys.modules['mxnet'] = None; sys.argv = sys.argv[1:]; " \
           "runpy.run_path(sys.argv[0], run_name='__main__')"
    process = run("from_mxnet.py", testdata / "images" / "cat_rot180.jpg", "--model-prefix",
                  testdata / "pretrained" / "imagenet1k-mnetv2-1_0", "--target", "llvm", code=code)
    assert process.returncode == 0, process.stderr
    assert len(PRINTED.findall(process.stdout)) == 3
    assert dict(top_5(process.stdout)) == pytest.approx({285: 0.370, 281: 0.350, 282: 0.086, 287: 0.057, 283: 0.035},
                                                        abs=0.02)


@pytest.fixture
def ten_classes(tmp_path):
    path = tmp_path / "synset.txt"
    path.write_text("".join(f"n{i:08d} class {i}\n" for i in range(10)))
    return path


def test_from_mxnet_refuses_in_one_line(checkpoint, ten_classes, tmp_path):
    image, model = ROOT / "data" / "cat.jpg", ["--model-prefix", checkpoint]
    truncated = tmp_path / "truncated-0000.params"
    truncated.write_bytes((checkpoint.parent / "small-0000.params").read_bytes()[:-500])
    (tmp_path / "truncated-symbol.json").write_bytes((checkpoint.parent / "small-symbol.json").read_bytes())
    half_image = tmp_path / "half.jpg"
    half_image.write_bytes(image.read_bytes()[:20000])
    for arguments, words in [
        ([tmp_path / "missing.jpg", *model], ["missing.jpg", "No such file"]),
        ([half_image, *model], ["half.jpg"]),
        ([image, "--model-prefix", tmp_path / "truncated"], ["truncated-0000.params", "truncated"]),
        ([image, "--model-prefix", tmp_path / "none"], ["none-symbol.json", "No such file"]),
        ([image, *model, "--epoch", "4"], ["small-0004.params", "No such file"]),
        ([image, *model], ["imagenet1k-synset.txt", "1000", "10", "--synset"]),
        ([image, *model, "--synset", ten_classes, "--target", "fpga"], ["unknown target 'fpga'"]),
    ]:
        fails_in_one_line(run("from_mxnet.py", *arguments), "from_mxnet.py", *words)


def test_without_opencl_it_says_what_to_install(checkpoint, ten_classes, tmp_path):
    env = {"OCL_ICD_VENDORS": str(tmp_path / "none")}
    for arguments in (["--list-devices"], ["data/cat.jpg", "--model-prefix", checkpoint, "--synset", ten_classes]):
        fails_in_one_line(run("from_mxnet.py", *arguments, env=env), "from_mxnet.py", "no OpenCL platform",
                          "pocl-binary-distribution", "--target llvm works")


@pytest.fixture
def without_published_weights():
    if (ROOT / "models" / "imagenet1k-mnetv2-1_0-0000.params").exists():
        pytest.skip("the published weights are there")


OFFLINE = """
import runpy, socket, sys
def getaddrinfo(*args, **options):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
socket.getaddrinfo = getaddrinfo
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NO_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "")


def test_without_arguments_and_a_network_it_says_how_to_get_the_weights(without_published_weights, tmp_path):
    process = run("from_mxnet.py", code=OFFLINE, env={**NO_PROXY, "MOBILENETV2_MODELS": str(tmp_path)})
    fails_in_one_line(process, "from_mxnet.py", "Failed to resolve", "https://github.com/liangfu/mxnet-mobilenet-v2",
                      "52673e62d07d5ac8c1b959f56d2b9e09c45b4d9c", "python -m common.modelzoo fetch published-1_0")


def test_without_arguments_it_takes_no_other_file_for_the_weights(without_published_weights, tmp_path):
    other = tmp_path / "imagenet1k-mnetv2-1_0-0000.params"
    other.write_bytes(b"other")
    process = run("from_mxnet.py", env={"MOBILENETV2_MODELS": str(tmp_path)})
    fails_in_one_line(process, "from_mxnet.py", str(other), "git-blob", "52673e62d07d5ac8c1b959f56d2b9e09c45b4d9c")
    fails_in_one_line(run("from_mxnet.py", "--epoch", "3"), "from_mxnet.py", "--epoch 3", "--model-prefix")


def test_list_devices():
    process = run("from_mxnet.py", "--list-devices")
    assert process.returncode == 0, process.stderr
    assert "OpenCL" in process.stdout and "--target opencl runs on: " in process.stdout


@pytest.mark.parametrize("script", ["train_imagenet.py", "eval_imagenet.py", "from_mxnet.py", "tools/make_digits.py",
                                    "tools/launch.py", "tools/plot_training.py"])
def test_help(script):
    process = run(script, "--help")
    assert process.returncode == 0 and "xample" in process.stdout, process.stderr

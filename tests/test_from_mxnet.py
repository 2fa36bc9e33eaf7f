"""from_mxnet.py as a user runs it."""
import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import from_mxnet
from common.base.machine import processor_flags
from common.evaluation.score import predict
from common.find_mxnet import mx
from common.images.preprocess import preprocess, read_image
from tests.checkpoints import save_checkpoint
from tests.commands import refusal
from tests.conftest import ROOT
from tests.networks import random_params


def run(*command, env=None, code=None):
    """The finished process of `python COMMAND`; with `code`, of `python -c CODE COMMAND`."""
    arguments = [sys.executable, *(["-c", code] if code else []), *map(str, command)]
    return subprocess.run(arguments, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True,
                          check=False)


def fails_in_one_line(process, script, *words):
    assert process.returncode in (1, 2), process.stderr
    line, = process.stderr.splitlines()
    assert line.startswith(f"{script}: error: "), process.stderr
    assert all(word in line for word in words), line


PRINTED = re.compile(r"elapsed: \d+\.\dms \(\d+\.\dms\)\n" + "".join(
    rf"TVM prediction top-{rank}: \d+ n\d{{8}} .+ \(0\.\d{{3}}\)\n" for rank in range(1, 6)))


def top_5(output):
    return [(int(label), float(p)) for label, p in re.findall(r"top-\d: (\d+) .* \((0\.\d+)\)", output)]


@pytest.mark.long
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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Arguments for a small network on this processor, the prefix second; TVM compiles it in seconds."""
    prefix = tmp_path_factory.mktemp("small") / "small"
    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), stride=(2, 2), num_filter=8, name="conv")
    net = mx.sym.flatten(mx.sym.Pooling(mx.sym.clip(net, 0, 6), kernel=(8, 8), stride=(8, 8), pool_type="avg"))
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=10, name="fc"), name="softmax")
    save_checkpoint(prefix, 0, net, *({name: mx.nd.array(array) for name, array in part.items()}
                                      for part in random_params(net, (1, 3, 64, 64))))
    synset = prefix.with_name("small-synset.txt")  # which nothing else names
    synset.write_text("".join(f"n{i:08d} class {i}\n" for i in range(10)))
    return ["--model-prefix", prefix, "--target", "llvm", "--image-shape", "3,64,64"]


def test_from_mxnet_refuses_in_one_line(checkpoint, ten_classes, tmp_path, capsys):
    image, model = ROOT / "data" / "cat.jpg", ["--model-prefix", checkpoint]
    truncated = tmp_path / "truncated-0000.params"
    truncated.write_bytes((checkpoint.parent / "small-0000.params").read_bytes()[:-500])
    (tmp_path / "truncated-symbol.json").write_bytes((checkpoint.parent / "small-symbol.json").read_bytes())
    half_image = tmp_path / "half.jpg"
    half_image.write_bytes(image.read_bytes()[:20000])
    for arguments, words in [
        ([tmp_path / "missing.jpg", *model], ["missing.jpg", "No such file"]),
        ([half_image, *model], ["half.jpg"]),
        ([image, "--model-prefix", tmp_path / "truncated", "--synset", ten_classes],
         ["truncated-0000.params", "truncated"]),
        ([image, "--model-prefix", tmp_path / "none"], ["none-symbol.json", "No such file"]),
        ([image, *model, "--synset", ten_classes, "--epoch", "4"], ["small-0004.params", "No such file"]),
        ([image, *model, "--synset", ten_classes, "--target", "fpga"], ["unknown target 'fpga'"]),
    ]:
        line = refusal(capsys, from_mxnet, *arguments)
        assert all(word in line for word in words), line


@pytest.fixture
def tiny(one_convolution, tmp_path):
    """Arguments for a network of one convolution, on no target yet."""
    synset = tmp_path / "three.txt"
    synset.write_text("a\nb\nc\n")
    for ending in ("-symbol.json", "-0000.params"):
        shutil.copy(f"{one_convolution}{ending}", tmp_path / f"one{ending}")
    return ["--model-prefix", tmp_path / "one", "--synset", synset, "--image-shape", "3,64,64"]


@pytest.mark.long
def test_a_line_says_what_became_of_tuning_records(tiny, tmp_path):
    elsewhere = "llvm -mtriple=aarch64-linux-gnu"
    for arguments, line in ((["--target", "llvm -keys=cpu"], "untuned: no "),
                            (["--target", "llvm", "--records", "none"], "untuned, "),
                            (["--target", elsewhere, "--export", tmp_path / "b"], "untuned: no ")):
        process = run("from_mxnet.py", *tiny, *arguments)
        assert process.returncode == 0, process.stderr
        assert any(said.startswith(line) for said in process.stderr.splitlines()), process.stderr


def test_a_caller_is_given_the_answers_and_keeps_its_log(small, photographs, tmp_path):
    """A photograph's are those of the table; from_mxnet.main() is called by programs too."""
    arguments, cat = list(map(str, small)), str(ROOT / "data" / "cat.jpg")
    handlers = list(logging.getLogger().handlers)
    first, second = from_mxnet.main([cat, str(next(photographs.glob("*/*.jpg"))), *arguments, "--repeat", "1"])
    probabilities = predict(small[1], 0, preprocess(read_image(cat), (3, 64, 64)))[0]
    assert [label for label, _, _ in first] == np.argsort(-probabilities, kind="stable")[:5].tolist()
    assert [name for _, name, _ in first] == [f"n{label:08d} class {label}" for label, _, _ in first]
    assert [p for _, _, p in first] == pytest.approx(np.sort(probabilities)[:-6:-1].tolist(), abs=1e-4)
    assert first != second
    done = from_mxnet.main([str(photographs), *arguments, "--output", str(tmp_path / "x.csv")])
    assert (done.classified, done.broken) == (103, 0)
    with pytest.raises(SystemExit) as ended:
        from_mxnet.main(["--no-such-flag"])
    assert ended.value.code == 2 and logging.getLogger().handlers == handlers


def test_a_bundle_answers_as_the_command_that_made_it(tiny, tmp_path):
    cat = ROOT / "data" / "cat.jpg"
    made = run("from_mxnet.py", cat, *tiny, "--target", "llvm", "--export", tmp_path / "bundle")
    assert made.returncode == 0 and f"exported to {tmp_path}/bundle" in made.stderr.splitlines(), made.stderr
    answered = run(tmp_path / "bundle" / "predict.py", cat)
    assert answered.returncode == 0, answered.stderr
    first, second = ([(line, float(p)) for line, p in re.findall(r"top-\d: (.*) \((\d\.\d+)\)", process.stdout)][-3:]
                     for process in (made, answered))
    assert [line for line, _ in first] == [line for line, _ in second] and len(first) == 3
    assert [p for _, p in first] == pytest.approx([p for _, p in second], abs=0.001)


def test_clearing_the_cache(tiny, tmp_path):
    env = {"MOBILENETV2_CACHE": str(tmp_path / "cache")}
    assert run("from_mxnet.py", *tiny, "--target", "llvm", env=env).returncode == 0
    assert list((tmp_path / "cache").rglob("*.so"))
    process = run("from_mxnet.py", "--clear-cache", env=env)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_int8_needs_a_calibration_and_says_where_it_is_slow(tiny, photographs):
    """It is fast on processors with instructions for dot products of integers, as of AVX2."""
    arguments = ["from_mxnet.py", *tiny, "--precision", "int8", "--target"]
    fails_in_one_line(run(*arguments, "llvm"), "from_mxnet.py", "one-0000-int8.json", "python tools/calibrate.py")
    process = run("tools/calibrate.py", tiny[1], "--images", photographs, "--image-shape", "3,64,64",
                  "--count", "8")
    assert process.returncode == 0, process.stderr
    for target, slow in (("llvm", "avx2" not in processor_flags()), ("opencl", True)):
        process = run(*arguments, target, "--verify")
        assert process.returncode == 0 and "int8 and MXNet differ by" in process.stdout, process.stderr
        assert [repr(target) in line for line in process.stderr.splitlines() if "slower" in line] == [True] * slow


def test_an_output_that_is_not_finite_is_refused(one_convolution, tmp_path):
    params = mx.nd.load(f"{one_convolution}-0000.params")
    params["arg:fc_bias"][:] = np.nan
    mx.nd.save(str(tmp_path / "nan-0000.params"), params)
    shutil.copy(f"{one_convolution}-symbol.json", tmp_path / "nan-symbol.json")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    process = run("from_mxnet.py", ROOT / "data" / "cat.jpg", "--model-prefix", tmp_path / "nan", "--target", "llvm",
                  "--synset", tmp_path / "three.txt", "--image-shape", "3,64,64")
    assert process.returncode == 1 and "top-1" not in process.stdout
    assert re.match(r"from_mxnet.py: error: the network's output for .*cat.jpg is not finite: ",
                    process.stderr.splitlines()[-1])


@pytest.mark.parametrize("asked", [[ROOT / "data" / "cat.jpg"], [ROOT / "data"], ["--export", "bundle"],
                                   ["--export", "bundle", "--target", "llvm -mtriple=aarch64-linux-gnu"]])
def test_names_of_other_classes_are_refused_before_anything_is_compiled(small, tmp_path, asked):
    """No table and no bundle is begun."""
    names = ROOT / "data" / "imagenet1k-synset.txt"
    given = [tmp_path / "bundle" if one == "bundle" else one for one in asked]
    given += ["--output", tmp_path / "x.csv"] if given[0] == ROOT / "data" else []
    process = run("from_mxnet.py", *small, "--no-cache", *given, "--synset", names)
    fails_in_one_line(process, "from_mxnet.py", str(names), "1000", "10")
    assert not list(tmp_path.iterdir())


def test_a_table_takes_the_place_of_nothing_that_is_read(tiny, tmp_path):
    before = (tmp_path / "one-symbol.json").read_bytes()
    fails_in_one_line(run("from_mxnet.py", ROOT / "data" / "cat.jpg", *tiny, "--output", tmp_path / "one-symbol.json"),
                      "from_mxnet.py", "one-symbol.json: is read here")
    assert (tmp_path / "one-symbol.json").read_bytes() == before


def test_without_opencl_it_says_what_to_install(checkpoint, ten_classes, tmp_path):
    env = {"OCL_ICD_VENDORS": str(tmp_path / "none")}
    for arguments in (["--list-devices"], ["data/cat.jpg", "--model-prefix", checkpoint, "--synset", ten_classes]):
        fails_in_one_line(run("from_mxnet.py", *arguments, env=env), "from_mxnet.py", "no OpenCL platform",
                          "pocl-binary-distribution", "--target llvm works")


def test_a_folder_is_answered_as_mxnet_answers_it(small, photographs, tmp_path):
    """103 images in batches of 16, and one that is broken."""
    shutil.copytree(photographs, tmp_path / "val")
    (tmp_path / "val" / "n0001" / "half.jpg").write_bytes((ROOT / "data" / "cat.jpg").read_bytes()[:20000])
    process = run("from_mxnet.py", tmp_path / "val", *small, "--output", tmp_path / "x.csv", "--verify")
    assert process.returncode == 0 and process.stdout == "", process.stderr
    assert re.search(r"^llvm and MXNet agree \(max difference \d\.\de-\d\d\)$", process.stderr, re.MULTILINE)
    assert f"\n{tmp_path}/val/n0001/half.jpg: passed over: damaged or truncated image" in process.stderr
    assert re.search(r"^103 images in \d+\.\d s, \d+\.\d images/s; 1 could not be read$", process.stderr, re.MULTILINE)
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = sorted((tmp_path / "val").glob("*/*.jpg"))
    assert [row["path"] for row in rows] == list(map(str, paths))
    half, = (row for row in rows if row["error"])
    assert half["path"].endswith("half.jpg") and half["label_1"] == ""
    rows.remove(half)
    data = np.concatenate([preprocess(read_image(row["path"]), (3, 64, 64)) for row in rows])
    for row, expected in zip(rows, predict(small[1], 0, data)):
        labels = [int(row[f"label_{rank}"]) for rank in range(1, 6)]
        probabilities = [float(row[f"probability_{rank}"]) for rank in range(1, 6)]
        np.testing.assert_allclose(probabilities, np.sort(expected)[:-6:-1], atol=1e-4)
        np.testing.assert_allclose(expected[labels], probabilities, atol=1e-4)
        assert [row[f"class_{rank}"] for rank in range(1, 6)] == [f"n{label:08d} class {label}" for label in labels]


def test_files_and_folders_to_standard_output_and_json(small, photographs, tmp_path):
    """The same answers in both, in the order in which the images are named."""
    folder, cat = photographs / "n0002", ROOT / "data" / "cat.jpg"
    process = run("from_mxnet.py", cat, folder, tmp_path / "missing.jpg", *small)
    assert process.returncode == 0, process.stderr
    rows = list(csv.DictReader(process.stdout.splitlines()))
    assert [row["path"] for row in rows] == [str(cat), *map(str, sorted(folder.iterdir())), f"{tmp_path}/missing.jpg"]
    assert rows[-1]["error"] == "No such file or directory"
    process = run("from_mxnet.py", folder, cat, *small, "--data-nthreads", "1", "--output", tmp_path / "x.json")
    assert process.returncode == 0, process.stderr
    answers = json.loads((tmp_path / "x.json").read_text())
    assert [answer["path"] for answer in answers] == [*map(str, sorted(folder.iterdir())), str(cat)]
    by_path = {row["path"]: row for row in rows}
    for answer in answers:
        row = by_path[answer["path"]]
        assert [str(one["label"]) for one in answer["top"]] == [row[f"label_{rank}"] for rank in range(1, 6)]
        assert [one["probability"] for one in answer["top"]] == pytest.approx(
            [float(row[f"probability_{rank}"]) for rank in range(1, 6)], abs=1e-5)


def test_where_no_image_can_be_read_it_fails_and_the_table_says_why(small, tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.png").write_text("text")
    process = run("from_mxnet.py", tmp_path, *small, "--output", tmp_path / "x.csv")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("from_mxnet.py: error: ")
    with open(tmp_path / "x.csv", newline="") as file:
        assert [row["error"] for row in csv.DictReader(file)] == ["empty file", "not an image"]


def test_ctrl_c_leaves_no_table(small, photographs, tmp_path):
    for number in range(20000):
        os.link(photographs / "n0001" / "000.jpg", tmp_path / f"{number:05d}.jpg")
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen([sys.executable, "from_mxnet.py", tmp_path, *map(str, small), "--output",
                                out / "x.csv"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("device: "):
            break
    partial, = out.iterdir()
    while not partial.stat().st_size:  # the first rows
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].splitlines() == ["from_mxnet.py: interrupted"]
    assert process.returncode == 130 and not list(out.iterdir())


def test_what_would_be_ignored_or_cannot_be_written_is_refused_at_once(small, photographs, tmp_path, capsys,
                                                                       monkeypatch):
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    for given, words in [
        (["--output", "x.txt"], ["--output", "'x.txt'", ".csv or .json"]),
        (["--output", "csv"], ["--output", ".csv or .json"]),
        ([photographs, "--output", tmp_path / "none" / "x.csv"], [f"{tmp_path}/none/x.csv", "No such file"]),
        ([photographs, "--output", tmp_path / "empty.csv"], ["empty.csv", "not the name of a file"]),
        ([tmp_path / "empty"], [f"{tmp_path}/empty", "no images"]),
        ([photographs, "--repeat", "2"], ["--repeat"]),
        (["--batch-size", "4"], ["--batch-size"]),
        ([ROOT / "data" / "cat.jpg", "--batch-size", "4", "--export", tmp_path / "b"], ["--export without FILE"]),
        (["--data-nthreads", "4"], ["--data-nthreads"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--precision", "float8"], ["--precision", "float16"]),
        (["--export", tmp_path / "bundle", "--verify"], ["--verify", "--export"]),
        ([photographs, "--export", tmp_path / "b", "--target", "llvm -mtriple=aarch64-linux-gnu"], ["cannot run here"]),
        (["--export", tmp_path / "b", "--target", "opencl -mtriple=arm64-apple-ios"], ["arm64-apple-ios", "Apple"]),
    ]:
        (tmp_path / "empty.csv").mkdir(exist_ok=True)
        line = refusal(capsys, from_mxnet, *small, *given)
        assert all(word in line for word in words), line
    assert not (tmp_path / "cache").exists()


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
    assert "OpenCL" in process.stdout and "--target opencl runs on: " in process.stdout and not process.stderr


@pytest.mark.parametrize("script", ["train_imagenet.py", "eval_imagenet.py", "from_mxnet.py", "tools/make_digits.py",
                                    "tools/launch.py", "tools/plot_training.py"])
def test_help(script):
    process = run(script, "--help")
    assert process.returncode == 0 and "xample" in process.stdout, process.stderr

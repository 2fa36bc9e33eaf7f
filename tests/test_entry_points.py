"""The three scripts as a user runs them."""
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import eval_imagenet
import train_imagenet
from common.errors import InputError
from common.find_mxnet import mx
from common.mxnet_predict import predict
from common.params_file import load_params
from common.preprocess import preprocess
from tests.conftest import ROOT

SMALL = ["--image-shape", "3,48,48"]


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


def train(packed, prefix, *arguments):
    main = SimpleNamespace(parser=train_imagenet.get_args_parser())
    return train_imagenet.main(main.parser.parse_args([
        "--data-train", f"{packed}.rec", "--num-classes", "2", "--multiplier", "0.1", "--batch-size", "20",
        "--num-epochs", "2", "--lr", "0.01", "--disp-batches", "2", "--model-prefix", str(prefix),
        *SMALL, *arguments]))


@pytest.mark.parametrize("network", train_imagenet.NETWORKS)
def test_training_logs_and_saves(network, packed, tmp_path, capfd):
    train(packed, tmp_path / "x", "--data-val", f"{packed}.rec", "--network", network)
    assert sorted(os.listdir(tmp_path)) == ["x-0001.params", "x-0002.params", "x-symbol.json"]
    names = set(load_params(tmp_path / "x-0002.params"))
    assert {"arg:fc_weight", "arg:seq-6-block0-linear-conv2d_weight",
            "aux:last-1x1-conv-batchnorm_moving_var"} <= names and len(names) == 267
    log = capfd.readouterr().err
    assert re.search(r"Epoch\[0\] Batch \[0-2\]\tSpeed: \d+\.\d\d samples/sec\taccuracy=0\.\d{6}", log)
    assert re.search(r"Epoch\[1\] Train-accuracy=[01]\.\d{6}", log)
    assert re.search(r"Epoch\[1\] Time cost=\d+\.\d{3}", log)
    assert re.search(r"Epoch\[1\] Validation-accuracy=[01]\.\d{6}", log)
    assert "Epoch[1] Validation-images=103" in log


def test_both_definitions_train_to_the_same_weights(packed, tmp_path):
    for network in train_imagenet.NETWORKS:
        train(packed, tmp_path / network, "--network", network, "--num-epochs", "1")
    symbol, gluon = (load_params(tmp_path / f"{network}-0001.params") for network in train_imagenet.NETWORKS)
    assert symbol.keys() == gluon.keys()
    for name in symbol:
        np.testing.assert_allclose(symbol[name], gluon[name], atol=1e-5, rtol=1e-5, err_msg=name)


def test_training_goes_on_from_a_checkpoint(packed, tmp_path, capfd):
    train(packed, tmp_path / "x", "--num-epochs", "1")
    train(packed, tmp_path / "x", "--num-epochs", "2", "--load-epoch", "1", "--lr", "0")
    first, second = (load_params(tmp_path / f"x-000{epoch}.params") for epoch in (1, 2))
    assert (first["arg:fc_weight"] == second["arg:fc_weight"]).all()  # a rate of 0 changes no weight
    assert (first["aux:first-3x3-conv-batchnorm_moving_mean"]
            != second["aux:first-3x3-conv-batchnorm_moving_mean"]).any()
    assert "Epoch[1] Train-accuracy" in capfd.readouterr().err


def test_the_rate_follows_the_schedule():
    from common.fit import optimizer_params
    args = SimpleNamespace(lr=0.045, lr_factor=0.98, lr_step_epochs="", wd=4e-5, optimizer="sgd", mom=0.9)
    for begin in (0, 7):
        params = optimizer_params(args, begin, end=20, batches=5)
        scheduler = params.get("lr_scheduler")
        assert params["learning_rate"] == pytest.approx(0.045 * 0.98 ** begin)
        # MXNet asks for the rate of update 1, 2, ...: epoch e has updates 5 (e - begin) + 1 to 5 (e - begin) + 5
        rates = [scheduler(update) for update in range(1, 5 * (20 - begin) + 1)]
        assert rates[::5] == pytest.approx([0.045 * 0.98 ** epoch for epoch in range(begin, 20)])
        assert rates[4::5] == pytest.approx(rates[::5])
    args.lr_step_epochs = "3,6"
    assert optimizer_params(args, 4, end=20, batches=5)["lr_scheduler"].step == [10]


def test_an_epoch_is_saved_before_its_validation_can_fail(packed, tmp_path):
    from common.packing.prepare import prepare
    for name in ("n0001", "n0002", "n0003"):
        (tmp_path / "images" / "val" / name).mkdir(parents=True)
    shutil.copy(ROOT / "data" / "cat.jpg", tmp_path / "images" / "val" / "n0003")
    prepare(tmp_path / "images", tmp_path, any_count=True)
    with pytest.raises(InputError, match="label 2"):
        train(packed, tmp_path / "x", "--data-val", f"{tmp_path}/val.rec")
    assert (tmp_path / "x-0001.params").exists()


def test_an_error_in_the_optimizer_ends_training(packed, tmp_path, monkeypatch):
    def update(*_):
        raise RuntimeError("diverged")
    monkeypatch.setattr(mx.optimizer.SGD, "update", update)
    monkeypatch.setattr(mx.optimizer.SGD, "update_multi_precision", update)
    with pytest.raises(InputError, match="--optimizer sgd: RuntimeError: diverged"):
        train(packed, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_the_optimizer_has_momentum_and_weight_decay():
    from common.fit import optimizer_params
    args = SimpleNamespace(lr=0.1, lr_factor=1, lr_step_epochs="99", wd=0.01, optimizer="sgd", mom=0.9)
    sgd = mx.optimizer.create("sgd", **optimizer_params(args, 0, end=20, batches=5))
    weight, gradient = mx.nd.array([2.0]), mx.nd.array([0.5])
    state = sgd.create_state(0, weight)
    expected, velocity = 2.0, 0.0
    for _ in range(3):
        sgd.update(0, weight, gradient, state)
        velocity = 0.9 * velocity - 0.1 * (0.5 + 0.01 * expected)
        expected += velocity
    assert weight.asscalar() == pytest.approx(expected, rel=1e-6)


def test_training_refuses_what_it_cannot_use(packed, checkpoint, tmp_path):
    for arguments, message in [
        (["--num-classes", "1"], "label 1, but the network's classes are 0 to 0"),
        (["--gpus", "7"], "--gpus 7: MXNet sees"),
        (["--gpus", "a"], "--gpus a"),
        (["--multiplier", "3"], "from 0.1 to 2.0"),
        (["--load-epoch", "5", "--num-epochs", "9"], "x-0005.params: No such file"),
        (["--load-epoch", "2"], "2 epochs are completed already"),
        (["--model-prefix", str(checkpoint), "--load-epoch", "0"], "has shape"),
        (["--lr-step-epochs", "a"], "--lr-step-epochs a"),
        (["--lr-factor", "1.5"], "--lr-factor 1.5"),
        (["--model-prefix", f"{tmp_path}/"], "beginning of the files' names"),
        (["--model-prefix", "/dev/null/x"], "--model-prefix /dev/null/x"),
        (["--optimizer", "newton"], "--optimizer newton"),
        (["--kv-store", "dist_sync"], "--kv-store dist_sync: start"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            train(packed, tmp_path / "x", *arguments)
        assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_benchmark_needs_no_images(capfd):
    train_imagenet.main(train_imagenet.get_args_parser().parse_args(
        ["--benchmark", "1", "--multiplier", "0.1", "--batch-size", "2", "--image-shape", "3,32,32"]))
    log = capfd.readouterr().err
    assert len(re.findall(r"Speed: \d+\.\d\d samples/sec", log)) == 2 and "Epoch[1]" not in log


@pytest.mark.parametrize("arguments", [
    ["--lr", "nan"], ["--wd", "inf"], ["--mom", "-1"], ["--batch-size", "0"], ["--random-crop", "7"], ["--seed", "-1"],
    ["--seed", "99999999999"], ["--image-shape", "3,31,31"], ["--rgb-std", "0,0,0"], ["--rgb-mean", "nan,0,0"],
    ["--kv-store", "redis"], ["--network", "resnet"], ["--benchmark", "-5"], ["--no-such-flag"],
])
def test_values_that_cannot_be_used_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_imagenet.get_args_parser().parse_args(arguments)
    line, = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2 and arguments[0] in line


def test_evaluation_counts_103_images(packed, tmp_path, capsys):
    train(packed, tmp_path / "x", "--num-epochs", "1")
    capsys.readouterr()
    eval_imagenet.main(eval_imagenet.get_args_parser().parse_args(
        ["--model-prefix", str(tmp_path / "x"), "--epoch", "1", "--data-val", f"{packed}.rec", "--batch-size", "10",
         *SMALL]))
    line = capsys.readouterr().out.strip().splitlines()[-1]

    reader = mx.recordio.MXIndexedRecordIO(f"{packed}.idx", f"{packed}.rec", "r")
    unpacked = [mx.recordio.unpack_img(reader.read_idx(key)) for key in reader.keys]
    right = sum(predict(tmp_path / "x", 1, preprocess(image, (3, 48, 48))).argmax() == header.label
                for header, image in unpacked)
    assert line == f"top-1 {right / 103:.4f} top-2 1.0000 (103 images)"


def test_evaluation_of_a_gluon_export(packed, checkpoint, tmp_path, capsys):
    from symbols.mobilenetv2_gluon import MobileNetV2
    net = MobileNetV2(10, 0.35)
    net.load_parameters(f"{checkpoint}-0000.params")
    net.hybridize()
    net(mx.nd.zeros((1, 3, 48, 48)))
    net.export(str(tmp_path / "x"))
    lines = []
    for prefix in (checkpoint, tmp_path / "x"):
        eval_imagenet.main(eval_imagenet.get_args_parser().parse_args(
            ["--model-prefix", str(prefix), "--epoch", "0", "--data-val", f"{packed}.rec", *SMALL]))
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1] and "top-5" in lines[0] and "(103 images)" in lines[0]


def test_evaluation_refuses_in_one_line(packed, checkpoint, tmp_path):
    truncated = tmp_path / "truncated.rec"
    truncated.write_bytes((packed.parent / "val.rec").read_bytes()[:-500])
    command = ["eval_imagenet.py", "--model-prefix", checkpoint, "--epoch", "0", "--data-val"]
    fails_in_one_line(run(*command, truncated), "eval_imagenet.py", str(truncated), "truncated")
    fails_in_one_line(run(*command[:4], "1", "--data-val", f"{packed}.rec"), "eval_imagenet.py", "small-0001.params")
    fails_in_one_line(run(*command, tmp_path), "eval_imagenet.py", str(tmp_path))


# from_mxnet.py ---------------------------------------------------------------------------------------------------

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


def test_without_arguments_it_says_where_the_weights_are():
    if (ROOT / "models" / "imagenet1k-mnetv2-1_0-0000.params").exists():
        pytest.skip("the published weights are there")
    fails_in_one_line(run("from_mxnet.py"), "from_mxnet.py", "https://github.com/liangfu/mxnet-mobilenet-v2")


def test_list_devices():
    process = run("from_mxnet.py", "--list-devices")
    assert process.returncode == 0, process.stderr
    assert "OpenCL" in process.stdout and "--target opencl runs on: " in process.stdout


@pytest.mark.parametrize("script", ["train_imagenet.py", "eval_imagenet.py", "from_mxnet.py", "tools/make_digits.py"])
def test_help(script):
    process = run(script, "--help")
    assert process.returncode == 0 and "xample" in process.stdout, process.stderr

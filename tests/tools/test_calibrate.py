"""tools/calibrate.py as a user runs it, against MXNet and NumPy."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from common.find_mxnet import mx
from common.images.preprocess import preprocess, read_image
from tests.commands import refusal, run
from tests.conftest import ROOT
from tools import calibrate

SHAPE = (3, 40, 40)


@pytest.fixture
def prefix(tmp_path, one_convolution):
    """PREFIX of a checkpoint of this test's own, for any size of image."""
    for end in ("symbol.json", "0000.params"):  # and no calibration that another test has left
        shutil.copy(f"{one_convolution}-{end}", tmp_path)
    return tmp_path / one_convolution.name


def test_ranges_and_means_are_those_of_the_images(prefix, photographs):
    process = subprocess.run([sys.executable, "tools/calibrate.py", prefix, "--images", photographs, "--image-shape",
                              "3,40,40", "--count", "1000"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{prefix}-0000-int8.json: 2 layers, from 103 images\n"
    content = json.loads(prefix.with_name(f"{prefix.name}-0000-int8.json").read_text())
    assert content["images"] == 103 and list(content["layers"]) == ["conv_weight", "fc_weight"]

    images = np.concatenate([preprocess(read_image(path), SHAPE) for path in photographs.glob("*/*.jpg")])
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(prefix), 0)
    internals = symbol.get_internals()
    both = mx.sym.Group([internals[next(name for name in internals.list_outputs() if name.startswith(kind))]
                         for kind in ("flatten", "clip")])
    executor = both.simple_bind(mx.cpu(), data=images.shape, grad_req="null")
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    of_fc, clipped = (array.asnumpy() for array in executor.forward(data=mx.nd.array(images)))
    logits = of_fc @ arg_params["fc_weight"].asnumpy().T + arg_params["fc_bias"].asnumpy()
    for name, inputs, outputs in (("conv_weight", images, clipped), ("fc_weight", of_fc, logits)):
        layer = content["layers"][name]
        np.testing.assert_allclose([layer["low"], layer["high"]], [inputs.min(), inputs.max()], rtol=1e-4)
        np.testing.assert_allclose(layer["output"], [outputs.min(), outputs.max()], rtol=1e-4)
        means = inputs.reshape(*inputs.shape[:2], -1).mean(axis=(0, 2))
        np.testing.assert_allclose(layer["mean"], means, rtol=1e-3, atol=1e-3)


def test_some_records_are_chosen_by_the_seed(prefix, packed, capsys):
    path = prefix.with_name(f"{prefix.name}-0000-int8.json")
    written = []
    for seed in (1, 1, 2):
        run(calibrate, prefix, "--images", f"{packed}.rec", "--image-shape", "3,40,40", "--count", "5", "--seed", seed)
        assert "from 5 images" in capsys.readouterr().out
        written.append(path.read_text())
    assert written[0] == written[1] != written[2]


def test_what_is_no_image_is_left_out(prefix, photographs, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(next(photographs.glob("*/*.jpg")), folder / "whole.jpg")
    (folder / "broken.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:500])
    run(calibrate, prefix, "--images", folder, "--image-shape", "3,40,40")
    out, err = capsys.readouterr()
    warning, = [line for line in err.splitlines() if line.startswith("warning")]
    assert "from 1 images" in out
    assert f"{folder}/broken.jpg: " in warning and warning.endswith("; left out")


def test_a_wrong_argument_is_one_line(prefix, photographs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jpg").write_text("no image")
    content = json.loads(prefix.with_name(f"{prefix.name}-symbol.json").read_text())
    next(node for node in content["nodes"] if node["op"] == "Convolution")["attrs"]["dilate"] = "(99, 99)"
    (tmp_path / "wide-symbol.json").write_text(json.dumps(content))
    shutil.copy(f"{prefix}-0000.params", tmp_path / "wide-0000.params")
    for arguments, words in (
            ((tmp_path / "wide", "--images", photographs, "--image-shape", "3,40,40"), "wide-symbol.json: TVM cannot"),
            ((prefix, "--images", tmp_path / "empty"), "no images there"),
            ((prefix, "--images", tmp_path / "text"), "none of the images could be read"),
            ((prefix, "--images", tmp_path / "missing.rec"), "No such file"),
            ((prefix, "--images", f"{prefix}-0000.params"), "not a RecordIO file"),
            ((prefix, "--images", photographs, "--epoch", "7"), "one-0007.params: No such file"),
            ((f"{prefix}-0000.params", "--images", photographs), "give the prefix alone"),
            ((prefix, "--images", photographs, "--count", "0"), "a whole number of 1 or more")):
        assert words in refusal(capsys, calibrate, *arguments)
    assert not prefix.with_name(f"{prefix.name}-0000-int8.json").exists()

"""tools/convert_weights.py and tools/export_weights.py, as commands."""
import json
import math
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, save
from common.checkpoint.ndarrays import load_checkpoint
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing
from common.conversion.assemble import IDENTITY, with_expansion
from common.conversion.convert import eight
from common.evaluation.score import predict
from common.find_mxnet import mx
from common.images.class_names import read_synset, save_synset
from common.images.preprocess import preprocess, read_image
from symbols.architecture import REPEATS, widths
from symbols.mobilenetv2 import get_symbol
from tests.commands import refusal, run
from tests.conftest import ROOT
from tests.networks import random_params
from tools import convert_weights, export_weights
from tools.export_weights import FORMATS

TOOLS = {"convert": convert_weights, "export": export_weights}
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({})); import runpy; sys.argv = sys.argv[1:]; " \
          "runpy.run_path(sys.argv[0], run_name='__main__')"


def process(name, *arguments, without):
    """The tool's output, where neither MXNet nor the packages `without` can be imported."""
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(("mxnet", *without)), f"tools/{name}_weights.py",
                           *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture
def tool(capsys):
    """Runs a tool; with `refused=True` it gives the line with which that ends."""
    def run_tool(name, *arguments, refused=False):
        return (refusal(capsys, TOOLS[name], *arguments) if refused else run(TOOLS[name], *arguments))
    return run_tool


@pytest.mark.parametrize(("kind", "padding", "size"), [
    ("torchvision", "symmetric", 64), ("npz", "symmetric", 64), ("npz", "same", 160), ("npz", "same", 97)])
def test_a_checkpoint_goes_out_and_comes_back(tmp_path, kind, padding, size):
    network = {"channels": widths(0.35), "repeats": REPEATS, "strides": "published", "padding": padding,
               "image_shape": (3, size, size) if padding == "same" else None}
    params = random_params(get_symbol(10, **network), (1, 3, size, size))
    preprocessing = Preprocessing(size + 9, size, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    save(Checkpoint(network, 10, *params, preprocessing), tmp_path / "x")
    unneeded = {"npz": ("safetensors", "h5py", "onnx", "tflite"), "torchvision": ("h5py", "onnx", "tflite")}[kind]
    weights = tmp_path / f"out{FORMATS[kind].endings[0]}"
    out = process("export", tmp_path / "x", weights, "--to", kind, without=unneeded)
    assert f"{weights}: " in out and f"shorter side to {size + 9}, crop of {size}" in out
    assert weights.stat().st_mode & 0o777 == (tmp_path / "x-0000.params").stat().st_mode & 0o777
    out = process("convert", weights, tmp_path / "back", "--from", kind, without=unneeded)
    assert "10 classes, widths (11, 6, 8, 11, 22, 34, 56, 112, 1280)" in out
    for end in ("-symbol.json", "-0000.params", "-preprocess.json"):
        assert (tmp_path / f"back{end}").read_bytes() == (tmp_path / f"x{end}").read_bytes(), end
    x = np.random.RandomState(0).normal(0, 1, (1, 3, size, size)).astype(np.float32)
    np.testing.assert_array_equal(predict(tmp_path / "back", 0, x), predict(tmp_path / "x", 0, x))


def test_a_folder_for_timm(tool, tmp_path):
    network = {"channels": widths_of_eight(0.35), "repeats": REPEATS, "strides": "published", "padding": "symmetric",
               "image_shape": None}
    arg_params, aux_params = random_params(get_symbol(3, **network), (1, 3, 64, 64))
    params = with_expansion({name: array for name, array in (arg_params | aux_params).items() if IDENTITY not in name})
    preprocessing = Preprocessing(233, 190, (127.5, 51.0, 25.5), (127.5, 255.0, 63.75))
    checkpoint = Checkpoint(network, 3, *({name: params[name] for name in group} for group in (arg_params, aux_params)),
                            preprocessing)
    save(checkpoint, tmp_path / "x")
    out = tmp_path / "out-1.0"
    for names, told in ((["n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01484850 great white shark"], {
            "label_names": ["n01440764", "n01443537", "n01484850"], "label_descriptions": {
                "n01440764": "tench, Tinca tinca", "n01443537": "goldfish", "n01484850": "great white shark"}}),
            (["rose", "tulip", "n01440764 tench"], {"label_names": ["rose", "tulip", "n01440764 tench"]}), (None, {})):
        (tmp_path / "x-synset.txt").unlink(missing_ok=True)
        if names:
            save_synset(tmp_path / "x", names)
        tool("export", tmp_path / "x", out, "--to", "timm", "--overwrite")
        assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
        config = json.loads((out / "config.json").read_text())
        assert {key: config[key] for key in config if key.startswith("label")} == told
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("mobilenetv2_035", 3, 1280)
    about = config["pretrained_cfg"]
    assert about["input_size"] == [3, 190, 190] and math.floor(190 / about["crop_pct"]) == 233
    assert (about["mean"], about["std"]) == ([0.5, 0.2, 0.1], [0.5, 1, 0.25])

    tool("convert", out / "model.safetensors", tmp_path / "back", "--from", "timm")
    for end in ("-symbol.json", "-0000.params", "-preprocess.json"):
        assert (tmp_path / f"back{end}").read_bytes() == (tmp_path / f"x{end}").read_bytes(), end
    assert "exists" in tool("export", tmp_path / "x", out, "--to", "timm", refused=True)
    (out / "mine.txt").touch()
    assert "other things" in tool("export", tmp_path / "x", out, "--to", "timm", "--overwrite", refused=True)
    assert len(list(out.iterdir())) == 3
    (tmp_path / "file").touch()
    message = tool("export", tmp_path / "x", tmp_path / "file", "--to", "timm", "--overwrite", refused=True)
    assert "other things" in message
    (tmp_path / "x-synset.txt").write_text("one\n")
    assert "names 1 classes" in tool("export", tmp_path / "x", tmp_path / "y", "--to", "timm", refused=True)
    assert not (tmp_path / "y").exists() and not list(tmp_path.glob(".*"))


def widths_of_eight(multiplier):
    """As torchvision and timm round them."""
    return tuple(eight(channels * multiplier) for channels in (32, 16, 24, 32, 64, 96, 160, 320)) + (1280,)


@pytest.mark.parametrize(("laid_out", "other"), [(161, 160), (160, 161), (97, 224)])
def test_same_padding_is_not_used_for_images_that_it_is_not_of(tool, tmp_path, laid_out, other):
    """At 161 and 97 SAME pads as symmetric padding does, which must not be forgotten."""
    network = {"channels": widths(0.35), "repeats": REPEATS, "strides": "published", "padding": "same",
               "image_shape": (3, laid_out, laid_out)}
    save(Checkpoint(network, 10, *random_params(get_symbol(10, **network), (1, 3, laid_out, laid_out))), tmp_path / "x")
    shape = f"3,{other},{other}"
    message = tool("export", tmp_path / "x", tmp_path / "x.onnx", "--to", "onnx", "--image-shape", shape, refused=True)
    assert "SAME padding" in message and shape in message
    with pytest.raises(InputError, match=f"SAME padding .*{shape}"):
        load_checkpoint(tmp_path / "x", 0, (1, 3, other, other))


def test_a_checkpoint_that_cannot_be_written_whole_is_not_written(tool, checkpoint, tmp_path):
    tool("export", checkpoint, tmp_path / "x.npz", "--to", "npz")
    (tmp_path / "out-0000.params").mkdir()
    for overwrite, why in (((), "exists"), (("--overwrite",), "cannot be written")):
        message = tool("convert", tmp_path / "x.npz", tmp_path / "out", "--from", "npz", *overwrite, refused=True)
        assert f"out-0000.params: {why}" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0000.params", "x.npz"]
    (tmp_path / "other-0003.params").touch()
    message = tool("convert", tmp_path / "x.npz", tmp_path / "other", "--from", "npz", refused=True)
    assert "other-0003.params: exists" in message
    for prefix in (f"{tmp_path}/", "/proc/x", f"{tmp_path}/y-0000.params", f"{tmp_path}/y-symbol.json"):
        assert "OUT_PREFIX" in tool("convert", tmp_path / "x.npz", prefix, "--from", "npz", refused=True)


def test_real_weights_go_out_and_come_back_and_know_a_beagle(tool, testdata, tmp_path):
    published = testdata / "pretrained" / "imagenet1k-mnetv2-1_0"
    images = {name: preprocess(read_image(testdata / "images" / f"{name}_rot180.jpg")) for name in ("beagle", "cat")}
    expected = {name: predict(published, 0, data) for name, data in images.items()}
    names = read_synset(testdata / "images" / "imagenet1k-synset.txt", 1000)
    for kind in ("torchvision", "timm", "npz"):
        weights = tmp_path / f"{kind}{FORMATS[kind].endings[0]}"
        tool("export", published, weights, "--to", kind)
        tool("convert", weights, tmp_path / kind, "--from", kind, "--multiplier", "1.0")
        for name, data in images.items():
            again = predict(tmp_path / kind, 0, data)
            np.testing.assert_allclose(again, expected[name], atol=1e-4, rtol=0)
        assert "beagle" in names[int(predict(tmp_path / kind, 0, images["beagle"]).argmax())]

    import onnxruntime
    for option in ((), ("--fold",), ("--pixels",)):
        tool("export", published, tmp_path / "x.onnx", "--to", "onnx", "--overwrite", *option)
        session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
        for name, data in images.items():
            if "--pixels" in option:
                data = data + np.float32(Preprocessing().mean).reshape(1, 3, 1, 1)
            probabilities, = session.run(None, {session.get_inputs()[0].name: data})
            np.testing.assert_allclose(probabilities, expected[name], atol=1e-4, rtol=0)
            assert probabilities[0].argsort()[:-6:-1].tolist() == expected[name][0].argsort()[:-6:-1].tolist()


def test_onnx_takes_any_classifier(tool, tmp_path, capsys):
    """Of Gluon's model zoo, here, which is not this repository's network."""
    net = mx.gluon.model_zoo.vision.get_mobilenet_v2(0.25, classes=7)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    x = np.random.RandomState(0).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    expected = net(mx.nd.array(x)).asnumpy()
    net.export(str(tmp_path / "zoo"))
    tool("export", tmp_path / "zoo", tmp_path / "zoo.onnx", "--to", "onnx", "--image-shape", "3,64,64")
    assert "(N, 7): logits" in capsys.readouterr().out
    import onnxruntime
    session = onnxruntime.InferenceSession(tmp_path / "zoo.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], expected, atol=1e-5, rtol=0)
    message = tool("export", tmp_path / "zoo", tmp_path / "zoo.npz", "--to", "npz", refused=True)
    assert "zoo" in message and "parameters" in message


def test_errors_of_both(tool, checkpoint, tmp_path):
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.touch()
    text.write_text("hello " * 100)
    for kind in ("torchvision", "timm", "keras", "gluon", "tflite", "npz"):
        for path in (empty, text, tmp_path, tmp_path / "nothing", f"{checkpoint}-0000.params"):
            assert str(path) in tool("convert", path, tmp_path / "out", "--from", kind, refused=True)
    assert not list(tmp_path.glob("out*"))
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("data", "")
    message = tool("convert", tmp_path / "x.pth", tmp_path / "out", "--from", "timm", refused=True)
    assert "pip install torch" in message or "save model.state_dict()" in message
    out = tmp_path / "out.npz"
    assert "x-symbol.json: No such file" in tool("export", tmp_path / "x", out, "--to", "npz", refused=True)
    for flag in (("--fold",), ("--opset", "17"), ("--precision", "float32"), ("--image-shape", "3,64,64")):
        assert f"{flag[0]} is for --to onnx" in tool("export", checkpoint, out, "--to", "npz", *flag, refused=True)
    for opset in ("12", "24"):
        message = tool("export", checkpoint, tmp_path / "x.onnx", "--to", "onnx", "--opset", opset, refused=True)
        assert f"--opset {opset}: " in message
    message = tool("export", checkpoint, tmp_path / "x.onnx", "--to", "onnx", "--precision", "int8", refused=True)
    assert "-0000-int8.json" in message and "tools/calibrate.py" in message
    for name, kind, ending in (("x.safetensors", "npz", ".npz"), ("x.pth", "torchvision", ".safetensors")):
        message = tool("export", checkpoint, tmp_path / name, "--to", kind, refused=True)
        assert f"{name}: --to {kind} " in message and ending in message
    message = tool("export", f"{checkpoint}-0000.params", out, "--to", "npz", refused=True)
    assert "without -0000.params" in message
    tool("export", checkpoint, tmp_path / "x.npz", "--to", "npz")
    assert "exists" in tool("export", checkpoint, tmp_path / "x.npz", "--to", "npz", refused=True)
    tool("convert", tmp_path / "x.npz", tmp_path / "x", "--from", "npz")
    message = tool("convert", tmp_path / "x.npz", tmp_path / "x", "--from", "npz", refused=True)
    assert "x-0000.params: exists" in message
    tool("convert", tmp_path / "x.npz", tmp_path / "x", "--from", "npz", "--overwrite", "--image-shape", "3,97,97")
    assert load_preprocessing(tmp_path / "x")[:2] == (111, 97)
    message = tool("convert", tmp_path / "x.npz", tmp_path / "y", "--from", "npz", "--resize", "9", refused=True)
    assert "resize 9 " in message or "resize: give" in message
    for kind in ("npz", "torchvision", "onnx"):
        message = tool("export", checkpoint, f"no/folder/x{FORMATS[kind].endings[0]}", "--to", kind, refused=True)
        assert f"no/folder/x{FORMATS[kind].endings[0]}: No such file or directory" in message

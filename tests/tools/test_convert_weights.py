"""tools/convert_weights.py and tools/export_weights.py, as commands."""
import subprocess
import sys

import numpy as np
import pytest

from common.find_mxnet import mx
from common.labels import read_synset
from common.mxnet_predict import predict
from common.preprocess import preprocess, read_image
from common.preprocessing_file import Preprocessing, load_preprocessing, save_preprocessing
from tests.conftest import ROOT

NO_MXNET = "import sys; sys.modules['mxnet'] = None; import runpy; sys.argv = sys.argv[1:]; " \
           "runpy.run_path(sys.argv[0], run_name='__main__')"


def tool(name, *arguments, status=0):
    """The tool's output, where MXNet cannot be imported; standard error where `status` is not 0."""
    done = subprocess.run([sys.executable, "-c", NO_MXNET, f"tools/{name}_weights.py", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if status == 0:
        assert done.stderr == ""
        return done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"{name}_weights.py: error: "), done.stderr
    return done.stderr


def content(prefix):
    return [open(f"{prefix}{end}", "rb").read() for end in ("-0000.params", "-preprocess.json")]


@pytest.mark.parametrize(("kind", "ending"), [("torchvision", "safetensors"), ("npz", "npz")])
def test_a_checkpoint_goes_out_and_comes_back(checkpoint, tmp_path, kind, ending):
    save_preprocessing(tmp_path / "x", Preprocessing(73, 64, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    for end in ("-symbol.json", "-0000.params"):
        (tmp_path / f"x{end}").symlink_to(f"{checkpoint}{end}")
    out = tool("export", tmp_path / "x", tmp_path / f"out.{ending}", "--to", kind)
    assert f"{tmp_path}/out.{ending}: " in out and "shorter side to 73, crop of 64" in out
    out = tool("convert", tmp_path / f"out.{ending}", tmp_path / "back", "--from", kind)
    assert "10 classes, widths (11, 6, 8, 11, 22, 34, 56, 112, 1280), symmetric padding" in out
    assert content(tmp_path / "back") == content(tmp_path / "x")
    x = np.random.RandomState(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    np.testing.assert_array_equal(predict(tmp_path / "back", 0, x), predict(checkpoint, 0, x))


def test_real_weights_go_out_and_come_back_and_know_a_beagle(testdata, tmp_path):
    published = testdata / "pretrained" / "imagenet1k-mnetv2-1_0"
    images = {name: preprocess(read_image(testdata / "images" / f"{name}_rot180.jpg")) for name in ("beagle", "cat")}
    expected = {name: predict(published, 0, data) for name, data in images.items()}
    names = read_synset(testdata / "images" / "imagenet1k-synset.txt", 1000)
    for kind in ("torchvision", "timm", "npz"):
        tool("export", published, tmp_path / f"{kind}.safetensors", "--to", kind)
        tool("convert", tmp_path / f"{kind}.safetensors", tmp_path / kind, "--from", kind, "--multiplier", "1.0")
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


def test_onnx_takes_any_classifier(tmp_path):
    """Of Gluon's model zoo, here, which is not this repository's network."""
    net = mx.gluon.model_zoo.vision.get_mobilenet_v2(0.25, classes=7)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    x = np.random.RandomState(0).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    expected = mx.nd.softmax(net(mx.nd.array(x))).asnumpy()
    net.export(str(tmp_path / "zoo"))
    tool("export", tmp_path / "zoo", tmp_path / "zoo.onnx", "--to", "onnx", "--image-shape", "3,64,64")
    import onnxruntime
    session = onnxruntime.InferenceSession(tmp_path / "zoo.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], expected, atol=1e-5, rtol=0)
    message = tool("export", tmp_path / "zoo", tmp_path / "zoo.npz", "--to", "npz", status=1)
    assert "does not hold the parameters of this repository's MobileNetV2" in message


def test_errors_of_both(checkpoint, tmp_path):
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.touch()
    text.write_text("hello " * 100)
    for kind in ("torchvision", "timm", "keras", "gluon", "tflite", "npz"):
        for path in (empty, text, tmp_path, tmp_path / "nothing", f"{checkpoint}-0000.params"):
            names = [path]
            if kind in ("torchvision", "timm"):
                names = [tmp_path / "y.safetensors"]
                names[0].unlink(missing_ok=True)
                names[0].symlink_to(path)
            message = tool("convert", names[0], tmp_path / "out", "--from", kind, status=1)
            assert str(names[0]) in message
    assert not list(tmp_path.glob("out*"))
    assert "pip install torch" in tool("convert", text, tmp_path / "out", "--from", "timm", status=1)
    assert "x-symbol.json: No such file" in tool("export", tmp_path / "x", tmp_path / "out", "--to", "npz", status=1)
    assert "--fold is for --to onnx" in tool("export", checkpoint, tmp_path / "out", "--to", "npz", "--fold", status=1)
    assert "is there already" in tool("export", checkpoint, text, "--to", "npz", status=1)
    tool("export", checkpoint, tmp_path / "x.npz", "--to", "npz")
    tool("convert", tmp_path / "x.npz", tmp_path / "x", "--from", "npz")
    assert "x-symbol.json: is there already" in tool("convert", tmp_path / "x.npz", tmp_path / "x", "--from", "npz",
                                                     status=1)
    tool("convert", tmp_path / "x.npz", tmp_path / "x", "--from", "npz", "--overwrite", "--image-shape", "3,97,97")
    assert load_preprocessing(tmp_path / "x")[:2] == (111, 97)
    message = tool("convert", tmp_path / "x.npz", tmp_path / "y", "--from", "npz", "--resize", "9", status=1)
    assert "is less than the crop" in message
    message = tool("export", checkpoint, "no/folder/x.npz", "--to", "npz", status=1)
    assert "no/folder/x.npz: No such file or directory" in message

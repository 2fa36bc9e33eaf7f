"""Files of other frameworks in the place of a checkpoint: messages about them name the command that converts them."""
import lzma
import zipfile

import h5py
import numpy as np
import pytest

import eval_imagenet
import from_mxnet
import train_imagenet
from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint
from common.checkpoint.foreign import kind_of
from common.checkpoint.params import load_params, save_params
from common.conversion.outgoing import save_npz, save_timm, save_torchvision
from common.find_mxnet import mx
from symbols.architecture import REPEATS
from symbols.mobilenetv2 import get_symbol
from tests.conftest import ROOT
from tests.networks import random_params
from tools import export_weights

CHANNELS = (16, 8, 8, 16, 24, 32, 56, 112, 1280)  # of timm's and torchvision's width of 0.35


def save(path, writer):
    network = {"channels": CHANNELS, "repeats": REPEATS, "strides": "published", "padding": "symmetric"}
    params = random_params(get_symbol(10, **network), (1, 3, 32, 32))
    groups = [{name: array for name, array in group.items() if not name.startswith("seq-0-block0-exp")
               or writer is not save_timm} for group in params]
    if writer is save_timm:
        from common.conversion.assemble import with_expansion
        both = with_expansion(groups[0] | groups[1])
        groups = [{name: both[name] for name in group} for group in params]
    writer(Checkpoint(network, 10, *groups), path)


def keras(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)


def keras_3(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"")


def pth(path, name="features.0.0.weight"):
    """Of torch.save, as far as it tells what it is; real ones are in tests/converters."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02X" + name.encode())


def gluon(path):
    net = mx.gluon.model_zoo.vision.mobilenet_v2_0_25(classes=2)
    net.initialize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    net.save_parameters(str(path))


def others_names(path):
    save_params(path, {"arg:conv1_weight": np.zeros((8, 3, 3, 3), np.float32), "aux:bn1_moving_mean": np.zeros(8)})


def onnx(path, checkpoint):
    export_weights.main(export_weights.get_args_parser().parse_args([str(checkpoint), str(path), "--to", "onnx",
                                                                     "--image-shape", "3,32,32"]))


@pytest.fixture(scope="module")
def files(tmp_path_factory, checkpoint):
    """{kind: files}"""
    folder = tmp_path_factory.mktemp("foreign")
    save(folder / "torchvision.safetensors", save_torchvision)
    save(folder / "timm.safetensors", save_timm)
    save(folder / "x.npz", save_npz)
    keras(folder / "x.h5")
    keras_3(folder / "x.keras")
    pth(folder / "x.pth")
    pth(folder / "timm.pth.tar", "conv_stem.weight")
    (folder / "x.tflite").write_bytes(lzma.decompress(
        (ROOT / "tests" / "converters" / "expected" / "float32.tflite.xz").read_bytes()))
    gluon(folder / "gluon.params")
    others_names(folder / "others.params")
    onnx(folder / "x.onnx", checkpoint)
    names = {"torchvision": ["torchvision.safetensors", "x.pth"], "timm": ["timm.safetensors", "timm.pth.tar"],
             "npz": ["x.npz"], "keras": ["x.h5", "x.keras"], "tflite": ["x.tflite"], "gluon": ["gluon.params"],
             "mxnet": ["others.params"], "onnx": ["x.onnx"]}
    return [(kind, folder / name) for kind, of_kind in names.items() for name in of_kind]


def test_the_kind_of_each_file(files, checkpoint, tmp_path):
    for kind, path in files:
        assert kind_of(path) == kind, path
    (tmp_path / "text").write_text("{}")
    (tmp_path / "empty").touch()
    for path in (f"{checkpoint}-0000.params", f"{checkpoint}-symbol.json", tmp_path, tmp_path / "none",
                 tmp_path / "text", tmp_path / "empty", "\0"):
        assert kind_of(path) == ""


@pytest.mark.parametrize("script", ["train_imagenet", "eval_imagenet", "from_mxnet"])
def test_each_script_names_the_command(files, packed, script):
    for kind, path in files:
        main, *flags = {
            "train_imagenet": (train_imagenet.main, "--data-train", f"{packed}.rec", "--pretrained-model", path),
            "eval_imagenet": (eval_imagenet.main, "--data-val", f"{packed}.rec", "--epoch", 0, "--model-prefix", path),
            "from_mxnet": (from_mxnet.main, "--target", "llvm", "--model-prefix", path),
        }[script]
        if (script, kind) == ("train_imagenet", "gluon"):
            continue  # it is taken as it is: tests/common/training/test_pretrained.py
        with pytest.raises(InputError) as error:
            main(list(map(str, flags)))
        message = str(error.value)
        assert f"python tools/convert_weights.py {path} OUT_PREFIX --from {kind}" in message and "\n" not in message


def test_a_gluon_file_named_as_a_checkpoint(files, packed, tmp_path):
    gluon_file, = (path for kind, path in files if kind == "gluon")
    save_params(tmp_path / "x-0000.params", load_params(gluon_file))
    get_symbol(2, 0.25).save(str(tmp_path / "x-symbol.json"))
    (tmp_path / "x-synset.txt").write_text("a\nb\n")
    for main, flags in ((eval_imagenet.main, ["--data-val", f"{packed}.rec", "--epoch", "0"]),
                        (from_mxnet.main, ["--target", "llvm"])):
        with pytest.raises(InputError, match="x-0000.params.*--from gluon"):
            main(["--model-prefix", f"{tmp_path}/x", *flags])

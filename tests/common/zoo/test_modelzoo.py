"""Published weights by name, loaded; and the command."""
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint
from common.checkpoint.params import load_params, save_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing
from common.conversion.convert import eight
from common.conversion.names import KERAS, source_names
from common.conversion.outgoing import save_timm, save_torchvision
from common.find_mxnet import mx
from common.modelzoo import (
    FETCH,
    download_model,
    entries,
    load_pretrained,
    load_pretrained_arrays,
    load_pretrained_gluon,
    prefix_of,
)
from symbols.architecture import REPEATS, TABLE
from symbols.mobilenetv2 import get_symbol
from tests.common.zoo.conftest import CLASSES, CONTENT, SIZE, manifest_of
from tests.conftest import ROOT
from tests.http_server import Server, serving
from tests.networks import forward, random_params

ENTRIES = entries()


def test_the_examples_of_the_help_are_of_weights_that_there_are():
    names = re.findall(r"fetch (.*)", FETCH)
    assert len(names) == 2 and {name for line in names for name in line.partition(" --")[0].split()} <= ENTRIES.keys()


@pytest.fixture(scope="module")
def image():
    return np.random.RandomState(0).uniform(-50, 50, (1, 3, SIZE, SIZE)).astype(np.float32)


def served(folder, path, layout, archive=None, **fields):
    """(server, manifest) of the file `path`, with its SHA-1; in a zip archive by the name `archive`."""
    content = path.read_bytes()
    fields["hash"] = f"sha1 {hashlib.sha1(content).hexdigest()}"
    if archive:
        with zipfile.ZipFile(folder / "served.zip", "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr(archive, content)
        content, fields["member"] = (folder / "served.zip").read_bytes(), archive
    server = Server(content)
    suffix = "-0000.params" if layout == "mxnet" else path.suffix
    return server, manifest_of(folder, server.url, f"fetched{suffix}", layout, **fields)


def predict(symbol, arg_params, aux_params, image):
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", image.shape)], for_training=False)
    module.set_params(arg_params, aux_params, allow_missing=True)  # the label
    module.forward(mx.io.DataBatch([mx.nd.array(image)]))
    return module.get_outputs()[0].asnumpy()


@pytest.mark.parametrize("strides", ["published", "first"])
def test_weights_in_mxnets_layout(tmp_path, image, strides):
    params = random_params(get_symbol(CLASSES, 0.35), image.shape)
    save_checkpoint_params(tmp_path / "made.params", *params)
    expected = forward({**params[0], **params[1]}, image, strides)
    server, manifest = served(tmp_path, tmp_path / "made.params", "mxnet",
                              network={"multiplier": 0.35, "strides": strides})
    with serving(server):
        symbol, arg_params, aux_params = load_pretrained("x", manifest=manifest)
        np.testing.assert_allclose(predict(symbol, arg_params, aux_params, image), expected, atol=1e-4)
        net = load_pretrained_gluon("x", manifest=manifest)
        np.testing.assert_allclose(net(mx.nd.array(image)).softmax().asnumpy(), expected, atol=1e-4)
        checkpoint = load_pretrained_arrays("x", manifest=manifest)
        assert checkpoint.preprocessing == Preprocessing(72, 64, (1, 2, 3), (4, 5, 6))
        np.testing.assert_array_equal(checkpoint.arg_params["fc_weight"], params[0]["fc_weight"])

        prefix = prefix_of("x", manifest=manifest)
        np.testing.assert_allclose(predict(*mx.model.load_checkpoint(prefix, 0), image), expected, atol=1e-4)
        assert len(server.requests) == 1
    code = "import sys; sys.modules['mxnet'] = None; from common.modelzoo import load_pretrained_arrays as load; " \
           "print(load('x', manifest=sys.argv[1]).arg_params['fc_weight'].shape)"
    process = subprocess.run([sys.executable, "-c", code, manifest], cwd=ROOT, text=True, capture_output=True,
                             check=False)
    assert process.stdout == "(10, 1280)\n", process.stderr


def test_for_another_number_of_classes_the_classifier_is_new(tmp_path, image):
    params = random_params(get_symbol(CLASSES, 0.35), image.shape)
    save_checkpoint_params(tmp_path / "made.params", *params)
    server, manifest = served(tmp_path, tmp_path / "made.params", "mxnet")
    with serving(server):
        symbol, arg_params, aux_params = load_pretrained("x", 3, manifest=manifest)
        net = load_pretrained_gluon("x", 3, manifest=manifest)
    assert set(params[0]) - set(arg_params) == {"fc_weight", "fc_bias"} and set(aux_params) == set(params[1])
    assert symbol.infer_shape(data=image.shape)[1] == [(1, 3)] and net(mx.nd.array(image)).shape == (1, 3)
    np.testing.assert_array_equal(net.collect_params()["last-1x1-conv-conv2d_weight"].data().asnumpy(),
                                  params[0]["last-1x1-conv-conv2d_weight"])


def test_weights_of_the_gluon_zoo_in_an_archive(tmp_path, image):
    """Made by the zoo's own network, and written as the zoo's files are, without the network's prefix."""
    net = vision.MobileNetV2(0.25, classes=CLASSES)
    net.initialize()
    net(mx.nd.array(image))  # it learns its shapes
    rng = np.random.RandomState(1)
    for name, parameter in net.collect_params().items():
        near_one = name.endswith(("gamma", "running_var"))
        scale = np.sqrt(2 / np.prod(parameter.shape[1:])) if name.endswith("weight") else 0.3
        parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape) if near_one else
                                       rng.normal(0, scale, parameter.shape)))
    expected = net(mx.nd.array(image)).softmax().asnumpy()
    assert expected.max() > 0.3
    net.collect_params().save(str(tmp_path / "made.params"), strip_prefix=net.prefix)
    assert "features_conv0_weight" in load_params(tmp_path / "made.params")
    server, manifest = served(tmp_path, tmp_path / "made.params", "gluon", "mobilenetv2_0.25-0.params",
                              network={"multiplier": 0.25})
    with serving(server):
        symbol, arg_params, aux_params = load_pretrained("x", manifest=manifest)
        np.testing.assert_allclose(predict(symbol, arg_params, aux_params, image), expected, atol=1e-4)
        with pytest.raises(InputError, match="x is no MXNet checkpoint"):
            prefix_of("x", manifest=manifest)


def test_a_package_that_is_missing_is_told_before_anything_is_downloaded(tmp_path, server):
    code = "import sys; sys.modules |= dict.fromkeys(sys.argv[2:]); from common.base.errors import reported\n" \
           "with reported('x'):\n    from common.modelzoo import load_pretrained_arrays as load\n" \
           "    load('x', manifest=sys.argv[1])"
    for layout, file, absent, message in [
        ("torchvision", "x.pth", ["torch"], "needs torch to be read: pip install torch"),
        ("keras", "x.h5", ["h5py"], "needs h5py to be read: pip install h5py"),
        ("timm", "x.safetensors", ["safetensors"], "needs safetensors to be read: pip install safetensors"),
        ("torchvision", "x.pth", ["torch", "safetensors"], "needs torch and safetensors to be read: pip install torch "
         "safetensors"),
    ]:
        manifest = manifest_of(tmp_path, server.url, file, layout)
        process = subprocess.run([sys.executable, "-c", code, manifest, *absent], cwd=ROOT, text=True,
                                 capture_output=True, check=False)
        assert process.stderr == f"x: error: x: {message}\n" and process.returncode == 1
    assert server.requests == []


def test_download_model_is_that_of_mxnets_examples(tmp_path, server, caplog):
    meta_info = {"net": {"symbol": server.url, "params": server.url}}
    prefix = str(tmp_path / "new" / "net")
    assert download_model("net", str(tmp_path / "new"), meta_info) == (prefix, 0)
    assert Path(f"{prefix}-0000.params").read_bytes() == Path(f"{prefix}-symbol.json").read_bytes() == CONTENT
    assert download_model("other", str(tmp_path), meta_info) == (None, 0) and "there are net" in caplog.text
    assert download_model("other", str(tmp_path)) == (None, 0) and "published-1_0" in caplog.messages[-1]
    with pytest.raises(InputError, match="keras-1_0"):
        download_model("keras-1_0", str(tmp_path))


def test_download_model_verifies_what_it_downloads(tmp_path):
    params = random_params(get_symbol(CLASSES, 0.35), (1, 3, SIZE, SIZE))
    save_checkpoint_params(tmp_path / "made.params", *params)
    server, manifest = served(tmp_path, tmp_path / "made.params", "mxnet")
    with serving(server):
        prefix, epoch = download_model("x", str(tmp_path / "new"), manifest=manifest)
        server.content = b"other"
        with pytest.raises(InputError, match="sha1"):
            download_model("x", str(tmp_path / "another"), manifest=manifest)
    symbol, arg_params, _ = mx.model.load_checkpoint(prefix, epoch)
    assert prefix == str(tmp_path / "new" / "fetched") and epoch == 0
    np.testing.assert_array_equal(arg_params["fc_weight"].asnumpy(), params[0]["fc_weight"])


def rounded_params():
    """A checkpoint of multiplier 0.35 with widths rounded to 8, and without an expansion in the first block."""
    channels = (16, *(eight(c * 0.35) for _, c, _, _ in TABLE), 1280)
    network = {"channels": channels, "repeats": REPEATS, "strides": "published", "padding": "symmetric"}
    arg_params, aux_params = random_params(get_symbol(CLASSES, **network), (1, 3, SIZE, SIZE))
    return Checkpoint(network, CLASSES, arg_params, aux_params)


@pytest.mark.parametrize("layout", ["torchvision", "timm", "keras"])
def test_weights_of_other_frameworks(tmp_path, layout):
    original = rounded_params()
    path = tmp_path / ("made.h5" if layout == "keras" else "made.safetensors")
    if layout == "keras":
        save_keras(original.arg_params | original.aux_params, path)
    else:
        {"torchvision": save_torchvision, "timm": save_timm}[layout](with_identity(original), path)
    server, manifest = served(tmp_path, path, layout)
    with serving(server):
        loaded = load_pretrained_arrays("x", manifest=manifest)
        with pytest.raises(InputError, match="multiplier 0.5 would be"):
            load_pretrained_arrays("x", manifest=manifest_of(tmp_path, server.url, f"fetched{path.suffix}", layout,
                                                             network={"multiplier": 0.5}))
        with pytest.raises(InputError, match=f"fetched.*: has {CLASSES} classes; x has 7"):
            load_pretrained_arrays("x", manifest=manifest_of(tmp_path, server.url, f"fetched{path.suffix}", layout,
                                                             classes=7))
    for name, array in (original.arg_params | original.aux_params).items():
        if not name.startswith("seq-0-block0-exp"):
            shift = 1e-3 - 1e-5 if layout == "keras" and name.endswith("moving_var") else 0
            found = (loaded.arg_params | loaded.aux_params)[name]
            np.testing.assert_allclose(found, array + shift, rtol=1e-6, err_msg=name)
    assert loaded.network["padding"] == ("same" if layout == "keras" else "symmetric")
    assert loaded.preprocessing.mean == (1, 2, 3)


def with_identity(checkpoint):
    from common.conversion.assemble import with_expansion
    params = {name: array for name, array in (checkpoint.arg_params | checkpoint.aux_params).items()
              if not name.startswith("seq-0-block0-exp")}
    params = with_expansion(params)
    return checkpoint._replace(arg_params={name: params[name] for name in checkpoint.arg_params},
                               aux_params={name: params[name] for name in checkpoint.aux_params})


def save_keras(params, path):
    """As Keras 2 writes weights: a group for each layer, in the network's order."""
    layers = {}
    for published, name in source_names(KERAS, REPEATS, False).items():
        layer, weight = name.split("/")
        array = params[published]
        if published.endswith("conv2d_weight"):
            array = array.transpose((2, 3, 0, 1) if "-depthwise-" in published else (2, 3, 1, 0))
        layers.setdefault(layer, {})[f"{layer}/{weight}:0"] = array.T if published == "fc_weight" else array
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in weights.items():
                group[name] = array


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "common.modelzoo", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, check=False)


def test_the_list_names_all_and_what_is_here(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ENTRIES["keras-0_35"].file).write_bytes(b"other")
    process = command("list")
    lines = {line.split()[0]: line for line in process.stdout.splitlines()}
    assert list(lines) == ["name", *ENTRIES] and process.returncode == 0
    assert "72.45" in lines["seed-1_0"] and "withdrawn" in lines["seed-1_0"]
    assert lines["keras-0_35"].endswith("(another file)")


def test_the_command_answers_mistakes_in_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for arguments, word in [
        (["fetch", "published-9"], "there are published-1_0, published-1_4, "),
        (["fetch", "published-1_0", "--from", tmp_path / "file"], "file: is not the file of published-1_0: git-blob"),
        (["fetch", "published-1_0", "--from", tmp_path / "none"], "none: No such file"),
        (["fetch", "published-1_0", "seed-1_0", "--from", tmp_path / "file"], "one NAME"),
        (["verify", tmp_path / "file"], "is none of the files"),
        (["verify", tmp_path / "none"], "none: No such file"),
        (["verify", tmp_path], "Is a directory"),
        (["fetch", "published-1_0", "--folder", "/proc"], "/proc: cannot be written to"),
        ([], "required"), (["bring"], "invalid choice"),
    ]:
        process = command(*arguments)
        line, = process.stderr.splitlines()
        assert process.returncode in (1, 2) and line.startswith("python -m common.modelzoo") and word in line, line
    assert not (tmp_path / "cache" / "imagenet1k-mnetv2-1_0-0000.params").exists()


def test_verify_tells_of_each_file(tmp_path):
    (tmp_path / "bad").write_bytes(b"x")
    keras = tmp_path / ENTRIES["keras-0_35"].file
    keras.write_bytes(b"\x89HDF\r\n\x1a\n")
    process = command("verify", tmp_path / "bad", keras, tmp_path / "none", tmp_path / "bad")
    assert process.stdout == f"{keras}: keras-0_35, by name and format alone: no hash of it is known\n"
    told = [line.removeprefix(f"python -m common.modelzoo: error: {tmp_path}/") for line in process.stderr.splitlines()]
    assert [line[:10] for line in told] == ["bad: is no", "none: No s", "bad: is no"] and process.returncode == 1
    assert command("verify", keras).returncode == 0

"""The manifest's facts, and weights by name: found, fetched, taken, recognised and loaded."""
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from mxnet.gluon.model_zoo import model_store, vision

from common.checkpoint_arrays import Checkpoint
from common.conversion.convert import eight
from common.conversion.names import KERAS, source_names
from common.conversion.outgoing import save_timm, save_torchvision
from common.errors import InputError
from common.find_mxnet import mx
from common.modelzoo import (
    entries,
    fetch,
    load_pretrained,
    load_pretrained_arrays,
    load_pretrained_gluon,
    prefix_of,
    table,
    take,
    verify,
)
from common.params_file import load_params, save_checkpoint_params
from common.preprocessing_file import Preprocessing, load_preprocessing
from common.zoo import files
from symbols.architecture import REPEATS, TABLE
from symbols.mobilenetv2 import get_symbol
from tests.conftest import ROOT
from tests.http_server import Answer, Server, serving
from tests.networks import forward, random_params

ENTRIES = entries()
CLASSES, SIZE = 10, 64


@pytest.fixture(autouse=True)
def away_from_home(tmp_path, monkeypatch):
    """No proxy, and no folder but the test's own."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(files, "MODELS", tmp_path / "models")
    monkeypatch.setenv("MOBILENETV2_MODELS", str(tmp_path / "cache"))


# ---- the manifest

def test_all_weights_are_there():
    layouts = [entry.layout for entry in ENTRIES.values()]
    assert {layout: layouts.count(layout) for layout in layouts} == {"mxnet": 3, "gluon": 4, "torchvision": 2,
                                                                     "timm": 5, "keras": 6}
    assert {name: str(ENTRIES[name].hash) for name in ("published-1_0", "published-1_4", "seed-1_0")} == {
        "published-1_0": "git-blob 52673e62d07d5ac8c1b959f56d2b9e09c45b4d9c",
        "published-1_4": "git-blob 28581ed9a8dfb18de5d42cc3ed471777701569f9",
        "seed-1_0": "git-blob 8d2d35131175a0a31339d92401c972f4506c6c48"}
    assert ENTRIES["seed-1_0"].network["strides"] == "first" and ENTRIES["seed-1_0"].accuracy.kind == "withdrawn"


def test_the_gluon_zoo_is_that_of_the_installed_mxnet():
    for multiplier in ("1.0", "0.75", "0.5", "0.25"):
        name = f"mobilenetv2_{multiplier}"
        entry = ENTRIES[f"gluon-{multiplier.replace('.', '_')}"]
        assert str(entry.hash) == f"sha1 {model_store._model_sha1[name]}"
        file = f"{name}-{model_store.short_hash(name)}"
        assert entry.urls[0] == model_store._url_format.format(repo_url=model_store.apache_repo_url, file_name=file)
        assert entry.file == entry.member == f"{file}.params"
        assert entry.network == {"multiplier": float(multiplier)}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_what_is_not_known_is_marked_and_what_is_known_agrees(entry):
    for field in ("hash", "size"):
        assert getattr(entry, field) is not None or field in entry.unverified
    assert len({e.file for e in ENTRIES.values()}) == len(ENTRIES)
    assert all(url.startswith("https://") for url in entry.urls)
    if entry.layout == "torchvision":
        assert entry.file == f"mobilenet_v2-{entry.hash.value}.pth"
    if entry.layout == "keras":
        width = re.search(r"_kernels_([\d.]+)_224\.h5$", entry.file)[1]
        assert entry.network == {"multiplier": float(width)} and entry.name == f"keras-{width.replace('.', '_')}"
    if entry.layout == "timm":
        hundredths = re.match(r"timm-mobilenetv2_(\d+)d?$", entry.name)[1]
        assert entry.network == {"multiplier": int(hundredths) / 100}
    assert entry.classes == 1000 and entry.preprocessing.crop == 224


GOOD = (ROOT / "models" / "zoo.toml").read_text()


@pytest.mark.parametrize("old, new, message", [
    ('file = "seed', 'file = "../seed', "file: not a file's plain name"),
    ('file = "seed-1_0-0000.params"\n', "", "has no file"),
    ('layout = "mxnet"', 'layout = "caffe"', "layout: give one of mxnet"),
    ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "unknown field, license"),
    ("git-blob 5267", "git-blob 526", "hash: .* is none"), ("git-blob 5267", "md5 5267", "hash: .* is none"),
    ('preprocessing = "published"', 'preprocessing = "x"', "'x'"), ("top1 = 71.75", "top1 = 99.9", "accuracy"),
    ('strides = "first"', 'strides = "last"', "strides must be"), ('"https://raw', '"file:///raw', "urls"),
    ("[weights.published-1_0]", "[weights.published-1_0", "not TOML"), ("crop = 224", "crop = 0", "crop"),
    ("1_0-0000.params\"", "1_0.params\"", "file: give PREFIX-0000.params"),
])
def test_a_manifest_with_a_slip_is_refused(tmp_path, old, new, message):
    (tmp_path / "zoo.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as raised:
        entries(tmp_path / "zoo.toml")
    assert len(str(raised.value).splitlines()) == 1


# ---- files

CONTENT = b'\x10\0\0\0\0\0\0\0{"' + bytes(100_000)


@pytest.fixture
def server():
    with serving(Server(CONTENT)) as running:
        yield running


def manifest_of(folder, url, file, layout="mxnet", **fields):
    """A manifest with one entry, "x"."""
    fields = {"network": {"multiplier": 0.35}, "classes": CLASSES, **fields}

    def toml(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
        return f'"{value}"' if isinstance(value, str) else str(value)
    path = folder / "zoo.toml"
    path.write_text(f'''
        preprocessing.p = {{resize = 72, crop = 64, mean = [1, 2, 3], std = [4, 5, 6]}}
        [weights.x]
        file = "{file}"
        urls = ["{url}"]
        layout = "{layout}"
        preprocessing = "p"
        licence = "MIT"
        accuracy = {{top1 = 50.0, top5 = 60.0, kind = "author"}}
        sources = ["here"]
        unverified = []
        ''' + "\n".join(f"{key} = {toml(value)}" for key, value in fields.items()))
    return path


@pytest.fixture
def manifest(tmp_path, server):
    return manifest_of(tmp_path, server.url, "x-0000.params", hash=f"sha1 {hashlib.sha1(CONTENT).hexdigest()}")


def test_it_is_downloaded_once_to_the_folder_that_is_named(tmp_path, manifest, server):
    files.MODELS.mkdir()
    for _ in range(2):
        assert fetch("x", manifest=manifest) == tmp_path / "cache" / "x-0000.params"
    assert (tmp_path / "cache" / "x-0000.params").read_bytes() == CONTENT and len(server.requests) == 1
    (tmp_path / "cache" / "x-0000.params").rename(files.MODELS / "x-0000.params")
    assert fetch("x", manifest=manifest).parent == files.MODELS and len(server.requests) == 1
    assert fetch("x", tmp_path / "other", manifest).parent == tmp_path / "other"


@pytest.mark.parametrize("named", ["/proc", "file/folder"])
def test_it_is_downloaded_to_the_first_folder_that_can_be_written(tmp_path, monkeypatch, manifest, named):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOBILENETV2_MODELS", str(tmp_path / named))
    assert fetch("x", manifest=manifest).parent == files.MODELS


def test_without_a_named_folder_it_is_models_then_the_cache_of_the_home(tmp_path, monkeypatch, manifest):
    monkeypatch.delenv("MOBILENETV2_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch("x", manifest=manifest).parent == files.MODELS
    monkeypatch.setattr(files, "MODELS", Path("/proc"))
    assert fetch("x", manifest=manifest).parent == tmp_path / "mxnet-mobilenet-v2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    assert fetch("x", manifest=manifest).parent == tmp_path / "someone" / ".cache" / "mxnet-mobilenet-v2"


@pytest.mark.parametrize("wrong", [[], ["cache"], ["models"], ["cache", "models"]], ids=str)
def test_another_file_does_not_hide_the_right_one(tmp_path, manifest, server, wrong):
    for folder in ("cache", "models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x-0000.params").write_bytes(b"mine" if folder in wrong else CONTENT)
    if len(wrong) < 2:
        right = "models" if "cache" in wrong else "cache"
        assert fetch("x", manifest=manifest) == tmp_path / right / "x-0000.params"
        assert any(line.endswith(f"{right}/x-0000.params") for line in table(manifest))
    else:
        with pytest.raises(InputError, match="cache/x-0000.params: is not the file of x"):
            fetch("x", manifest=manifest)
    assert server.requests == []
    for folder in wrong:
        assert (tmp_path / folder / "x-0000.params").read_bytes() == b"mine"


def test_what_is_no_file_at_all_does_not_hide_it_either(tmp_path, manifest):
    (tmp_path / "cache" / "x-0000.params").mkdir(parents=True)
    with pytest.raises(InputError, match="cache/x-0000.params: is not the file of x .*(directory|bytes)"):
        fetch("x", manifest=manifest)
    assert fetch("x", files.MODELS, manifest) == fetch("x", manifest=manifest) == files.MODELS / "x-0000.params"


def test_a_checkpoint_of_mxnets_is_whole(tmp_path, manifest):
    """However it comes; and what is beside it already is left alone."""
    (tmp_path / "right").write_bytes(CONTENT)
    takes = {"fetched": lambda folder: fetch("x", folder, manifest),
             "taken": lambda folder: take("x", tmp_path / "right", folder, manifest)}
    for name, put in takes.items():
        prefix = tmp_path / name / "x"
        for _ in range(2):
            assert put(tmp_path / name) == Path(f"{prefix}-0000.params")
            symbol = mx.sym.load(f"{prefix}-symbol.json")
            assert symbol.infer_shape(data=(1, 3, 64, 64))[1] == [(1, CLASSES)]
            assert load_preprocessing(prefix) == Preprocessing(72, 64, (1, 2, 3), (4, 5, 6))
            for companion in ("x-symbol.json", "x-preprocess.json"):  # for weights that were there before
                (tmp_path / name / companion).unlink()
        for companion in ("x-symbol.json", "x-preprocess.json"):
            (tmp_path / name / companion).write_text("mine")
        put(tmp_path / name)
        assert [Path(f"{prefix}-{end}.json").read_text() for end in ("symbol", "preprocess")] == ["mine"] * 2


READ_ONLY = """
import sys
from pathlib import Path
from common.modelzoo import fetch, locate, prefix_of
from common.zoo import files
from common.errors import reported
files.MODELS = Path(sys.argv[1])
with reported("x"):
    print(locate("x", manifest=sys.argv[2]))
    print(prefix_of("x", manifest=sys.argv[2]), prefix_of("x", manifest=sys.argv[2]))
    fetch("x", files.MODELS, sys.argv[2])
"""


def test_weights_in_a_folder_that_cannot_be_written_are_copied(tmp_path, manifest, server):
    files.MODELS.mkdir()
    (files.MODELS / "x-0000.params").write_bytes(CONTENT)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77; shift; exec "$@"'
    process = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", files.MODELS, sys.executable, "-c", READ_ONLY,
                              files.MODELS, manifest], cwd=ROOT, capture_output=True, text=True, check=False)
    if process.returncode == 77 or process.stderr.startswith("unshare:"):
        pytest.skip("needs unshare and a mount of its own")
    assert process.stdout.split() == [f"{files.MODELS}/x-0000.params", *[f"{tmp_path}/cache/x"] * 2], process.stderr
    assert process.stderr == f"x: error: {files.MODELS}: cannot be written to (Read-only file system)\n"
    assert sorted(os.listdir(tmp_path / "cache")) == ["x-0000.params", "x-preprocess.json", "x-symbol.json"]
    assert (tmp_path / "cache" / "x-0000.params").read_bytes() == CONTENT
    assert os.listdir(files.MODELS) == ["x-0000.params"] and server.requests == []


def test_a_file_that_is_there_is_verified_and_left_alone(tmp_path, manifest, server):
    path = fetch("x", manifest=manifest)
    path.write_bytes(CONTENT[:-1] + b"x")
    for call in (lambda: fetch("x", manifest=manifest), lambda: take("x", manifest, manifest=manifest)):
        with pytest.raises(InputError, match=r"x-0000\.params: is not the file of x \(sha1 .* expected .*move it away"):
            call()
    assert path.read_bytes() == CONTENT[:-1] + b"x" and len(server.requests) == 1


def test_where_it_cannot_be_had_one_line_says_what_to_do(tmp_path, manifest, server):
    server.answers = [Answer(status=404)]
    with pytest.raises(InputError) as raised:
        fetch("x", manifest=manifest)
    line, = str(raised.value).splitlines()
    for word in (f"{server.url}: HTTP 404 Not Found", hashlib.sha1(CONTENT).hexdigest(),
                 str(tmp_path / "cache" / "x-0000.params"), "python -m common.modelzoo fetch x --from FILE"):
        assert word in line


def test_a_file_brought_by_hand_is_verified_and_put_in_place(tmp_path, manifest, server):
    (tmp_path / "wrong").write_bytes(CONTENT + b"x")
    with pytest.raises(InputError, match="wrong: is not the file of x: sha1"):
        take("x", tmp_path / "wrong", manifest=manifest)
    (tmp_path / "right").write_bytes(CONTENT)
    assert take("x", tmp_path / "right", manifest=manifest) == fetch("x", manifest=manifest)
    assert server.requests == []
    assert sorted(os.listdir(tmp_path / "cache")) == ["x-0000.params", "x-preprocess.json", "x-symbol.json"]


def test_the_archive_brought_by_hand_will_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("net.params", CONTENT)
    manifest = manifest_of(tmp_path, "https://weights.invalid/x", "x.params", "gluon", member="net.params",
                           hash=f"sha1 {hashlib.sha1(CONTENT).hexdigest()}")
    assert take("x", tmp_path / "x.zip", manifest=manifest).read_bytes() == CONTENT


def test_a_file_is_recognised_by_its_hash(tmp_path, manifest):
    (tmp_path / "y").write_bytes(CONTENT)
    entry, certain = verify(tmp_path / "y", manifest)
    assert entry.name == "x" and certain
    for prefix in (8, 20):
        digits = hashlib.sha256(CONTENT).hexdigest()[:prefix]
        known = manifest_of(tmp_path, "http://x", "z", "gluon", hash=f"sha256-prefix {digits}")
        assert verify(tmp_path / "y", known)[1]
    with pytest.raises(InputError, match=f"none of the files .*sha1 {hashlib.sha1(CONTENT).hexdigest()}"):
        verify(tmp_path / "y", ROOT / "models" / "zoo.toml")


def test_without_a_hash_name_and_format_have_to_do(tmp_path, server):
    manifest = manifest_of(tmp_path, server.url, "x.safetensors", "timm")
    path = fetch("x", manifest=manifest)
    assert verify(path, manifest) == (entries(manifest)["x"], False)
    path.rename(tmp_path / "y")
    with pytest.raises(InputError, match="none of the files"):
        verify(tmp_path / "y", manifest)
    server.content = b"<html>Log in to this network</html>"
    with pytest.raises(InputError, match="it does not begin as such a file does"):
        fetch("x", manifest=manifest)
    assert not path.exists()


# ---- weights

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
    code = "import sys; sys.modules |= dict.fromkeys(sys.argv[2:]); from common.errors import reported\n" \
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


# ---- the command

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


def test_the_command_answers_slips_in_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for arguments, word in [
        (["fetch", "published-9"], "there are published-1_0, published-1_4, "),
        (["fetch", "published-1_0", "--from", tmp_path / "file"], "file: is not the file of published-1_0: git-blob"),
        (["fetch", "published-1_0", "--from", tmp_path / "none"], "none: No such file"),
        (["fetch", "published-1_0", "seed-1_0", "--from", tmp_path / "file"], "is for one NAME, not 2"),
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

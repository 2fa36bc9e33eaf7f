"""Damaged weights and their JSON are read or refused: no other exception, no crash, no hang, no gigabyte of memory."""
import io
import json
import lzma
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest

from common.base.digest import digest
from common.checkpoint import arrays as checkpoint_arrays
from common.checkpoint.arrays import Checkpoint
from common.checkpoint.int8 import Statistics, save_calibration
from common.checkpoint.params import save_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing, preprocessing_json, save_preprocessing
from common.compiler.quantize import layers_of
from common.compiler.relay_network import load_network
from common.conversion.keras_file import VARIABLES
from common.conversion.names import KERAS, source_names
from common.conversion.outgoing import save_npz, save_torchvision
from common.conversion.sources import KERAS_AXES
from common.find_mxnet import mx
from common.zoo.manifest import MANIFEST
from symbols.architecture import REPEATS
from symbols.mobilenetv2 import get_symbol
from tests import tuning_records
from tests.converters.keras_skeleton import fill
from tests.foreign import Caffe, Normalising, Padded, foreign_params
from tests.fuzzing import IMAGES, SUFFIXES, fuzz
from tests.networks import random_params
from tests.onnx_forms import Form, model_of, params_of

EXPECTED = Path(__file__).parents[2] / "converters" / "expected"
KINDS = [kind for kind in SUFFIXES if kind not in IMAGES]


def small_network():
    """Few layers and parameters, so that changes hit what matters."""
    data = mx.sym.pad(mx.sym.Variable("data"), mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 0, 1), name="pad")
    data = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), stride=(2, 2), no_bias=True, name="convolution")
    data = mx.sym.clip(mx.sym.BatchNorm(data, fix_gamma=False, eps=1e-5, name="norm"), 0, 6, name="relu6")
    data = data + mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), pad=(1, 1), num_group=4, name="depthwise")
    data = mx.sym.LeakyReLU(mx.sym.BatchNorm(data, name="fixed"), act_type="prelu", name="prelu")
    data = mx.sym.Pooling(data, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention="full", name="max")
    data = mx.sym.Pooling(mx.sym.Activation(data * 0.5, act_type="tanh"), global_pool=True, pool_type="avg")
    data = mx.sym.FullyConnected(mx.sym.Flatten(mx.sym.Dropout(data)), num_hidden=3, name="dense")
    return mx.sym.SoftmaxOutput(data, name="softmax")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The folder seeds/KIND of whole files: a small network, and this repository's, of small widths."""
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
    network = {"channels": (4, 6, 8, 10, 12, 14, 16, 18, 1280), "repeats": (1, 2, 1, 1, 1, 1, 1),
               "strides": "published", "padding": "symmetric", "image_shape": None}
    every = {}, {}
    for name, symbol in (("small", small_network()), ("mobilenetv2", get_symbol(10, **network))):
        arg_params, aux_params = random_params(symbol, (1, 3, 32, 32))
        symbol.save(str(folder / "symbol" / f"{name}-symbol.json"))
        save_checkpoint_params(folder / "params" / f"{name}.params", arg_params, aux_params)
        every[0].update(arg_params), every[1].update(aux_params)
    save_checkpoint_params(folder / "all.params", *every)
    save_sparse(folder / "params" / "sparse.params", *random_params(small_network(), (1, 3, 32, 32)))
    old = json.loads(small_network().tojson())
    del old["attrs"]  # which say of what version it is
    for node in old["nodes"]:
        node["param"] = node.pop("attrs", {})
        node["inputs"] = [entry[:2] for entry in node["inputs"]]
    (folder / "symbol" / "old-symbol.json").write_text(json.dumps(old))
    for kind in ("network", "bound"):
        shutil.copytree(folder / "symbol", folder / kind, dirs_exist_ok=True)
    save_torchvision(checkpoint_arrays.checked(Checkpoint(network, 10, arg_params, aux_params), "seed"),
                     folder / "safetensors" / "x.safetensors")
    small = {**network, "channels": (4, 6, 8, 10, 12, 14, 16, 18, 20), "repeats": REPEATS}
    for kind in ("npz", "keras"):
        params = random_params(get_symbol(10, **small), (1, 3, 32, 32))
        SAVERS[kind](checkpoint_arrays.checked(Checkpoint(small, 10, *params), "seed"), folder / kind)
    for form in (Caffe, Normalising, Padded):
        symbol = form().symbol()
        symbol.save(str(folder / "mxnet" / f"{form.__name__}-symbol.json"))
        every[0].update(foreign_params(symbol, 32)[0]), every[1].update(foreign_params(symbol, 32)[1])
    save_checkpoint_params(folder / "foreign.params", *every)
    for name, form in ONNX_FORMS.items():
        model = model_of(form, params_of(form))
        onnx.helper.set_model_props(model, {"preprocessing": preprocessing_json(Preprocessing())})
        (folder / "onnx" / f"{name}.onnx").write_bytes(model.SerializeToString())
    for path in EXPECTED.glob("keras_?_operators*.xz"):  # fine-tuned classifiers, in which the network is nested
        (folder / "keras" / path.stem).write_bytes(fill(lzma.decompress(path.read_bytes()), 0))
    for path in EXPECTED.glob("keras_*.keras.xz"):
        with zipfile.ZipFile(io.BytesIO(lzma.decompress(path.read_bytes()))) as archive:
            (folder / "keras_config" / f"{path.stem}.json").write_bytes(archive.read("config.json"))
    for name, tiles in {"one": [(4, 2)], "three": [(4, 2), (3, 4), (7, 1)]}.items():
        tuning_records.write(folder / "records" / f"{name}.json", records=list(map(tuning_records.row, tiles)))
    shutil.copy(folder / "symbol" / "small-symbol.json", folder / "calibrated-symbol.json")
    shutil.copy(folder / "all.params", folder / "calibrated-0000.params")
    layers = layers_of(load_network(folder / "calibrated", 0, (1, 3, 32, 32)))
    statistics = Statistics(-1.5, 6.0, np.arange(4), (0.0, 6.0))
    save_calibration(folder / "calibrated", 0, dict.fromkeys(layers, statistics), 16)
    (folder / "calibrated-0000-int8.json").rename(folder / "calibration" / "x.json")
    (folder / "cache" / "key").mkdir(parents=True, mode=0o700)
    (folder / "cache").chmod(0o700)
    for name, content in {"network.so": b"code" * 1000, "graph.json": b"{}"}.items():
        (folder / "cache" / "key" / name).write_bytes(content)
    sums = {path.name: [path.stat().st_size, digest(path, "sha256")] for path in (folder / "cache" / "key").iterdir()}
    (folder / "entry" / "x.json").write_text(json.dumps(sums))
    (folder / "zoo" / "x.toml").write_bytes(MANIFEST.read_bytes())
    save_preprocessing(folder / "preprocess" / "x", Preprocessing())
    save_preprocessing(folder / "preprocess" / "y", Preprocessing(128, 96, (127.5,) * 3, (58.4, 57.1, 57.4)))
    return folder


def save_sparse(path, arg_params, aux_params):
    arrays = {f"{kind}:{name}": mx.nd.array(array).tostype("csr" if array.ndim == 2 else "row_sparse")
              for kind, group in (("arg", arg_params), ("aux", aux_params)) for name, array in group.items()}
    mx.nd.waitall()  # or it saves the shapes of what it still computes
    mx.nd.save(str(path), arrays)


def save_npz_files(checkpoint, folder):
    save_npz(checkpoint, folder / "x.npz")
    np.savez_compressed(folder / "y.npz", **checkpoint.arg_params, **checkpoint.aux_params)


def save_keras_files(checkpoint, folder):
    """As Keras 2, Keras 3 and, in an archive, Keras 3 write them."""
    arrays = {}
    for published, name in source_names(KERAS, REPEATS, False).items():
        array = (checkpoint.arg_params | checkpoint.aux_params)[published]
        if published.endswith("_weight"):
            kind = "fc" if array.ndim == 2 else "depthwise" if "depthwise" in name else "convolution"
            array = array.transpose(np.argsort(KERAS_AXES[kind]))
        arrays.setdefault(name.split("/")[0], {})[name.split("/")[1]] = array
    with h5py.File(folder / "x.h5", "w") as file:
        file.attrs["layer_names"] = list(map(str.encode, arrays))
        for layer, weights in arrays.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{weight}:0".encode() for weight in weights]
            for weight, array in weights.items():
                group[f"{weight}:0"] = array
    with h5py.File(folder / "y.h5", "w") as file:
        for number, (layer, weights) in enumerate(arrays.items()):
            group = next(kind for kind, names in VARIABLES.items()
                         if names[:len(weights)] == tuple(weights) and (kind == "dense") == (len(weights) == 2))
            variables = file.create_group(f"layers/{group}_{number}/vars")
            variables.attrs["name"] = layer
            for i, array in enumerate(weights.values()):
                variables[str(i)] = array
    with zipfile.ZipFile(folder / "z.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "y.h5", "model.weights.h5")


ONNX_FORMS = {
    "folded": Form(opset=13, constants="Constant"), "kept": Form(batchnorm="BatchNormalization", opset=9),
    "normalised": Form(batchnorm="Mul and Add", layout="NHWC", padding="same", pads="Pad", flattening="Squeeze",
                       classifier="MatMul and Add", normalisation="Mul and Add"),
    "quantised": Form(constants="int8 by channel", activation="8 bits", opset=21, pooling="ReduceMean",
                      flattening="Reshape by Shape")}
SAVERS = {"npz": save_npz_files, "keras": save_keras_files}
COUNTS = dict.fromkeys(KINDS, (20, 2000)) | {
    **dict.fromkeys(("params", "safetensors", "symbol", "network", "preprocess"), (20, 10_000)),
    **dict.fromkeys(("mxnet", "onnx", "keras_config"), (20, 5000)),
    "keras": (5, 2000)}  # each is read by a process of its own


@pytest.mark.parametrize(("kind", "count"), [
    pytest.param(kind, count, marks=marks) for kind in KINDS
    for count, marks in zip(COUNTS[kind], ((), (pytest.mark.long, pytest.mark.timeout(1800))))])
def test_damaged_files_are_read_or_refused(seeds, kind, count):
    fuzz(kind, count, seeds.parent)

"""Checkpoints of other MXNet repositories: what is converted answers as the source does, and what is another network is
refused with its first node."""
import json
import shutil

import numpy as np
import onnxruntime
import pytest

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, save
from common.checkpoint.params import load_checkpoint_params, save_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing, save_preprocessing
from common.conversion.convert import convert
from common.conversion.onnx_model import to_onnx
from common.evaluation.score import predict
from common.find_mxnet import mx
from common.images.preprocess import preprocess
from common.inference.network import open_network
from symbols.mobilenetv2 import get_symbol
from tests.foreign import FORMS, SIZE, WIDTHS, Caffe, Foreign, Logits, Normalising, Padded, Plain, save_foreign
from tests.networks import random_params

sym = mx.sym
TOLERANCE = 1e-6


def by_onnxruntime(checkpoint, x):
    model = to_onnx(checkpoint.graph(), checkpoint.arg_params | checkpoint.aux_params, x.shape[1:])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"data": x})[0]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_what_is_converted_answers_as_its_source(tmp_path, form):
    path = save_foreign(tmp_path / "x", form().symbol())
    pixels = np.random.RandomState(1).randint(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    given = {} if form is Normalising else {"mean": (120, 110, 100), "std": (60, 61, 62)}
    checkpoint = convert(path, "mxnet", image_shape=(3, SIZE, SIZE), resize=SIZE, **given)
    save(checkpoint, tmp_path / "y")
    x = np.concatenate([preprocess(image, preprocessing=checkpoint.preprocessing) for image in pixels])
    before = pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) if form is Normalising else x
    expected = predict(tmp_path / "x", 7, before)
    assert expected.std() > 0.01 and expected.max() < 0.9999
    np.testing.assert_allclose(predict(tmp_path / "y", 0, x), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(by_onnxruntime(checkpoint, x), expected, rtol=0, atol=TOLERANCE)
    assert checkpoint.network["activation"] == ("relu" if form is Caffe else "relu6")
    assert checkpoint.network["padding"] == ("same" if form is Padded else "symmetric")


@pytest.mark.parametrize("name, activation, strides", [("caffe-relu-fc7", "relu", "first"),
                                                       ("gluon-expandedconv", "relu6", "published")])
def test_symbols_of_two_public_repositories(testdata, tmp_path, name, activation, strides):
    symbol = testdata / "cases" / "foreign" / f"{name}-symbol.json"
    path = save_foreign(tmp_path / "x", mx.sym.load(str(symbol)))
    shutil.copy(symbol, tmp_path / "x-symbol.json")
    checkpoint = convert(path, "mxnet")
    assert (checkpoint.network["activation"], checkpoint.network["strides"]) == (activation, strides)
    save(checkpoint, tmp_path / "y")
    x = np.random.RandomState(1).normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    expected = predict(tmp_path / "x", 7, x)
    assert expected.max() > 2 / 1000
    np.testing.assert_allclose(predict(tmp_path / "y", 0, x), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(by_onnxruntime(checkpoint, x), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("form", [Caffe, Logits], ids=lambda form: form.__name__)
def test_llvm_answers_as_the_source(tmp_path, form):
    path = save_foreign(tmp_path / "x", form().symbol())
    save(convert(path, "mxnet"), tmp_path / "y")
    x = np.random.RandomState(1).normal(0, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
    compiled = open_network(tmp_path / "y", 0, x.shape, "llvm", cache=False)
    np.testing.assert_allclose(compiled.predict(x), predict(tmp_path / "x", 7, x), rtol=0, atol=TOLERANCE)


def test_the_exported_network_of_mxnets_zoo(tmp_path):
    net = mx.gluon.model_zoo.vision.mobilenet_v2_0_5(classes=5)
    net.initialize()
    net.hybridize()
    net(mx.nd.zeros((1, 3, SIZE, SIZE)))
    net.export(str(tmp_path / "zoo"), epoch=7)
    path = save_foreign(tmp_path / "x", mx.sym.load(str(tmp_path / "zoo-symbol.json")))
    save(convert(path, "mxnet"), tmp_path / "y")
    x = np.random.RandomState(1).normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    expected = predict(tmp_path / "x", 7, x)
    assert expected.std() > 0.01
    np.testing.assert_allclose(predict(tmp_path / "y", 0, x), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options", [{"strides": "first", "activation": "relu"}, {"padding": "same"}])
def test_a_checkpoint_of_this_repository_comes_in_as_it_was(tmp_path, options):
    """SAME padding is that of the crop which PREFIX-preprocess.json tells."""
    network = {"channels": (8, *WIDTHS, 64), "repeats": (1, 2, 1, 2, 1, 1, 1), "strides": "published",
               "padding": "symmetric", "image_shape": (3, 96, 96) if "padding" in options else None,
               "activation": "relu6", **options}
    params = random_params(get_symbol(5, **network), (1, 3, 96, 96))
    checkpoint = Checkpoint(network, 5, *params, Preprocessing(110, 96, (1.0, 2.0, 3.0), (4.0, 5.0, 6.5)))
    save(checkpoint, tmp_path / "x")
    again = convert(tmp_path / "x-0000.params", "mxnet")
    assert again._replace(arg_params={}, aux_params={}) == checkpoint._replace(arg_params={}, aux_params={})
    for group, wanted in zip(again[2:4], checkpoint[2:4]):
        assert set(group) == set(wanted)
        for name in wanted:
            np.testing.assert_array_equal(group[name], wanted[name], err_msg=name)


def test_what_the_files_say_of_images(tmp_path):
    """The rest is assumed aloud; what the symbol does to images comes after what the file says."""
    lines = []
    path = save_foreign(tmp_path / "x", Foreign().symbol())
    assert convert(path, "mxnet", tell=lines.append).preprocessing == Preprocessing()
    assert all(flag in lines[0] for flag in ("--image-shape", "--resize", "--rgb-mean", "--rgb-std"))
    save_preprocessing(tmp_path / "x", Preprocessing(80, 64, (1.0, 2.0, 3.0), (4.0, 5.0, 8.0)))
    assert convert(path, "mxnet", tell=lines.append).preprocessing == Preprocessing(80, 64, (1, 2, 3), (4, 5, 8))
    assert lines[1:] == []

    class Scaled(Foreign):
        def images(self, data):
            return (data + 0.5) / 2
    Scaled().symbol().save(f"{tmp_path}/x-symbol.json")
    found = convert(path, "mxnet").preprocessing
    assert (found.mean, found.std) == ((-1, -0.5, -1), (8, 10, 16))
    path = save_foreign(tmp_path / "y", Padded().symbol())
    with pytest.raises(InputError, match="--image-shape"):
        convert(path, "mxnet")
    assert convert(save_foreign(tmp_path / "z", Plain().symbol()), "mxnet").preprocessing.crop == 64


class Leaky(Foreign):
    def activation(self, data, name):
        return sym.LeakyReLU(data, slope=0.1, name=name)


class Swapped(Foreign):
    """An activation before BatchNorm."""
    def norm(self, data, name):
        return super().norm(sym.clip(data, 0, 6, name=f"{name}/early"), name)


class Concatenated(Foreign):
    def add(self, data, result, name):
        return sym.concat(data, result, name=name)


class FirstShortcut(Foreign):
    def block(self, data, name, channels, out, stride, shortcut, factor):
        return super().block(data, name, channels, out, stride, shortcut or name == "b0.0", factor)


class Activated(Foreign):
    """An activation after a sum."""
    def add(self, data, result, name):
        return sym.clip(super().add(data, result, name), 0, 6, name="after")


class FromElsewhere(Foreign):
    def add(self, data, result, name):
        return super().add(sym.clip(data, 0, 6, name="other"), result, name)


class MaxPooled(Foreign):
    def pool(self, data):
        return sym.Pooling(data, global_pool=True, pool_type="max", kernel=(1, 1), name="pool")


class TwoLayers(Foreign):
    def head(self, data):
        data = sym.FullyConnected(self.pool(data), num_hidden=7, name="hidden")
        return sym.SoftmaxOutput(sym.FullyConnected(data, num_hidden=5, name="dense"))


class Dilated(Foreign):
    def unit(self, data, name, channels, kernel=1, *arguments, **options):
        if name != "b3.1/dw":
            return super().unit(data, name, channels, kernel, *arguments, **options)
        data = sym.Convolution(data, num_filter=channels, num_group=channels, kernel=(3, 3), pad=(2, 2), dilate=(2, 2),
                               name=name)
        return self.activation(self.norm(data, name), name)


class Mixed(Foreign):
    def activation(self, data, name):
        return sym.relu(data, name=name) if name == "b3.1/dw" else super().activation(data, name)


class Grouped(Foreign):
    def unit(self, data, name, channels, kernel=1, stride=1, groups=1, linear=False):
        return super().unit(data, name, channels, kernel, stride, 2 if name == "b3.1/in" else groups, linear)


class Tempered(Foreign):
    def head(self, data):
        return sym.softmax(sym.FullyConnected(self.pool(data), num_hidden=5), temperature=2.0, name="warm")


class OverOne(Foreign):
    """A softmax over the one column of a map."""
    def head(self, data):
        return sym.softmax(sym.Convolution(self.pool(data), kernel=(1, 1), num_filter=5), axis=-1, name="none")


class Uneven(Foreign):
    def unit(self, data, name, channels, kernel=1, stride=1, groups=1, linear=False):
        if name != "b3.1/dw":
            return super().unit(data, name, channels, kernel, stride, groups, linear)
        data = sym.pad(data, mode="constant", pad_width=(0, 0, 0, 0, 2, 0, 0, 2))
        data = sym.Convolution(data, num_filter=channels, num_group=channels, kernel=(3, 3), name=name)
        return self.activation(self.norm(data, name), name)


class Inverted(Foreign):
    def images(self, data):
        return 255 - data


class Reflected(Foreign):
    def images(self, data):
        return data * -1


@pytest.mark.parametrize("form, words", [
    (Leaky, ["'conv1' (LeakyReLU)"]), (Swapped, ["conv1/bn", "BatchNorm"]), (Concatenated, ["'b1.1' (Concat)"]),
    (FirstShortcut, ["b0.0/sum", "an addition", "a convolution"]), (Activated, ["'after' (clip)"]),
    (FromElsewhere, ["b1.1/in"]), (MaxPooled, ["'pool' (Pooling)", "a pooling over the map"]),
    (TwoLayers, ["'dense' (FullyConnected)", "a classifier", "a softmax"]), (Dilated, ["'b3.1/dw' (Convolution)"]),
    (Mixed, ["'b3.1/dw' (Convolution)", "relu6"]), (Grouped, ["'b3.1/in' (Convolution)"]),
    (Tempered, ["'warm' (softmax)"]), (OverOne, ["'none' (softmax)"]), (Uneven, ["padded"]),
    (Inverted, ["(_rminus_scalar)"]), (Reflected, ["-1.0", "normalisation"]),
], ids=lambda value: getattr(value, "__name__", ""))
def test_the_first_node_of_another_network_is_named(tmp_path, form, words):
    path = save_foreign(tmp_path / "x", form().symbol())
    with pytest.raises(InputError) as error:
        convert(path, "mxnet")
    line = str(error.value)
    assert line.startswith(f"{tmp_path}/x-symbol.json: ") and "\n" not in line
    assert all(word in line for word in words), line


def test_mobilenet_v1_is_refused(tmp_path):
    path = save_foreign(tmp_path / "x", mx.gluon.model_zoo.vision.mobilenet0_25(classes=5)(sym.Variable("data")))
    with pytest.raises(InputError, match="_conv3_fwd.* is a depthwise convolution where MobileNetV2 has a convolution"):
        convert(path, "mxnet")


def without_symbol(tmp_path):
    (tmp_path / "x-symbol.json").unlink()


def lacking(tmp_path):
    arg_params, aux_params = load_checkpoint_params(tmp_path / "x-0007.params")
    del arg_params["b3.1/dw_weight"]
    save_checkpoint_params(tmp_path / "x-0007.params", arg_params, aux_params)


def other_shape(tmp_path):
    arg_params, aux_params = load_checkpoint_params(tmp_path / "x-0007.params")
    arg_params["b3.1/dw/bn_beta"] = arg_params["b3.1/dw/bn_beta"][:1]
    save_checkpoint_params(tmp_path / "x-0007.params", arg_params, aux_params)


def negative(tmp_path):
    arg_params, aux_params = load_checkpoint_params(tmp_path / "x-0007.params")
    aux_params["b3.1/dw/bn_moving_var"][3] = -1
    save_checkpoint_params(tmp_path / "x-0007.params", arg_params, aux_params)


def sums_of_sums(tmp_path):
    """A shortcut from two blocks before."""
    graph = json.loads((tmp_path / "x-symbol.json").read_text())
    nodes = graph["nodes"]
    sums = [node for node in nodes if node["op"] == "elemwise_add"]
    sums[1]["inputs"][0] = sums[0]["inputs"][0]
    (tmp_path / "x-symbol.json").write_text(json.dumps(graph))


@pytest.mark.parametrize("change, words", [
    (without_symbol, ["x-symbol.json"]), (lacking, ["b3.1/dw", "parameters"]), (other_shape, ["b3.1/dw", "BatchNorm"]),
    (negative, ["b3.1/dw", "-1"]), (sums_of_sums, ["b3.1/sum", "shortcut"])])
def test_damaged_checkpoints(tmp_path, change, words):
    path = save_foreign(tmp_path / "x", Foreign().symbol())
    change(tmp_path)
    with pytest.raises(InputError) as error:
        convert(path, "mxnet")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_name_that_is_no_checkpoints(tmp_path):
    shutil.copy(save_foreign(tmp_path / "x", Foreign().symbol()), tmp_path / "weights.params")
    with pytest.raises(InputError, match="weights.params.*PREFIX-0000.params"):
        convert(tmp_path / "weights.params", "mxnet")

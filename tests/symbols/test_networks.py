"""Both definitions against the published names and shapes, and against an independent forward pass."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.find_mxnet import mx
from symbols import mobilenetv2, mobilenetv2_gluon
from symbols.mobilenetv2_json import get_graph
from tests.conftest import ROOT
from tests.networks import forward, random_params

DEFINITIONS = (mobilenetv2, mobilenetv2_gluon)


def bind_and_run(symbol, params, x):
    executor = symbol.simple_bind(mx.cpu(), data=x.shape, grad_req="null")
    executor.copy_params_from(*({name: mx.nd.array(array) for name, array in part.items()} for part in params))
    return executor.forward(is_train=False, data=mx.nd.array(x))[0].asnumpy()


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize(("multiplier", "count"), [(1.0, 3_505_960), (1.4, 6_099_079)])
def test_published_names_shapes_and_parameter_count(definition, multiplier, count):
    published = json.loads((ROOT / "data" / "published" /
                            f"published-parameters-{str(multiplier).replace('.', '_')}.json").read_text())
    symbol = definition.get_symbol(multiplier=multiplier)
    arg_shapes, out_shapes, aux_shapes = symbol.infer_shape(data=(1, 3, 224, 224))
    arguments = {name: list(shape) for name, shape in zip(symbol.list_arguments(), arg_shapes)
                 if name not in ("data", "softmax_label")}
    states = {name: list(shape) for name, shape in zip(symbol.list_auxiliary_states(), aux_shapes)}
    assert arguments == published["arguments"]
    assert states == published["auxiliary_states"]
    assert out_shapes == [(1, 1000)]
    assert symbol.list_outputs() == ["softmax_output"]
    assert sum(np.prod(shape) for shape in arguments.values()) == count


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_operators_have_the_names_and_attributes_of_a_published_checkpoint(definition, testdata):
    published = json.loads((testdata / "pretrained" / "imagenet1k-mnetv2-1_0-symbol.json").read_text())
    ours = json.loads(definition.get_symbol().tojson())

    def summary(graph):
        keys = ("kernel", "stride", "pad", "num_group", "num_filter", "eps", "fix_gamma", "a_min", "a_max")
        return [(node["op"], node["name"], [node.get("attrs", {}).get(key) for key in keys])
                for node in graph["nodes"] if node["op"] != "null"]
    assert summary(ours) == summary(published)


@pytest.mark.parametrize("options", [
    {}, {"num_classes": 10, "multiplier": 0.35, "padding": "same", "image_shape": (3, 97, 64)},
    {"multiplier": 1.4, "strides": "first", "activation": "relu"},
    {"channels": (32, 24, 32, 40, 72, 112, 184, 352, 1280), "repeats": (1, 3, 5, 6, 5, 5, 1)},
])
def test_the_json_made_without_mxnet_is_what_mxnet_writes(options):
    assert get_graph(**options) == json.loads(mobilenetv2.get_symbol(**options).tojson())


def check_agreement(multiplier, strides, padding, size, batch=2, seed=0, activation="relu6"):
    options = dict(num_classes=10, multiplier=multiplier, strides=strides, padding=padding, image_shape=(3, *size),
                   activation=activation)
    symbol = mobilenetv2.get_symbol(**options)
    x = np.random.RandomState(seed + 1).normal(0, 1, (batch, 3, *size)).astype(np.float32)
    params = random_params(symbol, x.shape, seed)
    everything = {**params[0], **params[1]}
    expected = forward(everything, x, strides, padding, activation=activation)
    assert expected.std() > 0.01 and expected.max() < 0.9999, "too flat or too steep an answer to tell anything"

    net = mobilenetv2_gluon.MobileNetV2(**options)
    net.initialize()
    for name, parameter in net.collect_params().items():
        parameter.set_data(mx.nd.array(everything[name]))
    gluon = mx.nd.softmax(net(mx.nd.array(x))).asnumpy()
    net.hybridize()
    hybridized = mx.nd.softmax(net(mx.nd.array(x))).asnumpy()
    traced = bind_and_run(mobilenetv2_gluon.get_symbol(**options), params, x)
    for output in (bind_and_run(symbol, params, x), gluon, hybridized, traced):
        np.testing.assert_allclose(output, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("multiplier", "strides", "padding", "size", "activation"), [
    (0.35, "published", "symmetric", (64, 64), "relu6"),
    (0.35, "first", "same", (97, 97), "relu6"),
    (1.0, "published", "same", (64, 50), "relu6"),
    (1.0, "first", "symmetric", (47, 64), "relu"),
    (1.4, "published", "symmetric", (33, 64), "relu6"),
    (0.73, "published", "same", (80, 112), "relu"),
])
def test_symbol_gluon_and_numpy_agree(multiplier, strides, padding, size, activation):
    check_agreement(multiplier, strides, padding, size, activation=activation)


def test_the_options_make_a_difference_that_the_tolerance_sees():
    symbol = mobilenetv2.get_symbol(num_classes=10, multiplier=0.35)
    x = np.random.RandomState(1).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    arg_params, aux_params = random_params(symbol, x.shape)
    answers = [forward({**arg_params, **aux_params}, x, strides, padding)
               for strides in ("published", "first") for padding in ("symmetric", "same")]
    answers.append(forward({**arg_params, **aux_params}, x, activation="relu"))
    for i, answer in enumerate(answers):
        assert all(np.abs(answer - other).max() > 1e-3 for other in answers[:i])


@pytest.mark.long
@pytest.mark.parametrize("multiplier", [0.1, 0.35, 0.5, 0.77, 1.0, 1.4, 2.0])
@pytest.mark.parametrize("strides", ["published", "first"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [(32, 32), (97, 64), (160, 240), (224, 224)])
def test_symbol_gluon_and_numpy_agree_everywhere(multiplier, strides, padding, size):
    check_agreement(multiplier, strides, padding, size, batch=1, seed=int(multiplier * 100))


@pytest.mark.parametrize("strides", ["published", "first"])
def test_feature_maps_at_four_strides(strides):
    names = mobilenetv2.feature_names(strides)
    assert list(names) == [4, 8, 16, 32]
    features = mobilenetv2.get_features(strides=strides)
    assert features.list_outputs() == list(names.values())
    _, shapes, _ = features.infer_shape(data=(1, 3, 256, 192))
    assert [shape[2:] for shape in shapes] == [(256 // stride, 192 // stride) for stride in names]
    channels = [24, 32, 96, 320] if strides == "published" else [24, 64, 96, 320]
    assert [shape[1] for shape in shapes] == channels
    for definition in DEFINITIONS:
        outputs = definition.get_symbol(strides=strides).get_internals().list_outputs()
        assert set(names.values()) <= set(outputs)


def test_feature_names_of_other_repeats():
    repeats = (1, 3, 2, 4, 3, 3, 1)
    names = mobilenetv2.feature_names(repeats=repeats)
    assert list(names.values()) == mobilenetv2.get_features(0.1, repeats=repeats).list_outputs()
    assert names != mobilenetv2.feature_names()


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("arguments", [{"multiplier": 3}, {"num_classes": 0}, {"num_classes": 2.5}])
def test_values_out_of_range_are_refused(definition, arguments):
    with pytest.raises(ValueError, match="must be"):
        definition.get_symbol(**arguments)


def test_gluon_refuses_images_that_are_too_small_or_of_another_size():
    net = mobilenetv2_gluon.MobileNetV2(10, 0.1)
    net.initialize()
    with pytest.raises(ValueError, match="28 or more"):
        net(mx.nd.zeros((1, 3, 27, 64)))
    net = mobilenetv2_gluon.MobileNetV2(10, 0.1, padding="same", image_shape=(3, 64, 64))
    net.initialize()
    with pytest.raises(ValueError, match="laid out for"):
        net(mx.nd.zeros((1, 3, 65, 64)))
    assert net(mx.nd.zeros((1, 3, 96, 128))).shape == (1, 10)  # padded as 64x64 is


def test_gluon_loads_saves_and_exports_the_same_checkpoints(checkpoint, tmp_path):
    x = mx.nd.random.normal(shape=(2, 3, 64, 64))
    net = mobilenetv2_gluon.MobileNetV2(10, 0.35)
    net.load_parameters(f"{checkpoint}-0000.params")
    net.hybridize()
    expected = net(x).asnumpy()
    saved = mx.nd.load(f"{checkpoint}-0000.params")

    net.export(str(tmp_path / "exported"), epoch=7)
    net.save_parameters(str(tmp_path / "saved.params"))
    for path in (tmp_path / "exported-0007.params", tmp_path / "saved.params"):
        written = mx.nd.load(str(path))
        assert written.keys() == saved.keys()
        assert all((written[name].asnumpy() == saved[name].asnumpy()).all() for name in saved)
    imported = mx.gluon.SymbolBlock.imports(str(tmp_path / "exported-symbol.json"), ["data"],
                                            str(tmp_path / "exported-0007.params"))
    np.testing.assert_allclose(imported(x).asnumpy(), expected, atol=1e-4)


def test_gluon_trains_with_a_trainer():
    mx.random.seed(0)
    net = mobilenetv2_gluon.MobileNetV2(2, 0.1)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net.hybridize()
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.02, "momentum": 0.9})
    loss_function = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    label = mx.nd.array([0, 1] * 4)
    x = mx.nd.random.normal(shape=(8, 3, 64, 64)) + label.reshape((-1, 1, 1, 1))
    losses = []
    for _ in range(20):
        with mx.autograd.record():
            loss = loss_function(net(x), label)
        loss.backward()
        trainer.step(8)
        losses.append(loss.mean().asscalar())
    assert losses[-1] < losses[0] / 2
    assert (net.collect_params()["first-3x3-conv-batchnorm_moving_mean"].data().asnumpy() != 0).any()


def test_the_originals_generator():
    """Names of layers as its users ask for them; the same network."""
    generator = mobilenetv2.MNetV2Gen((224, 224), 0.25)
    assert generator(10).tojson() == mobilenetv2.get_symbol(10, 0.25).tojson()
    layer = generator(class_num=10, layer_out="seq-2-block2-shortcut")
    assert layer.infer_shape(data=(1, 3, 224, 224))[1] == [(1, 8, 28, 28)]
    names = [layer.name for layer in generator(layer_out=["seq-1-block1-shortcut", " seq-3-block3-shortcut "])]
    assert names == ["seq-1-block1-shortcut", "seq-3-block3-shortcut"]


@pytest.mark.parametrize("definition", [mobilenetv2, mobilenetv2_gluon])
def test_keywords_of_other_networks_are_named_and_others_refused(definition, caplog):
    caplog.set_level("INFO")
    flags = {"network": "mobilenetv2", "num_layers": 50, "image_shape": "3,64,64", "lr": 0.1, "num_classes": 4}
    assert definition.get_symbol(**flags).infer_shape(data=(1, 3, 64, 64))[1] == [(1, 4)]
    assert [record.getMessage() for record in caplog.records] == ["MobileNetV2 has no num_layers=50: left out"]
    with pytest.raises(TypeError, match="multiplyer"):
        definition.get_symbol(multiplyer=0.5)


def test_gluon_users_find_features_and_output():
    """As in Gluon's model zoo: `classes`, and another classifier in the place of the last block."""
    net = mobilenetv2_gluon.MobileNetV2(classes=7, multiplier=0.1)
    net.initialize()
    x = mx.nd.random.uniform(shape=(2, 3, 64, 64))
    features = net.features(x)
    assert features.shape == (2, 1280, 1, 1) and net(x).shape == (2, 7)
    np.testing.assert_array_equal(net.output(features).asnumpy(), net(x).asnumpy())
    net.output = mx.gluon.nn.Dense(3)
    net.output.initialize()
    net.hybridize()
    assert net(x).shape == (2, 3)


def test_the_folder_works_in_any_project(tmp_path):
    """Under another name, beside a package called common that is not ours."""
    shutil.copytree(Path(mobilenetv2.__file__).parent, tmp_path / "nets", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    code = ("from nets.mobilenetv2 import get_symbol\nfrom nets.mobilenetv2_gluon import MobileNetV2\n"
            "from nets.mobilenetv2_json import get_graph\nimport sys\n"
            "assert not {'symbols', 'common'} & set(sys.modules)\n"
            "print(get_symbol().name, len(MobileNetV2().collect_params().keys()), len(get_graph()['nodes']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True)
    assert len(done.stdout.split()) == 3, done.stderr

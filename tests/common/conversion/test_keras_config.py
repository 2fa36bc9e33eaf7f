"""What the configuration of a Keras model says, and what it may not say: real ones, changed in one place."""
import io
import json
import lzma
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.base.errors import InputError
from common.conversion.keras_config import MAX_CONFIGURATION, read_model

EXPECTED = Path(__file__).parents[2] / "converters" / "expected"


def configuration(name):
    content = io.BytesIO(lzma.decompress((EXPECTED / f"{name}.xz").read_bytes()))
    if zipfile.is_zipfile(content):
        return json.loads(zipfile.ZipFile(content).read("config.json"))
    with h5py.File(content) as file:
        return json.loads(file.attrs["model_config"])


def layer(model, name):
    """That of the name, or the first of a kind, in the model or those within it."""
    for entry in model["config"]["layers"]:
        if name in (entry["config"].get("name"), entry["class_name"]):
            return entry
        if "layers" in entry["config"] and (found := layer(entry, name)):
            return found


def read(model, arrays=None):
    return read_model(json.dumps(model), lambda layer, name: arrays[name])


def changed(name, of, **attributes):
    """The configuration with other attributes of a layer."""
    model = configuration(name)
    layer(model, of)["config"].update(attributes)
    return model


def other_kind(of, kind, **attributes):
    model = changed("keras_3_operators.keras", of, **attributes)
    layer(model, of)["class_name"] = kind
    return model


def called(name, of, change):
    """With another call of a layer."""
    model = configuration(name)
    change(layer(model, of)["inbound_nodes"])
    return model


@pytest.mark.parametrize("name", ["keras_3_operators.keras", "keras_2_operators.keras", "keras_213_operators.keras"])
def test_size_preprocessing_and_layers(name):
    model = read(configuration(name))
    assert model.description == {"notes": [], "image_shape": (3, 40, 52), "strides": "published",
                                 "preprocessing": {"mean": (127.5,) * 3, "std": (127.5,) * 3}}
    assert len(model.layers) == len(set(model.layers)) == 105
    assert (model.layers[0], model.layers[-2:]) == ("Conv1", ["Conv_1_bn", "dog_or_cat"])


def test_statistics_are_arrays_or_numbers():
    arrays = {"mean": np.array([1, 2, 3.0]), "variance": np.array([4, 9, 0.0])}
    expected = {"mean": (1, 2, 3), "std": (2, 3, 1e-7)}
    assert read(configuration("keras_3_normalization.keras"), arrays).description["preprocessing"] == expected
    model = changed("keras_3_normalization.keras", "Normalization", mean=[1, 2, 3], variance=[[[4, 9, 0]]])
    assert read(model).description["preprocessing"] == expected


def test_operators_of_the_first_tensorflow_2():
    """Which wrote what the network is called on as a node of its graph."""
    model = configuration("keras_2_operators.keras")
    for name, operator, constant in (("tf.math.truediv", "RealDiv", 127.5), ("tf.math.subtract", "Sub", 1.0)):
        entry = layer(model, name)
        entry["class_name"] = "TensorFlowOpLayer"
        entry["config"] = {"name": name, "node_def": {"name": name, "op": operator}, "constants": {"1": constant}}
        entry["inbound_nodes"] = [[[entry["inbound_nodes"][0][0], 0, 0, {}]]]
    assert read(model).description["preprocessing"] == {"mean": (127.5,) * 3, "std": (127.5,) * 3}


def test_an_image_size_of_the_network_within_is_the_models():
    model = changed("keras_3_operators.keras", "InputLayer", batch_shape=[None, None, None, 3])
    assert read(model).description["image_shape"] == (3, 40, 52)
    for entry in model["config"]["layers"]:
        for inner in (entry, *entry["config"].get("layers", ())):
            if inner["class_name"] == "InputLayer":
                inner["config"]["batch_shape"] = [None, None, None, 3]
    with pytest.raises(InputError, match="'block_3_pad'"):  # as for 40x52, but not for sizes in general
        read(model)
    for entry in layer(model, "mobilenetv2_0.35_40")["config"]["layers"]:
        if entry["class_name"] == "ZeroPadding2D":
            entry["config"]["padding"] = [[0, 1], [0, 1]]
    found = read(model)
    assert "image_shape" not in found.description and "32" in found.description["notes"][0]


@pytest.mark.parametrize("model, words", [
    (other_kind("true_divide", "Lambda"), ("'true_divide'", "never run")),
    (other_kind("true_divide", "GetItem"), ("'true_divide'", "'GetItem'")),
    (other_kind("GlobalAveragePooling2D", "GlobalMaxPooling2D"), ("'GlobalMaxPooling2D'",)),
    (other_kind("dropout", "Dense", units=64, activation="relu"), ("'dropout'", "'relu'")),
    (other_kind("dropout", "Dense", units=64, activation="linear"), ("'dog_or_cat'", "second")),
    (other_kind("dropout", "Softmax"), ("'dropout'", "'Softmax'")),
    (other_kind("dog_or_cat", "Dropout"), ("classifier",)),
    (other_kind("dog_or_cat", "Custom>Dense"), ("'Custom>Dense'",)),
    (changed("keras_3_operators.keras", "dog_or_cat", activation="sigmoid"), ("'dog_or_cat'", "'sigmoid'")),
    (changed("keras_3_operators.keras", "dog_or_cat", units=1), ("'dog_or_cat'", "softmax")),
    (changed("keras_3_operators.keras", "Conv1", strides=[1, 1]), ("'Conv1'", "strides")),
    (changed("keras_3_operators.keras", "block_5_expand", dilation_rate=[2, 2]), ("'block_5_expand'", "dilation")),
    (changed("keras_3_operators.keras", "block_5_depthwise", strides=2), ("'block_5_depthwise'", "strides")),
    (changed("keras_3_operators.keras", "block_3_depthwise", strides=1), ("'block_3_depthwise'", "strides")),
    (changed("keras_3_operators.keras", "block_5_expand_BN", epsilon=1e-5), ("'block_5_expand_BN'", "epsilon")),
    (changed("keras_3_operators.keras", "block_5_expand_relu", max_value=None), ("'block_5_expand_relu'", "max")),
    (changed("keras_3_operators.keras", "block_3_pad", padding=[[1, 1], [0, 1]]), ("'block_3_pad'", "padding")),
    (changed("keras_3_operators.keras", "InputLayer", batch_shape=[None, 20, 52, 3]), ("20x52",)),
    (changed("keras_3_normalization.keras", "Normalization", mean=[1, 2], variance=[1, 2]), ("'normalization'",)),
    (changed("keras_3_normalization.keras", "Normalization", mean=0, variance=-1), ("'normalization'",)),
    (changed("keras_3_normalization.keras", "Normalization", mean=0, variance=1, axis=1), ("'normalization'", "axis")),
    (changed("keras_3_sequential.h5", "Rescaling", scale=0), ("'rescaling",)),
    (changed("keras_3_sequential.h5", "Rescaling", scale=-1 / 127.5), ("'rescaling",)),
    (changed("keras_3_sequential.h5", "Rescaling", scale=10 ** 400), ("'rescaling",)),
    (called("keras_3_operators.keras", "true_divide", lambda nodes: nodes[0]["args"].pop()), ("'true_divide'",)),
    (called("keras_3_operators.keras", "true_divide", lambda nodes: nodes[0]["args"].reverse()), ("'true_divide'",)),
    (called("keras_3_operators.keras", "subtract", lambda nodes: nodes.append(nodes[0])), ("'subtract'", "2 times")),
    (called("keras_3_operators.keras", "block_2_add", lambda nodes: nodes[0]["args"][0].reverse()), None),
    (called("keras_3_operators.keras", "block_2_add", lambda nodes: nodes[0]["args"][0].pop()), ("'block_2_add'",)),
    (called("keras_2_operators.keras", "dropout", lambda nodes: nodes[0][0].__setitem__(0, "x\n")),
     ("'dropout'", r"'x\n'")),
    (called("keras_2_operators.keras", "dropout", lambda nodes: nodes[0][0].__setitem__(3, {"training": True})),
     ("'dropout'", "training")),
], ids=lambda value: value and (value if isinstance(value, tuple) else "model"))
def test_what_the_network_cannot_be_is_refused_with_the_layers_name(model, words):
    if words is None:  # an order that changes nothing
        assert read(model).layers
        return
    with pytest.raises(InputError) as error:
        read(model)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_other_models_are_refused():
    model = configuration("keras_3_operators.keras")

    def answering(layers):
        return model | {"config": model["config"] | {"output_layers": layers}}

    for other, words in (
            (model | {"class_name": "MyModel"}, "functional"),
            (answering([["dropout", 0, 0], ["dog_or_cat", 0, 0]]), "2 outputs"),
            (answering(["dropout", 0, 0]), "'dog_or_cat'")):
        with pytest.raises(InputError, match=words):
            read(other)


@pytest.mark.parametrize("text", [
    "", "{", "5", "null", "[]", '{"class_name": "Sequential"}', "[" * 200_000, "9" * 5000, b"\xff", 5, None,
    '{"class_name": "Sequential", "config": {"layers": [{}]}}', " " * (MAX_CONFIGURATION + 1)],
    ids=lambda text: str(text)[:20])
def test_what_is_no_configuration_is_refused_in_one_line(text):
    with pytest.raises(InputError) as error:
        read_model(text, None)
    assert str(error.value) and "\n" not in str(error.value)

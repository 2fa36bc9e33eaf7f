"""The converters against what the real frameworks answered, without these frameworks: weights are drawn anew from the
seed for the names that the frameworks gave, and written as their files are. tests/converters/expected was made by
`python -m tests.converters.frameworks --expected tests/converters/expected` under the frameworks' Python."""
import json
import lzma
import re
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import save_file

from common.base.errors import InputError
from common.checkpoint.preprocessing import load_preprocessing
from common.conversion import convert as conversion
from tests.converters import keras_skeleton
from tests.converters.checks import TOLERANCE, answer, answer_to, assert_same_answer, convert, softmax
from tests.converters.facts import ONNX, read_facts
from tests.converters.onnx_skeleton import fill as fill_onnx
from tests.converters.random_weights import images
from tests.converters.tflite_skeleton import fill

EXPECTED = Path(__file__).parent / "expected"


def write_safetensors(path, facts, weights):
    counters = {name.replace("running_var", "num_batches_tracked"): np.zeros((), np.int64)
                for name in weights if name.endswith("running_var")}
    save_file(weights | counters, path)


def write_legacy_h5(path, facts, weights):
    """As the files that Keras publishes: written by Keras 2, from a definition that named the layers otherwise."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [published(layer).encode() for layer in facts["layers"]]
        for layer in facts["layers"]:
            group = file.create_group(published(layer))
            names = {f"{published(layer)}/{'depthwise_' * ('depthwise/' in name)}{name.split('/')[1]}:0": array
                     for name, array in weights.items() if name.split("/")[0] == layer}
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in names.items():
                group[name] = array


def published(layer):
    """block_3_expand -> mobl3_conv_3_expand, block_3_expand_BN -> bn3_conv_3_bn_expand."""
    if layer == "predictions":
        return "Logits"
    match = re.fullmatch("(?:block_(\\d+)|expanded_conv)_([a-z]+)(_BN)?", layer)
    if not match:
        return layer
    block = match[1] or 0
    return f"bn{block}_conv_{block}_bn_{match[2]}" if match[3] else f"mobl{block}_conv_{block}_{match[2]}"


def write_keras_3(path, facts, weights):
    with h5py.File(path, "w") as file:
        for group, layer in facts["groups"].items():
            variables = file.create_group(f"layers/{group}/vars")
            variables.attrs["name"] = layer
            for number, name in enumerate(name for name in weights if name.split("/")[0] == layer):
                variables[str(number)] = weights[name]


@pytest.mark.parametrize("expected, kind, file, write", [
    ("torchvision", "torchvision", "weights.safetensors", write_safetensors),
    ("timm", "timm", "weights.safetensors", write_safetensors),
    ("timm-110d", "timm", "weights.safetensors", write_safetensors),
    ("keras", "keras", "legacy.h5", write_legacy_h5),
    ("keras", "keras", "model.weights.h5", write_keras_3),
])
def test_a_file_written_anew_answers_as_the_framework_did(tmp_path, expected, kind, file, write):
    facts, weights, pixels, logits = read_facts(EXPECTED / f"{expected}.json")
    write(tmp_path / file, facts, weights)
    convert(tmp_path / file, tmp_path / "converted", kind, "--image-shape", "3,{0},{0}".format(facts["size"]))
    assert_same_answer(answer(tmp_path / "converted", pixels), logits)
    assert load_preprocessing(tmp_path / "converted")[:2] == (46, facts["size"])  # as 256 and 224


@pytest.mark.parametrize("file, write", [("legacy.h5", write_legacy_h5), ("model.weights.h5", write_keras_3)])
def test_without_a_size_it_is_asked_for(tmp_path, file, write):
    """SAME padding depends on it."""
    facts, weights, _, _ = read_facts(EXPECTED / "keras.json")
    write(tmp_path / file, facts, weights)
    with pytest.raises(InputError, match=f"{file}: does not say .* give --image-shape"):
        conversion.convert(tmp_path / file, "keras")


@pytest.mark.parametrize("file", sorted(path.stem for path in EXPECTED.glob("keras_*.xz")))
def test_a_fine_tuned_classifier_answers_as_keras_did(tmp_path, file):
    """Real files of Keras, in which the network is nested, with weights drawn anew; by themselves they say all, but
    that .weights.h5 has nothing but weights."""
    facts = json.loads((EXPECTED / f"{file}.json").read_text())
    height, width = facts["size"]
    content = keras_skeleton.fill(lzma.decompress((EXPECTED / f"{file}.xz").read_bytes()), facts["seed"])
    (tmp_path / file).write_bytes(content)
    flags = ["--image-shape", f"3,{height},{width}"] if file.endswith(".weights.h5") else []
    convert(tmp_path / file, tmp_path / "converted", "keras", *flags)
    pixels = images(max(height, width), facts["seed"])[:, :, :height, :width]
    found, expected = answer(tmp_path / "converted", pixels), np.array([row.split() for row in facts["answers"]], float)
    assert expected.shape == (2, 5)
    if "sequential" in file:
        assert_same_answer(found, expected)  # it ends without a softmax
    else:
        np.testing.assert_allclose(softmax(found), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("form", ["float32", "uint8_input"])
def test_tensorflow_lites_own_file_answers_as_its_interpreter_or_its_dequantised_weights_did(tmp_path, form):
    facts, _, pixels, logits = read_facts(EXPECTED / f"{form}.tflite.json")
    skeleton = lzma.decompress((EXPECTED / f"{form}.tflite.xz").read_bytes())
    (tmp_path / "network.tflite").write_bytes(fill(skeleton, facts["seed"]))
    convert(tmp_path / "network.tflite", tmp_path / "converted", "tflite")
    assert_same_answer(answer_to(pixels.astype(np.float32) / 127.5 - 1, tmp_path / "converted"), logits)
    assert load_preprocessing(tmp_path / "converted")[:2] == (46, facts["size"])


def test_tensorflow_lites_file_that_normalises_images_itself(tmp_path):
    """Bytes, by CAST, MUL, SUB and MUL, each colour by numbers of its own."""
    facts, _, pixels, logits = read_facts(EXPECTED / "normalization.tflite.json")
    skeleton = lzma.decompress((EXPECTED / "normalization.tflite.xz").read_bytes())
    (tmp_path / "network.tflite").write_bytes(fill(skeleton, facts["seed"]))
    told = convert(tmp_path / "network.tflite", tmp_path / "converted", "tflite")
    assert "--rgb" not in told
    assert_same_answer(answer(tmp_path / "converted", pixels), logits)
    _, _, mean, std = load_preprocessing(tmp_path / "converted")
    np.testing.assert_allclose((mean, std), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), rtol=1e-6)


@pytest.mark.parametrize("form", [form for forms in ONNX.values() for form in forms])
def test_what_the_real_exporters_wrote_answers_as_onnx_runtime_does(tmp_path, form):
    content = fill_onnx(lzma.decompress((EXPECTED / f"{form}.onnx.xz").read_bytes()), seed=1)
    (tmp_path / "network.onnx").write_bytes(content)
    printed = convert(tmp_path / "network.onnx", tmp_path / "converted", "onnx")
    assert ("SAME padding for 40x40" in printed) is (form in ONNX["keras"])
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    image, = session.get_inputs()
    inputs = images(40, 1).astype(np.float32) / 127.5 - 1
    expected = [session.run(None, {image.name: x[np.newaxis] if image.shape[1] == 3 else x.transpose(1, 2, 0)[
        np.newaxis]})[0][0] for x in inputs]
    found = answer_to(inputs, tmp_path / "converted")
    assert_same_answer(found if form not in ONNX["keras"] else softmax(found), np.stack(expected))

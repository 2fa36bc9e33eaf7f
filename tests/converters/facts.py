"""What the real frameworks call their parameters, and answer, in files small enough to keep: tests/converters/expected.

Each has the parameters' names and shapes in the framework's order, and the logits of its network for
`images(SIZE, SEED)` with the weights that `draw` gives for those names: tests/converters/test_expected.py.
"""
import json
import lzma
from importlib.metadata import version

import h5py
import numpy as np

from tests.converters import frameworks, onnx_files, onnx_skeleton, tflite_files, tflite_skeleton
from tests.converters.random_weights import draw, images

MULTIPLIER, SIZE, CLASSES = 0.35, 40, 5  # 40 pixels: maps of 20, 10, 5, 3, 2, even and odd
TORCH = {"torchvision": ("torchvision", None), "timm": ("timm", "mobilenetv2_035"),
         "timm-110d": ("timm", "mobilenetv2_110d")}
# forms of tests/converters/onnx_files.py, kept without weights
ONNX = {"torchvision": ("torchscript", "dynamo-unoptimised"), "timm": ("torchscript-unfolded", "dynamo-batch"),
        "keras": ("keras", "tf2onnx-opset18")}


def write_facts(folder):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = images(SIZE, frameworks.SEED)
    for name, (kind, variant) in TORCH.items():
        model, preprocess = frameworks.torch_model(kind, MULTIPLIER, variant, SIZE, CLASSES)
        logits = frameworks.run_torch(frameworks.fill_torch(model), preprocess(pixels))
        _write(folder / f"{name}.json", {kind: version(kind), "torch": version("torch")},
               _written(frameworks.torch_shapes(model)), logits)
        _write_onnx(folder, model, preprocess(pixels), ONNX.get(name, ()))
    inputs = frameworks.keras_preprocess(pixels)
    model = frameworks.fill_keras(frameworks.keras_model(MULTIPLIER, SIZE, CLASSES))
    _write(folder / "keras.json", {"keras": version("keras"), "tensorflow": version("tensorflow-cpu")},
           _written(frameworks.keras_shapes(model)), frameworks.run_keras(model, inputs),
           layers=[layer.name for layer in model.layers], groups=_groups(model, folder))
    _write_onnx(folder, model, inputs, ONNX["keras"])
    for form in ("float32", "uint8_input", "normalization"):
        graph = tflite_files.GRAPHS.get(form, lambda plain: plain)(model)
        skeleton = tflite_skeleton.blank(tflite_files.convert(graph, form, inputs.transpose(0, 2, 3, 1)))
        (folder / f"{form}.tflite.xz").write_bytes(lzma.compress(skeleton))
        content = tflite_skeleton.fill(skeleton, frameworks.SEED)
        if form in ("float32", "normalization"):
            logits = tflite_files.run_interpreter(content, inputs if form == "float32" else pixels)
        else:
            logits = frameworks.run_keras(tflite_files.put(model, tflite_files.dequantised(content)), inputs)
        _write(folder / f"{form}.tflite.json", {"tensorflow": version("tensorflow-cpu")}, {}, logits)


def _write_onnx(folder, model, inputs, forms):
    onnx_files.save_onnx(model, inputs, folder, forms)
    for form in forms:
        path = folder / f"{form}.onnx"
        (folder / f"{form}.onnx.xz").write_bytes(lzma.compress(onnx_skeleton.blank(path.read_bytes())))
        path.unlink()


def _groups(model, folder):
    """{group: layer's name} of Keras 3's own format, in which groups are named by the layers' kinds."""
    path = folder / "groups.weights.h5"
    model.save_weights(path)
    with h5py.File(path) as file:
        groups = {name: str(group["vars"].attrs["name"]) for name, group in file["layers"].items()}
    path.unlink()
    return groups


def _written(shapes):
    return {name: "x".join(map(str, shape)) for name, shape in shapes.items()}


def _write(path, versions, parameters, logits, **others):
    facts = {"made by": "python -m tests.converters.frameworks --expected tests/converters/expected",
             "versions": versions, "size": SIZE, "seed": frameworks.SEED,
             "logits": [" ".join(f"{x:.7g}" for x in row) for row in logits], "parameters": parameters, **others}
    path.write_text(json.dumps(facts, indent=0) + "\n", encoding="utf-8")


def read_facts(path) -> tuple:
    """(facts, weights {name: array}, pixels, logits) of one of these files; needs none of the frameworks."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    shapes = {name: tuple(map(int, shape.split("x"))) for name, shape in facts["parameters"].items()}
    logits = np.array([row.split() for row in facts["logits"]], np.float32)
    return facts, draw(shapes, facts["seed"]), images(facts["size"], facts["seed"]), logits

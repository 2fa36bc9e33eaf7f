"""Run the frameworks' own MobileNetV2 with random weights: what the converters are checked against.

    .venv-converters/bin/python -m tests.converters.frameworks timm --multiplier 1.4 --size 160 --out FOLDER

writes into FOLDER the weights in each of the framework's file formats; pixels.npy, uint8 (2, 3, size, size) RGB;
input.npy, what the framework's own preprocessing makes of them, (2, 3, size, size); and logits.npy, what its network
answers. With --onnx FORMS, of tests/converters/onnx_files.py, FORM.onnx too. Of tflite, which has a network of its own
in each file, NAME.tflite and NAME-logits.npy.

    .venv-converters/bin/python -m tests.converters.frameworks --expected tests/converters/expected

makes the small facts anew that tests without these frameworks are held against.

    .venv-converters/bin/python -m tests.converters.frameworks --load FILE --out FOLDER

loads FILE, a .safetensors of tools/export_weights.py, strictly into the network that the file says it is for; what that
answers to FOLDER/input.npy is FOLDER/logits.npy. If FILE is a folder, timm loads it by itself, and what it has read
there about images and classes is printed as JSON.
"""
import argparse
import json
import os
from pathlib import Path

import numpy as np

from benchmarks.torchvision_models import import_torchvision
from tests.converters.random_weights import draw, images

SEED = 7
TIMM = {0.35: "mobilenetv2_035", 0.5: "mobilenetv2_050", 0.75: "mobilenetv2_075", 1.0: "mobilenetv2_100",
        1.4: "mobilenetv2_140"}
KINDS = ("torchvision", "timm", "keras", "tflite")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("--multiplier", type=float, default=1.0)
    parser.add_argument("--variant", help="of timm's models, in place of --multiplier")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--formats", nargs="*", default=["float32", "int8"], help="of tflite")
    parser.add_argument("--onnx", nargs="*", default=[], help="of torchvision, timm and keras")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=Path, metavar="FILE")
    parser.add_argument("--expected", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    if args.expected:
        from tests.converters.facts import write_facts
        return write_facts(args.expected)
    if args.load:
        model = load_folder(args.load) if args.load.is_dir() else load_exported(args.load)
        logits = run_torch(model, np.load(args.out / "input.npy"))
        return np.save(args.out / "logits.npy", logits)
    args.out.mkdir(parents=True, exist_ok=True)
    pixels = images(args.size, SEED)
    if args.kind in ("torchvision", "timm"):
        variant = args.variant or TIMM.get(args.multiplier)
        model, preprocess = torch_model(args.kind, args.multiplier, variant, args.size, args.classes)
        save_torch(fill_torch(model), args.out)
        inputs = preprocess(pixels)
        logits = run_torch(model, inputs)
    else:
        inputs = keras_preprocess(pixels)
        model = fill_keras(keras_model(args.multiplier, args.size, args.classes))
        logits = run_keras(model, inputs)
        if args.kind == "keras":
            save_keras(model, args.out)
        else:
            from tests.converters.tflite_files import save_tflite
            save_tflite(model, pixels, inputs, args.out, args.formats)
    if args.onnx:
        from tests.converters.onnx_files import save_onnx
        save_onnx(model, inputs, args.out, args.onnx)
    for name, array in (("pixels", pixels), ("input", inputs), ("logits", logits)):
        np.save(args.out / f"{name}.npy", array)


def torch_model(kind, multiplier, variant, size, classes) -> tuple:
    """(model, function from uint8 pixels to its input): torchvision's, or timm's `variant`."""
    import torch
    torchvision = import_torchvision()  # timm imports it too
    if kind == "torchvision":
        models = torchvision.models
        model = models.mobilenet_v2(width_mult=multiplier, num_classes=classes)
        transform = models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms(crop_size=size, resize_size=size)
        return model, lambda pixels: transform(torch.from_numpy(pixels)).numpy()
    import timm
    from PIL import Image
    model = timm.create_model(variant, pretrained=False, num_classes=classes)
    config = timm.data.resolve_model_data_config(model) | {"input_size": (3, size, size), "crop_pct": 1.0}
    transform = timm.data.create_transform(**config, is_training=False)
    return model, lambda pixels: np.stack([transform(Image.fromarray(image.transpose(1, 2, 0))).numpy()
                                           for image in pixels])


def torch_shapes(model) -> dict:
    """{name: shape} of a state_dict, in its order, without the counters of batches."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if tensor.dim()}


def fill_torch(model):
    import torch
    weights = draw(torch_shapes(model), SEED)
    model.load_state_dict({name: torch.from_numpy(weights[name]) if name in weights else tensor
                           for name, tensor in model.state_dict().items()}, strict=True)
    return model


def run_torch(model, inputs):
    import torch
    with torch.no_grad():
        return model.eval()(torch.from_numpy(inputs)).numpy()


def save_torch(model, out):
    import torch
    from safetensors.torch import save_file
    torch.save(model.state_dict(), out / "weights.pth")
    save_file(model.state_dict(), out / "weights.safetensors")


def load_exported(path):
    """The network whose expression tools/export_weights.py has written into the file, as a user would paste it."""
    from safetensors import safe_open
    from safetensors.torch import load_file
    torchvision = import_torchvision()
    import timm
    with safe_open(path, "pt") as file:
        model = eval(file.metadata()["model"], {"torchvision": torchvision, "timm": timm})
    model.load_state_dict(load_file(path), strict=True)
    return model


def load_folder(path):
    """As a user of timm would load it."""
    import_torchvision()
    import timm
    model = timm.create_model(f"local-dir:{path}", pretrained=True)
    resize, crop, _, normalize = timm.data.create_transform(**timm.data.resolve_model_data_config(model)).transforms
    about = model.pretrained_cfg
    classes = timm.data.CustomDatasetInfo(about["label_names"], about["label_descriptions"])
    print(json.dumps({
        "resize": resize.size, "crop": crop.size, "interpolation": resize.interpolation.value,
        "mean": normalize.mean.double().numpy().round(6).tolist(),
        "std": normalize.std.double().numpy().round(6).tolist(),
        "third": [classes.index_to_label_name(3), classes.index_to_description(3)]}))
    return model


def import_keras():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras
    return keras


def keras_model(multiplier, size, classes, activation="softmax"):
    return import_keras().applications.MobileNetV2((size, size, 3), multiplier, weights=None, classes=classes,
                                                   classifier_activation=activation)


def keras_preprocess(pixels):
    preprocess = import_keras().applications.mobilenet_v2.preprocess_input
    return preprocess(pixels.transpose(0, 2, 3, 1).astype(np.float32)).transpose(0, 3, 1, 2)


def keras_shapes(model) -> dict:
    """{layer/weight: shape} in the order of layers and of the weights of each."""
    return {f"{layer.name}/{weight.name}": tuple(weight.shape) for layer in model.layers for weight in layer.weights}


def fill_keras(model):
    weights = draw(keras_shapes(model), SEED)
    for layer in model.layers:
        layer.set_weights([weights[f"{layer.name}/{weight.name}"] for weight in layer.weights])
    return model


def run_keras(model, inputs):
    """Logits, of the same network without its softmax."""
    keras = import_keras()
    *_, pooled, classifier = model.layers
    features = keras.Model(model.input, pooled.output)(inputs.transpose(0, 2, 3, 1)).numpy()
    return features @ classifier.kernel.numpy() + classifier.bias.numpy()


def save_keras(model, out):
    """legacy.h5 as Keras 1 and 2 wrote weights, and Keras applications publishes them; whole.h5, a whole model in that
    format; and Keras 3's two."""
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
    with h5py.File(out / "legacy.h5", "w") as file:
        save_weights_to_hdf5_group(file, model)
    model.save(out / "whole.h5")
    model.save_weights(out / "model.weights.h5")
    model.save(out / "model.keras")


if __name__ == "__main__":
    main()

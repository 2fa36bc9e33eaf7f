"""Photographs through the files of PyTorch, TensorFlow Lite and ONNX, and through the checkpoints that those are
converted to:

    .venv/bin/python -m tests.converters.photographs crop DIR FOLDER
    .venv-converters/bin/python -m tests.converters.photographs answer FOLDER
    .venv/bin/python -m tests.converters.photographs compare FOLDER

`crop` takes the first 60 photographs of DIR as evaluation does, at each of SIZES; `answer` writes the frameworks'
files, of random weights, width 1.0 and 1,000 classes, and what they answer; `compare` converts each and prints a row of
a table: largest difference of a probability, and how many first answers are the same.
"""
import argparse
import json
from pathlib import Path

import numpy as np

from tests.converters import frameworks

COUNT, SIZES = 60, (96, 160, 224)


def crop(args):
    from common.checkpoint.preprocessing import Preprocessing
    from common.images.preprocess import preprocess, read_image
    paths = sorted(path for path in args.images.rglob("*") if path.is_file())[:COUNT]
    args.out.mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        how = Preprocessing(Preprocessing().resize_for(size), size, (0.0,) * 3)
        pixels = [preprocess(read_image(path), (3, size, size), how)[0] for path in paths]
        np.save(args.out / f"pixels-{size}.npy", np.rint(pixels).astype(np.uint8))


def answer(args):
    rows = {}
    for file, kind, size, logits in (*of_torch(args.out), *of_tflite(args.out), *of_onnx(args.out)):
        rows[file] = {"kind": kind, "size": size}
        np.save(args.out / f"{file}.npy", logits)
    (args.out / "rows.json").write_text(json.dumps(rows))


def of_torch(out):
    """(file, kind, size, logits) of a state_dict, plain and in the wrappers of people's scripts."""
    import torch
    from safetensors.torch import save_file
    pixels = np.load(out / "pixels-224.npy")
    for kind in ("torchvision", "timm"):
        model, preprocess = frameworks.torch_model(kind, 1.0, frameworks.TIMM[1.0], 224, 1000)
        weights = frameworks.fill_torch(model).state_dict()
        logits = frameworks.run_torch(model, preprocess(pixels))
        head = "classifier.1" if kind == "torchvision" else "classifier"
        own_head = {f"head{name.removeprefix(head)}" if name.startswith(head) else f"backbone.{name}": tensor
                    for name, tensor in weights.items()}
        lightning = {f"model.{name}": tensor for name, tensor in weights.items()}
        forms = {"DataParallel.pth": {f"module.{name}": tensor for name, tensor in weights.items()},
                 "compiled.pth": {f"_orig_mod.{name}": tensor for name, tensor in weights.items()},
                 "own-head.pth": own_head,
                 "lightning.ckpt": {"state_dict": {**lightning, "criterion.weight": torch.ones(1000)}, "epoch": 3},
                 "training.pth": {"model": weights, "args": argparse.Namespace(lr=0.1), "model_ema": {
                     f"module.{name}": tensor * 2 for name, tensor in weights.items()}}}
        save_file(weights, out / f"{kind}-state_dict.safetensors")
        yield f"{kind}-state_dict.safetensors", kind, 224, logits
        for form, content in forms.items():
            torch.save(content, out / f"{kind}-{form}")
            yield f"{kind}-{form}", kind, 224, logits


def of_tflite(out):
    from tests.converters.tflite_files import GRAPHS, PIXELS, convert, dequantised, put, run_interpreter
    for size in SIZES:
        pixels = np.load(out / f"pixels-{size}.npy")
        inputs = frameworks.keras_preprocess(pixels)
        for form in (*PIXELS, *(("float32", "float16", "weights8", "int8") if size == 224 else ())):
            model = frameworks.fill_keras(frameworks.keras_model(1.0, size, 1000))
            content = convert(GRAPHS[form](model) if form in GRAPHS else model, form, inputs.transpose(0, 2, 3, 1)[:8])
            (out / f"{form}-{size}.tflite").write_bytes(content)
            if form in ("weights8", "int8"):  # the network that the file holds, without the rounding of activations
                logits = frameworks.run_keras(put(model, dequantised(content)), inputs)
            else:
                images = pixels if form == "normalization" else pixels.astype(np.float32) if form in PIXELS else inputs
                logits = run_interpreter(content, images)
            yield f"{form}-{size}.tflite", "tflite", size, logits


def of_onnx(out):
    """What PyTorch's and Keras's exporters write, and what the exported models themselves answer."""
    from tests.converters.onnx_files import KERAS, TORCH, save_onnx
    for kind, size in (("torchvision", 224), ("timm", 224), ("keras", 224), ("keras", 160)):
        pixels = np.load(out / f"pixels-{size}.npy")
        if kind == "keras":
            model, inputs = frameworks.keras_model(1.0, size, 1000), frameworks.keras_preprocess(pixels)
            logits = frameworks.run_keras(frameworks.fill_keras(model), inputs)
        else:
            model, preprocess = frameworks.torch_model(kind, 1.0, frameworks.TIMM[1.0], size, 1000)
            inputs = preprocess(pixels)
            logits = frameworks.run_torch(frameworks.fill_torch(model), inputs)
        folder, forms = out / f"{kind}-{size}", KERAS if kind == "keras" else TORCH
        folder.mkdir(exist_ok=True)
        save_onnx(model, inputs, folder, forms)
        for form in forms:
            yield f"{folder.name}/{form}.onnx", "onnx", size, logits


def compare(args):
    import tempfile

    from tests.converters import checks
    for file, row in json.loads((args.out / "rows.json").read_text()).items():
        pixels, logits = np.load(args.out / f"pixels-{row['size']}.npy"), np.load(args.out / f"{file}.npy")
        with tempfile.TemporaryDirectory() as folder:
            checks.convert(args.out / file, f"{folder}/x", row["kind"],
                           python=args.python if file.endswith((".pth", ".ckpt")) else None)
            ours = np.concatenate([checks.answer(f"{folder}/x", part) for part in np.array_split(pixels, 6)])
        difference = np.abs(checks.softmax(ours) - checks.softmax(logits)).max()
        same = int((ours.argmax(axis=1) == logits.argmax(axis=1)).sum())
        print(f"| `{row['kind']}` | {file} | {difference:.1e} | {same} of {len(pixels)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cropping = commands.add_parser("crop")
    cropping.add_argument("images", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("--python", default=".venv-converters/bin/python", help="what reads .pth files")
    for command in (cropping, commands.add_parser("answer"), comparing):
        command.add_argument("out", type=Path)
    args = parser.parse_args()
    {"crop": crop, "answer": answer, "compare": compare}[args.command](args)


if __name__ == "__main__":
    main()

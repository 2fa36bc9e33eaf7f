"""Photographs through the files of every framework, and through the checkpoints that those are converted to:

    .venv/bin/python -m tests.converters.photographs crop DIR FOLDER
    .venv-converters/bin/python -m tests.converters.photographs answer FOLDER --fine-tuned dog_breeds.h5
    .venv/bin/python -m tests.converters.photographs compare FOLDER --symbols *-symbol.json

`crop` takes the first 60 photographs of DIR as evaluation does, at each of SIZES. `answer` writes the frameworks'
files, of random weights, width 1.0 and 1,000 classes, and of a fine-tuned Keras classifier, and what they answer.
`compare` does so for MXNet's own, of other repositories' symbols too; then it converts each, and writes a row of
benchmarks/conversion.csv: the largest difference of a probability, and how many first answers are the same.
"""
import argparse
import json
from pathlib import Path

import numpy as np

from tests.converters import frameworks

COUNT, SIZES = 60, (96, 160, 224)
MEAN_AND_STD = ["--rgb-mean", "123.675,116.28,103.53", "--rgb-std", "58.395,57.12,57.375"]
HALVES = ["--rgb-mean", "127.5,127.5,127.5", "--rgb-std", "127.5,127.5,127.5"]


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
    for file, kind, size, logits in (*of_torch(args.out), *of_keras(args.out, args.fine_tuned), *of_tflite(args.out),
                                     *of_onnx(args.out)):
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


def of_keras(out, fine_tuned):
    """Keras applications in each format; a fine-tuned classifier as it is, saved anew, and as a .tflite file."""
    model = frameworks.fill_keras(frameworks.keras_model(1.0, 224, 1000))
    logits = frameworks.run_keras(model, frameworks.keras_preprocess(np.load(out / "pixels-224.npy")))
    for form in (".h5", ".keras", ".weights.h5"):
        (model.save_weights if form == ".weights.h5" else model.save)(out / f"keras{form}")
        yield f"keras{form}", "keras", 224, logits
    if fine_tuned:
        import keras
        import tensorflow as tf
        model = keras.models.load_model(fine_tuned, compile=False)
        size = model.input_shape[1]
        inputs = frameworks.keras_preprocess(np.load(out / f"pixels-{size}.npy")).transpose(0, 2, 3, 1)
        logits = np.log(model.predict(inputs, verbose=0))
        (out / "fine-tuned.h5").write_bytes(fine_tuned.read_bytes())
        model.save(out / "fine-tuned.keras")
        (out / "fine-tuned.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        for form in ("h5", "keras", "tflite"):
            yield f"fine-tuned.{form}", "tflite" if form == "tflite" else "keras", size, logits


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


def of_mxnet(out, symbols):
    """Gluon's zoo, saved and exported, and other repositories' symbols, each with random weights."""
    from common.find_mxnet import mx
    from tests.foreign import save_foreign
    data = mx.nd.array(np.load(out / "pixels-224.npy").astype(np.float32))
    net = mx.gluon.model_zoo.vision.mobilenet_v2_1_0()
    net.initialize()
    net.hybridize()
    mean, std = (255 * np.reshape(values, (1, 3, 1, 1)) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalised = (data - mx.nd.array(mean)) / mx.nd.array(std)
    net(normalised[:1])
    net.export(str(out / "zoo"))
    save_foreign(out / "zoo", mx.sym.load(str(out / "zoo-symbol.json")), 224)
    net = mx.gluon.SymbolBlock.imports(str(out / "zoo-symbol.json"), ["data"], str(out / "zoo-0007.params"))
    for kind in ("gluon", "mxnet"):
        yield "zoo-0007.params", kind, 224, net(normalised).asnumpy()
    for path in symbols:
        symbol = mx.sym.load(str(path))
        name = path.name.removesuffix("-symbol.json")
        save_foreign(out / name, symbol, 224)
        head = next(node for node in reversed(list(symbol.get_internals())) if not node.name.startswith("prob"))
        params = mx.nd.load(str(out / f"{name}-0007.params"))
        executor = head.simple_bind(mx.cpu(), data=data.shape, grad_req="null")
        for key, array in params.items():
            kind, _, bare = key.partition(":")
            (executor.arg_dict if kind == "arg" else executor.aux_dict)[bare][:] = array
        yield f"{name}-0007.params", "mxnet", 224, executor.forward(data=(data - 127.5) / 127.5)[0].asnumpy()


def compare(args):
    import tempfile

    from benchmarks.results import machine, write_csv
    from tests.converters import checks
    found = [(file, row["kind"], row["size"], np.load(args.out / f"{file}.npy"))
             for file, row in json.loads((args.out / "rows.json").read_text()).items()]
    rows = []
    for file, kind, size, logits in [*found, *of_mxnet(args.out, args.symbols)]:
        pixels = np.load(args.out / f"pixels-{size}.npy")
        flags = ["--image-shape", f"3,{size},{size}"] if file.endswith(".weights.h5") else []
        if kind == "mxnet":
            flags = MEAN_AND_STD if file.startswith("zoo") else HALVES
        with tempfile.TemporaryDirectory() as folder:
            checks.convert(args.out / file, f"{folder}/x", kind, *flags,
                           python=args.python if file.endswith((".pth", ".ckpt")) else None)
            ours = np.concatenate([checks.answer(f"{folder}/x", part) for part in np.array_split(pixels, 6)])
        rows.append({"from": kind, "form": file, "largest_probability": f"{checks.softmax(logits).max():.3f}",
                     "max_difference": f"{np.abs(checks.softmax(ours) - checks.softmax(logits)).max():.1e}",
                     "same_first_answer": int((ours.argmax(axis=1) == logits.argmax(axis=1)).sum()),
                     "photographs": len(pixels), **machine()})
        print(*list(rows[-1].values())[:6], sep="\t", flush=True)
    write_csv("benchmarks/conversion.csv", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cropping, answering, comparing = map(commands.add_parser, ("crop", "answer", "compare"))
    cropping.add_argument("images", type=Path)
    answering.add_argument("--fine-tuned", type=Path, metavar="FILE.h5")
    comparing.add_argument("--python", default=".venv-converters/bin/python", help="what reads .pth files")
    comparing.add_argument("--symbols", type=Path, nargs="*", default=[])
    for command in (cropping, answering, comparing):
        command.add_argument("out", type=Path)
    args = parser.parse_args()
    {"crop": crop, "answer": answer, "compare": compare}[args.command](args)


if __name__ == "__main__":
    main()

"""What another runtime answers with a file of tools/export_weights.py, in a process of its own:

    python -m benchmarks.runtime_runners NAME MODEL INPUTS.npy ANSWERS.npy

reads float32 (N, 3, H, W), writes probabilities (N, classes), and prints the runtime's version. It imports no more than
the runtime needs, which may be installed for another Python than that of this repository.
"""
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.torchvision_models import import_torchvision, model_of

Predict = Callable[[np.ndarray], Any]  # float32 (1, 3, H, W) to probabilities (1, classes)


class Runtime(NamedTuple):
    label: str
    packages: tuple[str, ...]
    formats: tuple[str, ...]  # keys of benchmarks.runtimes.EXPORTS
    open: Callable[[Path, list], Predict]  # (model, shape of an input)


def open_onnxruntime(model: Path, shape: list) -> Predict:
    import onnxruntime
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda data: session.run(None, {"data": data})[0]


def open_opencv(model: Path, shape: list) -> Predict:
    import cv2
    network = cv2.dnn.readNetFromONNX(str(model))

    def predict(data):
        network.setInput(data)
        return network.forward()
    return predict


def open_openvino(model: Path, shape: list) -> Predict:
    import openvino
    network = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda data: network(data)[0]


def open_mnn(model: Path, shape: list) -> Predict:
    import MNN
    converted = model.with_suffix(".mnn")
    _converted(sys.executable, "-m", "MNN.tools.mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel",
               converted, "--bizCode", "MNN")
    network = MNN.nn.load_module_from_file(str(converted), ["data"], ["softmax"])
    return lambda data: network.forward([MNN.expr.const(data, shape, MNN.expr.NCHW)])[0].read()


def open_ncnn(model: Path, shape: list, fp16: int) -> Predict:
    """By way of pnnx, which unless told otherwise (fp16=1) stores weights, and lets ncnn compute, in half precision."""
    import ncnn
    import pnnx
    param, weights = (model.with_suffix(f".ncnn.{end}") for end in ("param", "bin"))
    _converted(pnnx.EXEC_PATH, model, f"inputshape=[{','.join(map(str, shape))}]f32", f"fp16={fp16}",
               f"ncnnparam={param}", f"ncnnbin={weights}")
    network = ncnn.Net()
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = bool(fp16)
    network.load_param(str(param))
    network.load_model(str(weights))

    def predict(data):
        with network.create_extractor() as extractor:
            extractor.input(network.input_names()[0], ncnn.Mat(data[0]).clone())
            return np.array(extractor.extract(network.output_names()[0])[1])[np.newaxis]
    return predict


def open_litert(model: Path, shape: list) -> Predict:
    """With integers in or out as the file has them: inputs are cast, outputs are what their codes stand for."""
    from ai_edge_litert.interpreter import Interpreter
    network = Interpreter(str(model))
    (image,), (probabilities,) = network.get_input_details(), network.get_output_details()
    network.resize_tensor_input(image["index"], [shape[0], *shape[2:], shape[1]])
    network.allocate_tensors()
    scale, zero = probabilities["quantization"]

    def predict(data):
        network.set_tensor(image["index"], data.transpose(0, 2, 3, 1).astype(image["dtype"]))
        network.invoke()
        found = network.get_tensor(probabilities["index"])
        return np.float32(scale) * (found.astype(np.float32) - zero) if scale else found
    return predict


def open_torchvision(model: Path, shape: list) -> Predict:
    return _by_torch(model_of(model))


def open_timm(model: Path, shape: list) -> Predict:
    import_torchvision()
    import timm
    return _by_torch(timm.create_model(f"local-dir:{model}", pretrained=True))


def _by_torch(network):
    import torch
    network.eval()

    def predict(data):
        with torch.inference_mode():
            return network(torch.from_numpy(data)).softmax(1).numpy()
    return predict


def _converted(*arguments):
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}"[-2000:])


RUNTIMES = {
    "onnxruntime": Runtime("ONNX Runtime", ("onnxruntime",), ("onnx", "onnx-int8"), open_onnxruntime),
    "opencv": Runtime("OpenCV dnn", ("opencv-python-headless",), ("onnx",), open_opencv),
    "openvino": Runtime("OpenVINO", ("openvino",), ("onnx", "onnx-int8"), open_openvino),
    "mnn": Runtime("MNN", ("MNN",), ("onnx",), open_mnn),
    "ncnn": Runtime("ncnn, pnnx fp16=0", ("ncnn", "pnnx"), ("onnx",), partial(open_ncnn, fp16=0)),
    "ncnn-fp16": Runtime("ncnn, pnnx's default", ("ncnn", "pnnx"), ("onnx",), partial(open_ncnn, fp16=1)),
    "litert": Runtime("LiteRT", ("ai-edge-litert",), ("tflite", "tflite-float16", "tflite-int8"), open_litert),
    "torchvision": Runtime("torchvision", ("torchvision", "torch"), ("torchvision",), open_torchvision),
    "timm": Runtime("timm", ("timm", "torch"), ("timm",), open_timm),
}

if __name__ == "__main__":
    name, model, inputs, answers = sys.argv[1:]
    images = np.load(inputs)
    predict = RUNTIMES[name].open(Path(model).resolve(), [1, *images.shape[1:]])
    np.save(answers, np.concatenate([np.array(predict(image[np.newaxis])) for image in images]))
    print(", ".join(f"{package} {version(package)}" for package in RUNTIMES[name].packages))

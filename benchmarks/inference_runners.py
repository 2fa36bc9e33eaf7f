"""One contender of benchmarks/inference.py as a process of its own: what it runs the network with, and when.

    python -m benchmarks.inference_runners NAME

imports no more than its framework needs, which may be installed for another Python than that of this repository.
"""
import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np

from benchmarks.serving import Runner, serve

# (float32 (N, 3, H, W) to probabilities (N, classes), NumPy arrays; a line on how it was set up)
Opened = tuple[Callable[[np.ndarray], np.ndarray], str]


def open_mxnet(request: dict) -> Opened:
    os.environ["MXNET_SUBGRAPH_BACKEND"] = "MKLDNN"  # also the default, which the environment may have changed
    from common.find_mxnet import mx

    symbol, arg_params, aux_params = mx.model.load_checkpoint(request["prefix"], request["epoch"])
    executor = symbol.simple_bind(mx.cpu(), data=tuple(request["data_shape"]), grad_req="null")
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    return (lambda data: executor.forward(is_train=False, data=data)[0].asnumpy(),
            "executor of the Symbol API, fused by subgraph backend MKLDNN")


def open_onnxruntime(request: dict, provider: str, network: str = "onnx", on_avx2: bool = False) -> Opened:
    if on_avx2 and not ctypes.CDLL(request["avx2_alone"]).HoldToAvx2():
        sys.exit("ONNX Runtime cannot be held to AVX2 here: /proc/cpuinfo has no cpuid_fault")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["cores"]
    session = onnxruntime.InferenceSession(request[network], options, providers=[provider])
    if provider not in session.get_providers():  # it takes another by itself
        sys.exit(f"ONNX Runtime cannot use {provider} here")
    return lambda data: session.run(None, {"data": data})[0], f"{provider}, all graph optimizations, as by default"


def open_openvino(request: dict, network: str = "onnx", most_isa: str = "") -> Opened:
    if most_isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = most_isa
    import openvino

    core = openvino.Core()
    model = core.read_model(request[network])
    model.reshape(request["data_shape"])
    compiled = core.compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": request["cores"]})
    return lambda data: compiled(data)[0], "latency hint, float32 where it is not in 8 bits"


def open_pytorch(request: dict, freeze: bool, device: str = "cpu") -> Opened:
    import torch

    from benchmarks.torchvision_models import model_of

    torch.set_num_threads(request["cores"])
    model = torch.nn.Sequential(model_of(request["state_dict"]), torch.nn.Softmax(1)).eval().to(device)
    setting = f"{device}, eager, inference_mode"
    if freeze:
        with torch.no_grad():
            traced = torch.jit.trace(model, torch.zeros(request["data_shape"], device=device))
            model = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        setting = f"{device}, traced, frozen and optimize_for_inference at every start"

    def predict(data):
        with torch.inference_mode():
            return model(torch.from_numpy(data).to(device)).cpu().numpy()
    return predict, setting


def open_tvm(request: dict, target: str, records: str | None = None, precision: str = "float32") -> Opened:
    if "-keys=opencl" in target:  # TVM's groups of many work items need what common.inference.drivers turns off
        os.environ["POCL_WORK_GROUP_SPECIALIZATION"] = "1"
    from common.inference.network import open_network

    target = target.format(host_cpu=request["host_cpu"])
    network = open_network(request["calibrated" if precision == "int8" else "prefix"], request["epoch"],
                           request["data_shape"], target, precision, records=records)
    if records and not network.records and request["data_shape"][0] == 1:  # the setting tells it of a batch
        sys.exit(f"there are no tuning records for {target} on this device: tools/tune.py makes them")
    return network.predict, f"{target}, {network.records or 'no records'}: {network.tuned} layers tuned, " \
                            f"{network.untuned} not"


def open_tvm_on_avx2(request: dict) -> Opened:
    from common.inference import plugin, runtime

    load = plugin.load_library

    def load_held(*arguments):
        library = load(*arguments)
        library.HoldPoclToAvx2()
        return library

    patch.object(plugin, "load_library", load_held).start()
    floats = runtime.describe("opencl").floats
    if floats != 8:
        sys.exit(f"PoCL cannot be held to AVX2 here: its vectors have {floats} numbers")
    return open_tvm(request, "opencl")


TVM = ("xtc-tvm-python-bindings",)
POCL = (*TVM, "pyopencl")
RUNNERS = {
    "mxnet": Runner("MXNet (oneDNN)", ("mxnet",), open_mxnet),
    "onnxruntime": Runner("ONNX Runtime", ("onnxruntime",), partial(
        open_onnxruntime, provider="CPUExecutionProvider")),
    "openvino": Runner("OpenVINO", ("openvino",), open_openvino, elsewhere=True),
    "pytorch": Runner("PyTorch, eager", ("torch",), partial(open_pytorch, freeze=False), elsewhere=True),
    "pytorch-frozen": Runner("PyTorch, frozen", ("torch",), partial(open_pytorch, freeze=True), elsewhere=True),
    "tvm-llvm-own": Runner("TVM llvm, TVM's schedules", TVM, partial(
        open_tvm, target="llvm -keys=cpu -mcpu={host_cpu}")),
    "tvm-llvm": Runner("TVM llvm", TVM, partial(open_tvm, target="llvm")),
    "tvm-opencl-own": Runner("TVM OpenCL, TVM's schedules", POCL, partial(open_tvm, target="opencl -keys=opencl,gpu")),
    "tvm-opencl": Runner("TVM OpenCL", POCL, partial(open_tvm, target="opencl")),
}
# after tools/tune.py
TUNED = {
    "tvm-llvm-tuned": Runner("TVM llvm, tuned", TVM, partial(open_tvm, target="llvm", records="auto")),
    "tvm-opencl-tuned": Runner("TVM OpenCL, tuned", POCL, partial(open_tvm, target="opencl", records="auto")),
}
# on an NVIDIA GPU, beside TVM's OpenCL
ON_CUDA = {
    "onnxruntime-cuda": Runner("ONNX Runtime, CUDA", ("onnxruntime-gpu",), partial(
        open_onnxruntime, provider="CUDAExecutionProvider"), elsewhere=True),
    "pytorch-cuda": Runner("PyTorch, eager, CUDA", ("torch",), partial(
        open_pytorch, freeze=False, device="cuda"), elsewhere=True),
    "pytorch-frozen-cuda": Runner("PyTorch, frozen, CUDA", ("torch",), partial(
        open_pytorch, freeze=True, device="cuda"), elsewhere=True),
}
# where --calibration gives photographs to quantise with
IN_8_BITS = {
    "onnxruntime-int8": Runner("ONNX Runtime, int8", ("onnxruntime",), partial(
        open_onnxruntime, provider="CPUExecutionProvider", network="by_onnxruntime")),
    "openvino-int8": Runner("OpenVINO, int8", ("openvino",), partial(open_openvino, network="by_nncf"), elsewhere=True),
    "tvm-llvm-int8": Runner("TVM llvm, int8", TVM, partial(open_tvm, target="llvm", precision="int8")),
}
# held to AVX2 on a processor that has AVX-512 too; ONNX Runtime has no option for it
ON_AVX2 = {
    "onnxruntime-avx2": Runner("ONNX Runtime, AVX2", ("onnxruntime",), partial(
        open_onnxruntime, provider="CPUExecutionProvider", on_avx2=True)),
    "openvino-avx2": Runner("OpenVINO, AVX2", ("openvino",), partial(open_openvino, most_isa="AVX2"), elsewhere=True),
    "tvm-llvm-avx2": Runner("TVM llvm, AVX2", TVM, partial(open_tvm, target="llvm -mcpu=haswell")),
    "tvm-opencl-avx2": Runner("TVM OpenCL, AVX2", POCL, open_tvm_on_avx2),
    "onnxruntime-avx2-int8": Runner("ONNX Runtime, AVX2, int8", ("onnxruntime",), partial(
        open_onnxruntime, provider="CPUExecutionProvider", network="by_onnxruntime", on_avx2=True)),
    "openvino-avx2-int8": Runner("OpenVINO, AVX2, int8", ("openvino",), partial(
        open_openvino, network="by_nncf", most_isa="AVX2"), elsewhere=True),
    "tvm-llvm-avx2-int8": Runner("TVM llvm, AVX2, int8", TVM, partial(
        open_tvm, target="llvm -mcpu=haswell", precision="int8")),
}
ALL = RUNNERS | TUNED | ON_CUDA | IN_8_BITS | ON_AVX2  # those of TUNED, ON_CUDA and ON_AVX2 only if asked for
QUANTISED = [name for name in ALL if name.endswith("int8")]


def opened(runner: Runner, request: dict) -> tuple[Callable[[], np.ndarray], str, Callable[[dict], None]]:
    """What benchmarks.serving wants of a contender; it is asked for "to", where its answer is to be."""
    data = np.load(request["data"])
    predict, setting = runner.open(request)
    return (lambda: predict(data)), setting, lambda request: np.save(request["to"], predict(data))


if __name__ == "__main__":
    runner = ALL[sys.argv[1]]
    serve(partial(opened, runner), runner.packages)

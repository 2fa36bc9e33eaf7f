"""Compile an MXNet checkpoint with TVM, and run it."""
import logging
import tempfile
from typing import NamedTuple

import numpy as np

from common.errors import InputError, last_line
from common.image_size import check_image_size
from common.params_file import checkpoint_files, load_checkpoint_params
from common.symbol_json import INPUT, fold_batch_norm, load_symbol, parameter_names
from common.tvm_runtime import cc, frontend, graph_executor, host_cpu, opencl_device, relay, tvm


def _fully_connected(inputs, attrs):
    """MXNet's FullyConnected in Relay. TVM's own converter imports MXNet, to ask it for its version."""
    data, weight = inputs[:2]
    if attrs.get_bool("flatten", True):
        data = relay.nn.batch_flatten(data)
    out = relay.nn.dense(data, weight, units=attrs.get_int("num_hidden"))
    return out if attrs.get_bool("no_bias", False) else relay.nn.bias_add(out, inputs[2], axis=-1)


frontend._convert_map["FullyConnected"] = _fully_connected
tvm.ir.diagnostics.override_renderer(lambda context: None)  # pages of a type error, before the exception says it
logging.getLogger("autotvm").setLevel(logging.ERROR)  # a warning, once for each process, that nothing was tuned


class CompiledNetwork:
    """A network compiled for one device and input shape.

    `predict(data)`: float32 of `data_shape` in, probabilities (N, classes) out, as NumPy arrays.
    """

    def __init__(self, library, device, network):
        self._executor = graph_executor.GraphModule(library["default"](device))
        self.device, self.data_shape, self.num_classes = device, network.data_shape, network.num_classes

    def predict(self, data: np.ndarray) -> np.ndarray:
        if data.shape != self.data_shape or data.dtype != np.float32:
            raise ValueError(f"expected float32 {self.data_shape}, not {data.dtype} {data.shape}")
        self._executor.set_input(INPUT, data)
        self._executor.run()
        return self._executor.get_output(0).numpy()


def resolve_target(name: str):
    """(tvm.target.Target, device) of "opencl", "llvm" (this processor) or any TVM target string.

    Raises InputError for a target that TVM does not know or that cannot run here.
    """
    host = f"llvm -mcpu={host_cpu()}"
    try:
        target = tvm.target.Target(host if name == "llvm" else name, host=host)
    except (tvm.error.TVMError, ValueError, TypeError, KeyError):
        raise InputError(f"unknown target {name!r}: give opencl, llvm or a TVM target such as "
                         "'opencl -device=mali' or 'llvm -mcpu=skylake-avx512'") from None
    kind = target.kind.name
    if kind == "opencl":
        return target, opencl_device()
    if kind == "llvm":
        _check_processor(name, target)
    elif not _runs_here(kind):
        raise InputError(f"target {name!r} cannot run here: this TVM or this machine has no {kind}")
    return target, tvm.device(kind)


def _check_processor(name, target):
    """LLVM only warns of a processor it does not know (as of `native`), and compiles for a generic one."""
    codegen, here = tvm.target.codegen, tvm.target.Target("llvm")
    triple = str(target.attrs.get("mtriple", ""))
    if triple and triple.split("-")[0] != codegen.llvm_get_system_triple().split("-")[0]:
        raise InputError(f"target {name!r} cannot run here: this is {codegen.llvm_get_system_triple()}")
    mcpu = str(target.attrs.get("mcpu", "")) or host_cpu()
    if mcpu not in [str(cpu) for cpu in codegen.llvm_get_cpu_archlist(here)]:
        raise InputError(f"target {name!r}: LLVM knows no processor {mcpu!r}; --target llvm takes this one "
                         f"({host_cpu()})")


def _runs_here(kind):
    try:
        return tvm.runtime.enabled(kind) and tvm.device(kind).exist
    except (tvm.error.TVMError, ValueError):
        return False


class Network(NamedTuple):
    """A checkpoint in Relay, ready to be compiled for input `data` of `data_shape`."""
    module: tvm.IRModule
    params: dict
    data_shape: tuple
    num_classes: int


def load_network(prefix, epoch: int, data_shape) -> Network:
    """Read `PREFIX-symbol.json` and `PREFIX-%04d.params` for input of `data_shape` (N, 3, H, W), without MXNet.

    Raises InputError for files that are missing, damaged or do not belong together.
    """
    symbol_file, params_file = checkpoint_files(prefix, epoch)
    graph = load_symbol(symbol_file)
    arg_params, aux_params = load_checkpoint_params(params_file)
    check_image_size(graph, arg_params, data_shape, symbol_file)
    params = {name: array.astype(np.float32) for name, array in (arg_params | aux_params).items()}
    missing = [name for name in parameter_names(graph) if name not in params]
    if missing:
        raise InputError(f"{params_file}: has no {missing[0]!r}, which {symbol_file} needs ({len(missing)} missing)")
    try:
        return to_relay(*fold_batch_norm(graph, params), data_shape)
    except tvm.error.OpNotImplemented as error:
        raise InputError(f"{symbol_file}: TVM cannot convert it: {last_line(error)}") from None
    except (tvm.error.TVMError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise InputError(f"{params_file} and {symbol_file} do not fit each other or the input {tuple(data_shape)}: "
                         f"{last_line(error)}") from None


def to_relay(graph, params, data_shape) -> Network:
    """`graph` (of `common.symbol_json`) with `params` (str to float32 numpy.ndarray) in Relay, types checked."""
    labels = {node["name"]: (data_shape[0],) for node in graph["nodes"] if node["name"].endswith("label")}
    shapes = {INPUT: tuple(data_shape), **labels, **{name: array.shape for name, array in params.items()}}
    params = {name: tvm.nd.array(array) for name, array in params.items()}
    module = tvm.IRModule()
    module["main"] = frontend._from_mxnet_impl(graph, shapes, "float32", params, module)
    module = relay.transform.InferType()(module)
    return Network(module, params, tuple(data_shape), int(module["main"].ret_type.shape[-1]))


def compile_network(network: Network, target, device) -> CompiledNetwork:
    """Compile for what `resolve_target` gives. Raises InputError where a C++ compiler is needed and missing."""
    on_processor = target.kind.name == "llvm"
    if not on_processor and not cc.get_cc():
        raise InputError(f"compiling for {target.kind.name} needs a C++ compiler: install g++; --target llvm does not")
    with tvm.transform.PassContext(opt_level=3):
        library = relay.build(network.module, target=target, params=network.params)
    if on_processor:
        return CompiledNetwork(library, device, network)
    with tempfile.TemporaryDirectory() as folder:
        # out and in again through a file: OpenCL's kernels come back through the plug-in's loader only
        library.export_library(f"{folder}/network.so")
        return CompiledNetwork(tvm.runtime.load_module(f"{folder}/network.so"), device, network)

#!/usr/bin/env python
"""Compile an MXNet checkpoint with TVM for an OpenCL device, and print the top-5 of photographs.

MXNet is not needed (only for --verify). Examples:

    python from_mxnet.py                                   data/cat.jpg with the published 1.0 weights
    python from_mxnet.py dog.jpg --target llvm             on this processor instead of an OpenCL device
    python from_mxnet.py digit.jpg --model-prefix demo/digits --epoch 32 --synset demo/synset.txt
"""
import importlib
import sys
import time
from pathlib import Path

import numpy as np

from common.arguments import ArgumentParser, not_negative, positive
from common.errors import InputError, reported
from common.labels import read_synset
from common.preprocess import preprocess, read_image
from common.preprocessing_options import add_preprocessing_args, completed, preprocessing_of

HERE = Path(__file__).resolve().parent
PUBLISHED = "published-1_0"  # of models/zoo.toml
TOLERANCE = 1e-4


def get_args_parser():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", default=[str(HERE / "data" / "cat.jpg")],
                        help="photographs to classify")
    model = parser.add_argument_group("checkpoint")
    model.add_argument("--model-prefix", help="PREFIX of PREFIX-symbol.json (default: the published 1.0 weights, from "
                                              "models/ or downloaded)")
    model.add_argument("--epoch", type=not_negative, default=0, help="number of PREFIX-%%04d.params")
    model.add_argument("--synset", default=str(HERE / "data" / "imagenet1k-synset.txt"),
                       help="text file with the name of each class, one a line")
    add_preprocessing_args(model, "--model-prefix")
    device = parser.add_argument_group("device")
    device.add_argument("--target", default="opencl", help="opencl, llvm (this processor) or any TVM target string")
    device.add_argument("--repeat", type=positive, default=3, help="runs of each image; the first builds the kernels")
    device.add_argument("--list-devices", action="store_true", help="list OpenCL platforms and devices, and end")
    device.add_argument("--verify", action="store_true",
                        help=f"compare with MXNet's output; fail above {TOLERANCE:g}")
    return parser


def main(args):
    if args.verify:
        mxnet_predict = import_mxnet_predict()  # before TVM
    from common import tvm_runtime
    if args.list_devices:
        for line in tvm_runtime.list_devices():
            print(line, flush=True)
        return

    check_published_weights(args)
    args = completed(args, args.model_prefix)
    inputs = [preprocess(read_image(path), args.image_shape, preprocessing_of(args)) for path in args.images]
    from common.tvm_compile import compile_network, load_network, resolve_target
    network = load_network(args.model_prefix, args.epoch, (1, *args.image_shape))
    synset = read_synset(args.synset, network.num_classes)
    target, device = resolve_target(args.target)
    print(f"compiling for {args.target}, half a minute or so", file=sys.stderr)
    compiled = compile_network(network, target, device)

    print(f"device: {tvm_runtime.device_name(compiled.device)}")
    outputs = []
    for path, data in zip(args.images, inputs):
        print(path)
        for _ in range(args.repeat):
            probabilities = classify(compiled, data, synset)
        outputs.append(probabilities)
    if args.verify:
        verify(args, mxnet_predict, inputs, outputs)


def classify(compiled, data, synset):
    """Run the network once and print the time and the top-5; returns the probabilities (1, classes)."""
    start = time.perf_counter()
    probabilities = compiled.predict(data)
    ran = time.perf_counter()
    top = np.argsort(-probabilities[0], kind="stable")[:5]
    end = time.perf_counter()
    print(f"elapsed: {(end - start) * 1e3:.1f}ms ({(ran - start) * 1e3:.1f}ms)")
    for rank, label in enumerate(top, start=1):
        print(f"TVM prediction top-{rank}: {label} {synset[label]} ({probabilities[0, label]:.3f})")
    return probabilities


def verify(args, mxnet_predict, inputs, outputs):
    expected = [mxnet_predict(args.model_prefix, args.epoch, data) for data in inputs]
    difference = float(np.abs(np.subtract(expected, outputs)).max())
    name = "OpenCL" if args.target.split()[0] == "opencl" else args.target.split()[0]
    if not difference <= TOLERANCE:
        raise InputError(f"{name} and MXNet disagree (max difference {difference:.1e}, allowed {TOLERANCE:g})")
    print(f"{name} and MXNet agree (max difference {difference:.1e})")


def import_mxnet_predict():
    try:
        return importlib.import_module("common.mxnet_predict").predict
    except ModuleNotFoundError as error:
        raise InputError(f"--verify: {error}") from None


def check_published_weights(args):
    """Where no checkpoint is given, make it the published one, which is downloaded where it is not there."""
    if args.model_prefix is None:
        if args.epoch:
            raise InputError(f"--epoch {args.epoch}: of what checkpoint? give --model-prefix")
        from common.modelzoo import prefix_of
        args.model_prefix = prefix_of(PUBLISHED)


if __name__ == "__main__":
    arguments = get_args_parser().parse_args()
    with reported("from_mxnet.py"):
        main(arguments)

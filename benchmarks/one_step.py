#!/usr/bin/env python
"""One step of SGD from the same random weights on the same photographs, beside PyTorch's in float64. Example:

    python benchmarks/one_step.py --images tiny-imagenet-20/val --python RUNTIMES/bin/python

For each parameter: the length of what its update differs by, over that of the update in float64. --python names that of
a virtual environment with what requirements-runtimes.txt lists.
"""
import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import output_of
from benchmarks.results import machine, output, write_csv
from common.base.arguments import ArgumentParser, positive
from common.base.errors import reported

CLASSES, LR = 1000, 1.0
NOTHING = 1e-12


def main(args: argparse.Namespace) -> None:
    from common.images.preprocess import preprocess, read_image
    from common.inference.classify import images_in

    paths = sorted(images_in([args.images]))
    off: dict[str, list] = {}
    for seed in range(args.batches):
        rng = np.random.RandomState(seed)
        chosen = rng.choice(paths, args.batch_size, replace=False)
        images = np.concatenate([preprocess(read_image(path), (3, args.side, args.side)) for path in chosen])
        labels = rng.randint(0, CLASSES, len(images))
        weights = initial(args.multiplier, images.shape, seed)
        exact, pytorch = (by_other_python(args, kind, images, labels, weights) for kind in ("float64", "float32"))
        # behind some parameters a BatchNorm takes away all that they add
        exact = {name: update for name, update in exact.items() if np.abs(update).max() > NOTHING}
        for name, updates in (("MXNet, the fused operator", by_mxnet(args, images, labels, weights, fuse=True)),
                              ("MXNet, its own operators", by_mxnet(args, images, labels, weights, fuse=False)),
                              ("PyTorch", pytorch)):
            off.setdefault(name, []).append([np.linalg.norm(updates[key] - update) / np.linalg.norm(update)
                                             for key, update in exact.items()])
    rows = []
    for name, found in off.items():
        medians, p90 = np.median(found, axis=1), np.quantile(found, 0.9, axis=1)
        rows.append({"contender": name, "median": f"{np.median(medians):.2e}", "median_least": f"{min(medians):.2e}",
                     "median_most": f"{max(medians):.2e}", "p90": f"{np.median(p90):.2e}", "parameters": len(found[0]),
                     "batches": len(found), "multiplier": args.multiplier, "side": args.side,
                     "photographs": args.batch_size, **machine()})
        print(rows[-1], flush=True)
    write_csv(args.out, rows)


def by_other_python(args: argparse.Namespace, kind: str, images: np.ndarray, labels: np.ndarray, weights: dict) -> dict:
    """As `by_mxnet`, by PyTorch in that type."""
    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        np.savez(f"{folder}/given.npz", images=images, labels=labels, multiplier=args.multiplier, **weights)
        output_of("-m", "benchmarks.one_step", "--by-pytorch", kind, folder, python=args.python)
        return dict(np.load(f"{folder}/updates.npz"))


def initial(multiplier: float, shape: tuple, seed: int) -> dict:
    """{name: array} of random weights, as training begins with."""
    module = module_of(multiplier, shape, fuse=False)
    from common.find_mxnet import mx
    mx.random.seed(seed)
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    return {name: array.asnumpy() for name, array in module.get_params()[0].items()}


def module_of(multiplier: float, shape: tuple, fuse: bool) -> Any:
    """A bound mx.mod.Module."""
    from common.find_mxnet import mx
    from common.training.fused_batchnorm import fused, load
    from symbols.mobilenetv2 import get_symbol

    symbol = get_symbol(num_classes=CLASSES, multiplier=multiplier)
    if fuse:
        load()
        symbol = fused(symbol)
    module = mx.mod.Module(symbol, context=mx.cpu())
    module.bind([("data", shape)], [("softmax_label", shape[:1])])
    return module


def by_mxnet(args: argparse.Namespace, images: np.ndarray, labels: np.ndarray, weights: dict, fuse: bool) -> dict:
    """{name: what a step adds to that parameter}"""
    from common.find_mxnet import mx

    module = module_of(args.multiplier, images.shape, fuse)
    module.init_params(arg_params={name: mx.nd.array(array) for name, array in weights.items()}, aux_params={},
                       initializer=mx.init.Xavier(), allow_missing=True)
    module.init_optimizer(None, "sgd", {"learning_rate": LR, "momentum": 0.0, "wd": 0.0})
    module.forward_backward(mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(labels)]))
    module.update()
    mx.nd.waitall()
    return {name: array.asnumpy().astype(np.float64) - weights[name] for name, array in module.get_params()[0].items()}


def by_pytorch(kind: str, folder: str) -> None:
    import torch

    from benchmarks.pytorch_training import PARTS, Network

    given = dict(np.load(f"{folder}/given.npz"))
    network = Network(CLASSES, multiplier=float(given["multiplier"]))
    network.load_published(given)
    network = network.to(getattr(torch, kind)).train()
    images, labels = torch.from_numpy(given["images"]).to(getattr(torch, kind)), torch.from_numpy(given["labels"])
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    names = {f"units.{unit}.{part}": f"{unit}-{name}" for unit in network.units for name, part in PARTS.items()}
    names |= {"fc.weight": "fc_weight", "fc.bias": "fc_bias"}
    np.savez(f"{folder}/updates.npz", **{names[name]: -LR * parameter.grad.double().numpy()
                                        for name, parameter in network.named_parameters()})


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="folder with photographs")
    parser.add_argument("--multiplier", type=float, default=0.5, help="of the network")
    parser.add_argument("--side", type=positive, default=96, help="pixels of the input")
    parser.add_argument("--batch-size", type=positive, default=32, help="photographs")
    parser.add_argument("--batches", type=positive, default=5, help="each with other weights")
    parser.add_argument("--python", default=sys.executable, help="the Python that has torch and torchvision")
    parser.add_argument("--out", type=output, default="benchmarks/one_step.csv", help="CSV file to write")
    parser.add_argument("--by-pytorch", nargs=2, metavar=("TYPE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with reported("one_step.py"):
        by_pytorch(*arguments.by_pytorch) if arguments.by_pytorch else main(arguments)

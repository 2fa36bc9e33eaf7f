"""One contender of benchmarks/training.py as a process of its own: a training step of MobileNetV2 1.0.

    python -m benchmarks.training_runners NAME

imports no more than its framework needs, which may be installed for another Python than that of this repository.
"""
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.serving import Runner, serve

CLASSES, LEARNING_RATE, MOMENTUM, DECAY = 1000, 0.01, 0.9, 4e-5
PROFILED = 5  # steps

Opened = tuple[Callable[[], None], str, Callable[[dict], dict[str, float] | None]]


def batch(request: dict) -> tuple[np.ndarray, np.ndarray]:
    rng, side = np.random.RandomState(0), request["side"]
    images = rng.normal(0, 1, (request["batch_size"], 3, side, side)).astype(np.float32)
    return images, rng.randint(0, CLASSES, request["batch_size"])


def open_mxnet(request: dict, fuse: bool) -> Opened:
    if request.get("profile"):
        os.environ["MXNET_EXEC_BULK_EXEC_TRAIN"] = "0"  # each operator for itself
    from common.find_mxnet import mx
    from common.training.fused_batchnorm import fused, load
    from common.training.training_symbol import training_symbol
    from symbols.mobilenetv2 import get_symbol

    symbol = training_symbol(get_symbol(num_classes=CLASSES))
    if fuse:
        load()
        symbol = fused(symbol)
    images, labels = batch(request)
    given = mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(labels)])
    module = mx.mod.Module(symbol, context=mx.cpu())
    module.bind([mx.io.DataDesc("data", images.shape)], [mx.io.DataDesc("softmax_label", labels.shape)])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    module.init_optimizer(None, "sgd", {"learning_rate": LEARNING_RATE, "momentum": MOMENTUM, "wd": DECAY})

    def step():
        module.forward_backward(given)
        module.update()
        mx.nd.waitall()

    def profile(_):
        """{operator: milliseconds of a step}"""
        with tempfile.TemporaryDirectory() as folder:  # the profiler writes a trace too, of which nothing is read
            mx.profiler.set_config(profile_symbolic=True, profile_imperative=True, aggregate_stats=True,
                                   filename=os.path.join(folder, "trace.json"))
            mx.profiler.set_state("run")
            for _ in range(PROFILED):
                step()
            operators = json.loads(mx.profiler.dumps(format="json"))["Time"]["operator"]
            mx.profiler.dump()
        return {name: numbers["Total"] / PROFILED for name, numbers in operators.items()}

    return step, "Module of the Symbol API, SGD", profile if request.get("profile") else lambda _: None


def open_pytorch(request: dict, channels_last: bool) -> Opened:
    import torch

    from benchmarks.torchvision_models import import_torchvision

    torch.set_num_threads(request["cores"])
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, batch(request))
    network = import_torchvision().models.mobilenet_v2(num_classes=CLASSES, dropout=0).train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=DECAY)
    loss = torch.nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()

    return step, "torchvision's network, SGD", lambda _: None


TORCH = ("torch", "torchvision")
RUNNERS = {
    "mxnet": Runner("MXNet", ("mxnet",), partial(open_mxnet, fuse=False)),
    "mxnet-fused": Runner("MXNet, fused BatchNorm", ("mxnet",), partial(open_mxnet, fuse=True)),
    "pytorch": Runner("PyTorch, NCHW", TORCH, partial(open_pytorch, channels_last=False), True),
    "pytorch-last": Runner("PyTorch, channels last", TORCH, partial(open_pytorch, channels_last=True), True),
}


if __name__ == "__main__":
    runner = RUNNERS[sys.argv[1]]
    serve(runner.open, runner.packages)

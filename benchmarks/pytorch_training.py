"""MobileNetV2 trained by PyTorch, in the form of torchvision's references/classification: what benchmarks/parity.py and
benchmarks/finetuning.py compare with. A process of its own, in an environment that has torch and torchvision:

    python -m benchmarks.pytorch_training REQUEST.json

REQUEST.json has the fields of `Request`. Each epoch prints a line of JSON. Nothing of this repository's network, images
or schedule is used, but for the names of parameters to start from and of classes in folders.
"""
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from benchmarks.torchvision_models import import_torchvision

torchvision = import_torchvision()

# published names of a unit's arrays, and those here
PARTS = {"conv2d_weight": "conv.weight", "batchnorm_gamma": "norm.weight", "batchnorm_beta": "norm.bias"}
STATISTICS = {"batchnorm_moving_mean": "norm.running_mean", "batchnorm_moving_var": "norm.running_var"}
TABLE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass
class Request:
    """`train`, `val`: folders with a folder of photographs for each class; `val` is scored after every epoch, or after
    the last if `val_once`. `start`: a .npz of weights under their published names; None: from random ones.
    `resized_crop`: (least, largest area) of torchvision's RandomResizedCrop, None for a square of `side` out of an
    image whose shorter side is drawn between `shorter`. `hls`: largest changes of hue, lightness, saturation in
    OpenCV's units."""
    train: str
    val: str
    classes: int
    side: int
    shorter: tuple[int, int]
    epochs: int
    seed: int
    batch_size: int = 64
    lr: float = 0.05
    head_lr_mult: float = 1.0
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    optimizer: str = "nag"
    weight_decay: float = 4e-5
    label_smoothing: float = 0.0
    resized_crop: tuple[float, float] | None = None
    hls: tuple[int, int, int] = (0, 0, 0)
    mean: tuple = (123.68, 116.78, 103.94)
    std: tuple = (1.0, 1.0, 1.0)
    resize: int = 73  # in evaluation
    same_padding: bool = False
    start: str | None = None
    val_once: bool = False
    threads: int = 2


class Unit(nn.Module):
    def __init__(self, into: int, out: int, kernel: int, stride: int, groups: int, active: bool, same: bool) -> None:
        super().__init__()
        self.same = same and stride == 2
        self.conv = nn.Conv2d(into, out, kernel, stride, 0 if self.same else kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=1e-5, momentum=0.1)
        self.active = active

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.same:  # as TensorFlow's, for a kernel of 3: the odd row and column at the end
            down, right = (1 if size % 2 else 0 for size in x.shape[2:])
            x = functional.pad(x, (right, 1, down, 1))
        x = self.norm(self.conv(x))
        return functional.relu6(x) if self.active else x


class Network(nn.Module):
    """The published network, whose first block has its expansion."""

    def __init__(self, classes: int, same: bool = False, multiplier: float = 1.0) -> None:
        super().__init__()
        self.units, self.blocks, into = nn.ModuleDict(), [], int(round(32 * multiplier))
        self.units["first-3x3-conv"] = Unit(3, into, 3, 2, 1, True, same)
        for stage, (expansion, channels, repeats, stride) in enumerate(TABLE):
            out = int(round(channels * multiplier))
            for block in range(repeats):
                name, wide = f"seq-{stage}-block{block}", into * expansion
                self.units[f"{name}-exp"] = Unit(into, wide, 1, 1, 1, True, same)
                self.units[f"{name}-depthwise"] = Unit(wide, wide, 3, 1 if block else stride, wide, True, same)
                self.units[f"{name}-linear"] = Unit(wide, out, 1, 1, 1, False, same)
                self.blocks.append((name, block > 0))
                into = out
        self.units["last-1x1-conv"] = Unit(into, 1280, 1, 1, 1, True, same)
        self.fc = nn.Linear(1280, classes)
        for module in self.modules():  # as the original: gaussian, by fan-in, magnitude 2
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.units["first-3x3-conv"](x)
        for name, shortcut in self.blocks:
            y = x
            for part in ("exp", "depthwise", "linear"):
                y = self.units[f"{name}-{part}"](y)
            x = x + y if shortcut else y
        return self.fc(self.units["last-1x1-conv"](x).mean(dim=(2, 3)))

    def load_published(self, arrays: dict) -> None:
        """Weights under their published names; without a classifier it stays as it is."""
        state = {f"units.{name}.{part}": arrays[f"{name}-{theirs}"] for name in self.units
                 for theirs, part in (PARTS | STATISTICS).items() if f"{name}-{theirs}" in arrays}
        if "fc_weight" in arrays:
            state |= {"fc.weight": arrays["fc_weight"], "fc.bias": arrays["fc_bias"]}
        own = self.state_dict()
        own.update({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        self.load_state_dict(own)


class Shorter:
    """The shorter side drawn from a range."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def __call__(self, image: Image.Image) -> Image.Image:
        side = self.least + (self.most - self.least) * torch.rand(1).item()
        return torchvision.transforms.functional.resize(image, round(side), antialias=False)


class ChangeHLS:
    """Amounts added to OpenCV's 8-bit hue, lightness and saturation, clipped, mostly small, as MXNet's."""

    def __init__(self, hue: int, lightness: int, saturation: int) -> None:
        self.most = np.array([hue, lightness, saturation])

    def __call__(self, image: Image.Image) -> np.ndarray:
        a, b = torch.rand(2, 3).numpy()
        amounts = (self.most * (2 * (a + 4 * b) / 5 - 1)).astype(int)
        pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2HLS).astype(int) + amounts
        return cv2.cvtColor(np.clip(pixels, 0, (180, 255, 255)).astype(np.uint8), cv2.COLOR_HLS2RGB)


def loaders(request: Request) -> tuple:
    """(training batches, validation batches)"""
    def normalised(image):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        return (pixels - torch.tensor(request.mean).view(3, 1, 1)) / torch.tensor(request.std).view(3, 1, 1)

    transforms = torchvision.transforms
    cut = ([transforms.RandomResizedCrop(request.side, request.resized_crop, (1.0, 1.0))] if request.resized_crop
           else [Shorter(*request.shorter), transforms.RandomCrop(request.side)])
    colours = [ChangeHLS(*request.hls)] if any(request.hls) else []
    train = torchvision.datasets.ImageFolder(request.train, transforms.Compose(
        [*cut, transforms.RandomHorizontalFlip(), *colours, normalised]))
    val = torchvision.datasets.ImageFolder(request.val, transforms.Compose(
        [transforms.Resize(request.resize), transforms.CenterCrop(request.side), normalised]))
    generator = torch.Generator().manual_seed(request.seed)
    return (torch.utils.data.DataLoader(train, request.batch_size, shuffle=True, drop_last=True, generator=generator),
            torch.utils.data.DataLoader(val, request.batch_size))


def groups(network: Network, request: Request) -> list:
    """Weight decay on weights and gammas, none on biases and betas, as MXNet's; the classifier's rate is multiplied."""
    found = []
    for name, parameter in network.named_parameters():
        found.append({"params": [parameter], "mult": request.head_lr_mult if name.startswith("fc.") else 1.0,
                      "weight_decay": request.weight_decay if name.endswith("weight") else 0.0})
    return found


def optimizer_of(request: Request, parameters: list) -> torch.optim.Optimizer:
    """The optimizer that MXNet calls `request.optimizer`."""
    if request.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0)
    return torch.optim.SGD(parameters, lr=0.0, momentum=request.momentum, nesterov=request.optimizer == "nag")


def rate(request: Request, step: int, steps: int) -> float:
    """Cosine to 0 after a linear warm-up from 0, for each step."""
    warmup = request.warmup_epochs * steps / request.epochs
    if step < warmup:
        return request.lr * step / warmup
    return request.lr * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


@torch.no_grad()
def evaluate(network: Network, batches: torch.utils.data.DataLoader) -> float:
    network.eval()
    right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in batches)
    return right / len(batches.dataset)


def train(request: Request) -> None:
    torch.manual_seed(request.seed)
    torch.set_num_threads(request.threads)
    network = Network(request.classes, request.same_padding)
    if request.start:
        network.load_published(dict(np.load(request.start)))
    train_batches, val_batches = loaders(request)
    loss_of = nn.CrossEntropyLoss(label_smoothing=request.label_smoothing)
    optimizer = optimizer_of(request, groups(network, request))
    step, steps = 0, request.epochs * len(train_batches)
    for epoch in range(request.epochs):
        network.train()
        began, losses, right, seen = time.monotonic(), [], 0, 0
        for images, labels in train_batches:
            lr = rate(request, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["mult"]
            output = network(images)
            loss = loss_of(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            losses.append(functional.cross_entropy(output.detach(), labels).item())  # as train_imagenet.py tells it
            right, seen = right + int((output.argmax(1) == labels).sum()), seen + len(labels)
        seconds = time.monotonic() - began
        last = epoch + 1 == request.epochs
        top_1 = evaluate(network, val_batches) if last or not request.val_once else None
        print(json.dumps({"epoch": epoch + 1, "loss": float(np.mean(losses)), "train_top_1": right / seen,
                          "top_1": top_1, "seconds": seconds, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    train(Request(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

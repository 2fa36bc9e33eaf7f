"""What scripts of training with PyTorch leave: the weights wrapped, beside their moving average, flags and states, or a
model in place of weights.

    .venv-converters/bin/python -m tests.converters.torch_checkpoints FOLDER

writes each as FOLDER/NAME, with FOLDER/pixels.npy, uint8 (2, 3, 64, 64) RGB, and what the weights and the average
answer to them: weights.npy and average.npy of torchvision's network, timm-weights.npy and timm-average.npy of timm's.
"""
import argparse
import copy
from pathlib import Path

import numpy as np

from tests.converters import frameworks
from tests.converters.random_weights import images

SIZE, CLASSES = 64, 10


def main():
    import torch
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    pixels = images(SIZE, frameworks.SEED)
    np.save(out / "pixels.npy", pixels)
    for kind, begin in (("torchvision", ""), ("timm", "timm-")):
        model, preprocess = frameworks.torch_model(kind, 0.35, frameworks.TIMM[0.35], SIZE, CLASSES)
        frameworks.fill_torch(model)
        average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
        for factor in (0.9, 1.05):
            average.update_parameters(_scaled(model, factor))
        for name, network in (("weights", model), ("average", average.module)):
            np.save(out / f"{begin}{name}.npy", frameworks.run_torch(network, preprocess(pixels)))
        {"torchvision": save_torchvision, "timm": save_timm}[kind](model, average, out)


def _scaled(model, factor):
    import torch
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.mul_(factor)
    return scaled


def save_torchvision(model, average, out):
    """references.pth as torchvision's references/classification/train.py writes it; lightning.ckpt as PyTorch Lightning
    does, with a loss's weights and a metric's counts, and lightning-average.ckpt with its WeightAveraging."""
    import torch
    states, flags = torch.optim.SGD(model.parameters(), 0.1).state_dict(), argparse.Namespace(lr=0.1, device="cpu")
    torch.save({"model": model.state_dict(), "optimizer": states, "lr_scheduler": {"last_epoch": 3}, "epoch": 3,
                "args": flags, "model_ema": average.state_dict()}, out / "references.pth")
    others = {"criterion.weight": torch.ones(CLASSES), "train_acc.tp": torch.ones(CLASSES, dtype=torch.long)}
    weights, averaged = ({**{f"model.{name}": tensor for name, tensor in network.state_dict().items()}, **others}
                         for network in (model, average.module))
    rest = {"epoch": 3, "optimizer_states": [states], "hyper_parameters": {"lr": 0.1}, "callbacks": {}}
    torch.save({"state_dict": weights, **rest}, out / "lightning.ckpt")
    torch.save({"state_dict": averaged, "current_model_state": weights, **rest}, out / "lightning-average.ckpt")
    torch.save(torch.compile(torch.nn.DataParallel(model)).state_dict(), out / "compiled.pth")
    torch.save(model, out / "model.pt")
    torch.jit.script(model).save(out / "script.pt")
    torch.save({name: tensor.to_sparse() for name, tensor in model.state_dict().items()}, out / "sparse.pth")
    torch.save({"epoch": 3, "optimizer": states}, out / "optimizer.pth")


def save_timm(model, average, out):
    """timm.pth.tar, by timm's own CheckpointSaver."""
    import torch
    from timm.utils import CheckpointSaver
    flags = argparse.Namespace(model="mobilenetv2_035", lr=0.1)
    saver = CheckpointSaver(model, torch.optim.SGD(model.parameters(), 0.1), flags, average, checkpoint_dir=str(out))
    saver.save_checkpoint(3, metric=0.5)
    (out / "last.pth.tar").rename(out / "timm.pth.tar")


if __name__ == "__main__":
    main()

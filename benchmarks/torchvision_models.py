"""torchvision, for its MobileNetV2, beside whatever PyTorch there is."""
import ast
from pathlib import Path
from types import ModuleType
from typing import Any


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled operators do not fit the torch installed, as PyPI's build for CUDA does not
    fit a torch for CPUs. MobileNetV2 uses none of them; what the import wants is that two of them have a signature."""
    import torch
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
        torchvision.signatures = library  # they last as long as this object
    return torchvision


def model_of(path: str | Path) -> Any:
    """torchvision's network with the weights of a file that tools/export_weights.py has written."""
    from safetensors import safe_open
    from safetensors.torch import load_file
    with safe_open(path, "pt") as file:  # "torchvision.models.mobilenet_v2(width_mult=1.0, ...)"
        expression = ast.parse(file.metadata()["model"], mode="eval").body
    arguments = {argument.arg: ast.literal_eval(argument.value) for argument in expression.keywords}
    network = getattr(import_torchvision().models, expression.func.attr)(**arguments)
    network.load_state_dict(load_file(path))
    return network

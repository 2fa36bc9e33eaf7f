"""torchvision, for its MobileNetV2, beside whatever PyTorch there is."""
from types import ModuleType


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

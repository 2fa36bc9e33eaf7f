"""The names that other frameworks give to the parameters of the published checkpoints.

A table gives each unit's convolution and BatchNorm, with {i} for the stage, {j} for the block of the stage, {b} for the
block of all blocks, each from 0, and sums such as {b+1} of it.
"""
import re
from typing import NamedTuple

from common.checkpoint.arrays import unit_names

TORCH = {"gamma": ".weight", "beta": ".bias", "moving_mean": ".running_mean", "moving_var": ".running_var"}


class Names(NamedTuple):
    """A framework's names of the parameters."""
    first: tuple[str, str]                # convolution and BatchNorm of the first unit
    expanded: dict[str, tuple[str, str]]  # of the units of a block with an expansion
    plain: dict[str, tuple[str, str]]     # of the first block, if it has none
    last: tuple[str, str]
    fc: str
    kernel: str = ".weight"
    depthwise_kernel: str = ".weight"
    bias: str = ".bias"
    fc_has_bias: bool = True
    batchnorm: dict[str, str] = TORCH


TORCHVISION = Names(
    first=("features.0.0", "features.0.1"),
    expanded={"exp": ("features.{b+1}.conv.0.0", "features.{b+1}.conv.0.1"),
              "depthwise": ("features.{b+1}.conv.1.0", "features.{b+1}.conv.1.1"),
              "linear": ("features.{b+1}.conv.2", "features.{b+1}.conv.3")},
    plain={"depthwise": ("features.1.conv.0.0", "features.1.conv.0.1"),
           "linear": ("features.1.conv.1", "features.1.conv.2")},
    last=("features.{b+1}.0", "features.{b+1}.1"),
    fc="classifier.1",
)
TIMM = Names(
    first=("conv_stem", "bn1"),
    expanded={"exp": ("blocks.{i}.{j}.conv_pw", "blocks.{i}.{j}.bn1"),
              "depthwise": ("blocks.{i}.{j}.conv_dw", "blocks.{i}.{j}.bn2"),
              "linear": ("blocks.{i}.{j}.conv_pwl", "blocks.{i}.{j}.bn3")},
    plain={"depthwise": ("blocks.0.0.conv_dw", "blocks.0.0.bn1"), "linear": ("blocks.0.0.conv_pw", "blocks.0.0.bn2")},
    last=("conv_head", "bn2"),
    fc="classifier",
)
KERAS = Names(
    first=("Conv1", "bn_Conv1"),
    expanded={"exp": ("block_{b}_expand", "block_{b}_expand_BN"),
              "depthwise": ("block_{b}_depthwise", "block_{b}_depthwise_BN"),
              "linear": ("block_{b}_project", "block_{b}_project_BN")},
    plain={"depthwise": ("expanded_conv_depthwise", "expanded_conv_depthwise_BN"),
           "linear": ("expanded_conv_project", "expanded_conv_project_BN")},
    last=("Conv_1", "Conv_1_bn"),
    fc="predictions",
    kernel="/kernel", depthwise_kernel="/depthwise_kernel", bias="/bias",
    batchnorm={"gamma": "/gamma", "beta": "/beta", "moving_mean": "/moving_mean", "moving_var": "/moving_variance"},
)
_GLUON: dict = dict(fc_has_bias=False, kernel="weight", depthwise_kernel="weight", bias="bias", batchnorm={
    "gamma": "gamma", "beta": "beta", "moving_mean": "running_mean", "moving_var": "running_var"})
GLUON = Names(  # of save_parameters
    first=("features.0.", "features.1."),
    expanded={"exp": ("features.{b+3}.out.0.", "features.{b+3}.out.1."),
              "depthwise": ("features.{b+3}.out.3.", "features.{b+3}.out.4."),
              "linear": ("features.{b+3}.out.6.", "features.{b+3}.out.7.")},
    plain={},
    last=("features.{b+3}.", "features.{b+4}."),
    fc="output.0.", **_GLUON,
)
GLUON_FLAT = Names(  # of the zoo's files and of export
    first=("features_conv0_", "features_batchnorm0_"),
    expanded={unit: (f"features_linearbottleneck{{b}}_conv{n}_", f"features_linearbottleneck{{b}}_batchnorm{n}_")
              for n, unit in enumerate(("exp", "depthwise", "linear"))},
    plain={},
    last=("features_conv1_", "features_batchnorm1_"),
    fc="output_pred_", **_GLUON,
)


def source_names(names: Names, repeats: tuple[int, ...], first_expansion: bool) -> dict[str, str]:
    """{published parameter name: name in the source}, in the network's order.

    `first_expansion`: whether the first block has an expansion there.
    """
    table, b, blocks = {}, -1, sum(repeats)
    for unit in unit_names(repeats):
        match = re.fullmatch(r"seq-(\d+)-block(\d+)-(\w+)", unit)
        if not match:
            numbers = {"b": blocks}
            convolution, batchnorm = names.first if unit.startswith("first") else names.last
        else:
            stage, block, kind = int(match[1]), int(match[2]), match[3]
            b += kind == "exp"
            numbers = {"i": stage, "j": block, "b": b}
            units = names.expanded if b or first_expansion else names.plain
            if kind not in units:
                continue
            convolution, batchnorm = units[kind]
        kernel = names.depthwise_kernel if unit.endswith("-depthwise") else names.kernel
        table[f"{unit}-conv2d_weight"] = _filled(convolution, numbers) + kernel
        for part, suffix in names.batchnorm.items():
            table[f"{unit}-batchnorm_{part}"] = _filled(batchnorm, numbers) + suffix
    table["fc_weight"], table["fc_bias"] = names.fc + names.kernel, names.fc + names.bias
    return table


def _filled(template, numbers):
    return re.sub(r"\{(\w)\+?(\d*)\}", lambda match: str(numbers[match[1]] + int(match[2] or 0)), template)

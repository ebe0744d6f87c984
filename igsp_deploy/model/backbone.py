"""The frozen CLIP: what the rest of the project asks of it, and its identity."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.errors import UserError
from igsp_deploy.model.adaptable import check_adaptable


class Backbone:
    """A frozen open_clip model with what the rest of the project asks of it.

    Attributes:
        clip: the open_clip model, in eval mode, no parameter requires gradient.
        name: open_clip model name, or `nano`.
        pretrained: open_clip tag or checkpoint path it was loaded from, or None.
        weight_hash: SHA-256 over all parameters and buffers, its identity.
        preprocess: how an image becomes its input.
        tokenizer: open_clip tokenizer, texts -> ids `[N, context_length]`.
        quick_gelu: QuickGELU was put in the place of the architecture's own activation.
    """

    def __init__(
        self,
        clip: Any,
        name: str,
        pretrained: str | None,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        quick_gelu: bool = False,
    ) -> None:
        """Wrap `clip`, freeze it and check that its towers can be adapted.

        Raises:
            UserError: a tower is not one this project knows how to adapt.
        """
        check_adaptable(clip, name)
        self.clip = clip.eval().requires_grad_(False)
        # Convolutions of the patch embedding run faster with the channels innermost (nano's trunk: 0.75 of the time).
        clip.visual.conv1.to(memory_format=torch.channels_last)
        self.name = name
        self.pretrained = pretrained
        self.weight_hash = hash_weights(clip)
        self.tokenizer = tokenizer
        self.quick_gelu = quick_gelu
        self.visual: Any = self.clip.visual
        self.text: Any = self.clip if isinstance(clip, CLIP) else self.clip.text
        self.vision_depth = len(self.visual.transformer.resblocks)
        self.text_depth = len(self.text.transformer.resblocks)
        self.vision_width: int = self.visual.class_embedding.shape[0]
        self.text_width: int = self.text.token_embedding.weight.shape[1]
        self.embed_dim: int = self.visual.output_dim
        self.context_length: int = self.text.context_length
        self.logit_scale: float = float(self.clip.logit_scale.exp())
        self.preprocess = _preprocess_spec(self.visual)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.visual.class_embedding.device
        return device

    def to(self, device: torch.device | str) -> "Backbone":
        """Move the weights to `device`, in place."""
        self.clip.to(device)
        return self

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids of `texts`, int64 `[N, context_length]`, padded as its tokenizer does."""
        return self.tokenizer(texts)

    def identity(self) -> dict[str, Any]:
        """Name, pretrained tag, weight hash and what its weights were trained with, as stored in a model folder."""
        return {
            "name": self.name,
            "pretrained": self.pretrained,
            "weight_hash": self.weight_hash,
            "quick_gelu": self.quick_gelu,
            "preprocess": dataclasses.asdict(self.preprocess),
        }


def hash_weights(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and persistent buffers, independent of their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _preprocess_spec(visual: Any) -> PreprocessSpec:
    settings = getattr(visual, "preprocess_cfg", None) or {}
    size = settings.get("size", visual.image_size)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if height != width:
        raise UserError(f"the backbone wants images of {width} x {height}; only square inputs are supported.")
    mode: Any = settings.get("resize_mode") or "shortest"
    if mode == "longest" and settings.get("fill_color"):
        raise UserError("the backbone pads images with another colour than black, which is not supported.")
    return PreprocessSpec(
        size=int(height),
        mean=tuple(float(v) for v in settings.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(float(v) for v in settings.get("std", open_clip.OPENAI_DATASET_STD)),
        # `random` is of training; open_clip classifies with the cubic one then.
        interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
        resize_mode=mode,
        decoding="scaled",
    )

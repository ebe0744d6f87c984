"""The frozen CLIP: what the rest of the project asks of it, and its identity."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.errors import UserError
from igsp_deploy.model.towers import towers


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
        """Wrap `clip`, freeze it and look at its towers.

        Raises:
            UserError: it has no image and text tower, or its images are not square.
        """
        self.image_ends, self.text_ends = towers(clip, name)
        self.clip = clip.eval().requires_grad_(False)
        self.name = name
        self.pretrained = pretrained
        self.weight_hash = hash_weights(clip)
        self.tokenizer = tokenizer
        self.quick_gelu = quick_gelu
        self.vision_depth, self.text_depth = len(self.image_ends.inner_blocks), len(self.text_ends.inner_blocks)
        self.vision_width, self.text_width = self.image_ends.width, self.text_ends.width
        self.embed_dim = self.text_ends.embed_dim
        self.context_length = int(getattr(tokenizer, "context_length", None) or clip.context_length)
        self.logit_scale: float = float(self.clip.logit_scale.exp())
        bias = getattr(self.clip, "logit_bias", None)
        self.logit_bias: float | None = None if bias is None else float(bias)
        self.preprocess = _preprocess_spec(getattr(clip.visual, "preprocess_cfg", None) or {}, self.image_ends.side)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.clip.logit_scale.device
        return device

    @property
    def public_name(self) -> str:
        """Its name without the folders of this machine, for what is handed out."""
        kind, colon, place = self.name.partition(":")
        return f"{kind}:{Path(place).name}" if colon and kind == "local-dir" else self.name

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


def _preprocess_spec(settings: dict[str, Any], side: int) -> PreprocessSpec:
    mode: Any = settings.get("resize_mode") or "shortest"
    if mode == "longest" and settings.get("fill_color"):
        raise UserError("the backbone pads images with another colour than black, which is not supported.")
    return PreprocessSpec(
        size=side,
        mean=tuple(float(v) for v in settings.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(float(v) for v in settings.get("std", open_clip.OPENAI_DATASET_STD)),
        # `random` is of training; open_clip classifies with the cubic one then.
        interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
        resize_mode=mode,
        decoding="scaled",
    )

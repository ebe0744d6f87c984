"""What experts are worth on images that were not trained on: losses with some of them left out of the routers.

Shapes: M images, C classes, K experts of a block.
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.model.adapter import BlockAdapter, TaskAdapter
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.towers import encode_from_trunk, encode_text
from igsp_deploy.sites import Site
from igsp_train.learner import TaskLearner

Masks = Mapping[Site, Tensor]
"""Block -> bool `[K]`, True for the experts that stay. A block that is absent keeps all."""


class HeldOutLoss:
    """Cross-entropy on held-out images as a function of which experts stay. Gates are shared anew among those."""

    def __init__(
        self, backbone: Backbone, learner: TaskLearner, first_block: int, prompts: Tensor, images: tuple[Tensor, Tensor]
    ) -> None:
        """Look at the learner as it is now.

        Args:
            backbone: the frozen CLIP.
            learner: candidates, frozen experts, routers.
            first_block: first adapted vision block.
            prompts: token ids, one row a class.
            images: trunk tokens `[M, n, d]` and labels `[M]`.
        """
        self._backbone = backbone
        self._first_block = first_block
        self._prompts = prompts
        self._tokens, self._labels = images
        with torch.no_grad():
            self._adapter = learner.adapter().detach_to(backbone.device)
            self._images = self._encode_images(self._adapter)
            self._classes = self._encode_classes(self._adapter)

    def __call__(self, masks: Masks) -> float:
        """Loss in nats with only the masked experts."""
        adapter = TaskAdapter(
            vision={b: _masked(a, masks.get(("vision", b))) for b, a in self._adapter.vision.items()},
            text={b: _masked(a, masks.get(("text", b))) for b, a in self._adapter.text.items()},
        )
        towers = {tower for tower, _ in masks}
        with torch.no_grad():
            images = self._encode_images(adapter) if "vision" in towers else self._images
            classes = self._encode_classes(adapter) if "text" in towers else self._classes
            logits = self._backbone.logit_scale * images @ classes.T
            return float(F.cross_entropy(logits, self._labels.to(logits.device)))

    def _encode_images(self, adapter: TaskAdapter) -> Tensor:
        tokens = self._tokens.to(self._backbone.device)
        return encode_from_trunk(self._backbone, tokens, adapter, self._first_block, normalize=True)

    def _encode_classes(self, adapter: TaskAdapter) -> Tensor:
        return encode_text(self._backbone, self._prompts, adapter, normalize=True, crop=True)


def _masked(adapter: BlockAdapter, mask: Tensor | None) -> BlockAdapter:
    """Gates of what is masked out become zero, and the softmax over the rest sums to one again."""
    if mask is None:
        return adapter
    bias = adapter.router_bias.masked_fill(~mask.to(adapter.router_bias.device), float("-inf"))
    return dataclasses.replace(adapter, router_bias=bias)


def leave_one_out(loss: HeldOutLoss, sizes: dict[Site, int]) -> dict[Site, Tensor]:
    """By how many nats the held-out loss grows when one expert alone is left out: `[K]` for each block.

    The only expert of a block cannot be left out; it counts as infinitely useful.
    """
    whole = loss({})
    worth = {}
    for site, count in sizes.items():
        values = torch.full((count,), float("inf"))
        for expert in range(count if count > 1 else 0):
            mask = torch.ones(count, dtype=torch.bool)
            mask[expert] = False
            values[expert] = loss({site: mask}) - whole
        worth[site] = values
    return worth

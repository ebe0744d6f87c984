"""What experts are worth on images that were not trained on: losses with some of them left out of the routers.

Shapes: M images, C classes, K experts of a block.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import frozen
from igsp_deploy.sites import Site
from igsp_train.learner import TaskLearner

Masks = Mapping[Site, Tensor]
"""Block -> bool `[K]`, True for the experts that stay. A block that is absent keeps all."""


class HeldOutLoss:
    """Cross-entropy on held-out images as a function of which experts stay. Gates are shared anew among those."""

    def __init__(
        self, clip: Clip, learner: TaskLearner, prompts: tuple[Tensor, Tensor], images: tuple[Tensor, Tensor]
    ) -> None:
        """Look at the learner as it is now.

        Args:
            clip: the frozen CLIP.
            learner: candidates, frozen experts, routers.
            prompts: token ids, one row a class, and what the text tower's trunk makes of them.
            images: trunk tokens `[M, n, d]` and labels `[M]`.
        """
        self._clip = clip
        self._ids, self._prompts = prompts
        self._tokens, self._labels = (t.to(clip.device) for t in images)
        with torch.no_grad():
            self._experts = frozen(learner.experts(), clip.device)
            self._images = clip.embed(self._tokens, self._experts)
            self._classes = clip.embed_text(self._ids, self._experts, trunk=self._prompts)

    def __call__(self, masks: Masks) -> float:
        """Loss in nats with only the masked experts."""
        return float(F.cross_entropy(self._logits(masks), self._labels))

    def accuracy(self) -> float:
        """Share of right answers with all experts."""
        return float((self._logits({}).argmax(1) == self._labels).float().mean())

    def _logits(self, masks: Masks) -> Tensor:
        experts = {site: block.masked(masks[site]) if site in masks else block for site, block in self._experts.items()}
        towers = {tower for tower, _ in masks}
        images, classes = self._images, self._classes
        with torch.no_grad():
            if "vision" in towers:
                images = self._clip.embed(self._tokens, experts)
            if "text" in towers:
                classes = self._clip.embed_text(self._ids, experts, trunk=self._prompts)
            return self._clip.logit_scale * images @ classes.T


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

"""The image side of a bundle as one module: pixels and a task for each sample in, embeddings and the task used out.

Shapes: B images, S image side, D embedding width, T tasks, F selector features, C classes of all tasks.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.config import RouterInput, SelectorPlace
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.selector import CHOOSE, PLAIN, Selector, selector_features
from igsp_export.blocks import StackedExperts, plain_block, slots, stacked_block
from igsp_export.compact import Stack


class SelectorGraph(nn.Module):
    """Mahalanobis scores of every task, minus the task's threshold; the choice."""

    center: Tensor
    whitening: Tensor
    means: Tensor
    class_task: Tensor
    thresholds: Tensor

    def __init__(self, selector: Selector) -> None:
        """Hold the selector's numbers as buffers."""
        super().__init__()
        self.register_buffer("center", selector.center)
        self.register_buffer("whitening", selector.whitening)
        self.register_buffer("means", selector.whitened_means)
        self.register_buffer("class_task", selector.class_task)
        self.register_buffer("thresholds", selector.thresholds)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`features` `[B, F]` -> chosen task `[B]` (`PLAIN`: none accepts), scores minus thresholds `[B, T]`."""
        u = (features - self.center) @ self.whitening
        squared = (u * u).sum(1, keepdim=True) - 2.0 * (u @ self.means.T) + (self.means * self.means).sum(1)
        floor = torch.full((u.shape[0], self.thresholds.shape[0]), -1e30, dtype=u.dtype, device=u.device)
        index = self.class_task.unsqueeze(0).expand(u.shape[0], -1)
        scores = floor.scatter_reduce(1, index, -0.5 * squared, "amax")
        best, task = scores.max(dim=1)
        chosen = torch.where(best >= self.thresholds[task], task, torch.full_like(task, PLAIN))
        return chosen, scores - self.thresholds


class ImageGraph(nn.Module):
    """One pass over the shared trunk, the choice of the task, then the adapted blocks with each sample's experts."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        backbone: Backbone,
        stacks: dict[int, Stack],
        selector: Selector,
        *,
        first_block: int,
        place: SelectorPlace,
        router_input: RouterInput,
    ) -> None:
        """Take the frozen image tower and the stacked tasks."""
        super().__init__()
        self.backbone = backbone
        self.visual = backbone.visual
        self.first_block = first_block
        self.place = place
        self.experts = nn.ModuleDict({str(b): StackedExperts(s, router_input) for b, s in stacks.items()})
        self.selector = SelectorGraph(selector)
        spec = backbone.preprocess
        self.register_buffer("pixel_scale", (1.0 / (255.0 * torch.tensor(spec.std))).view(1, 3, 1, 1))
        self.register_buffer("pixel_shift", (-torch.tensor(spec.mean) / torch.tensor(spec.std)).view(1, 3, 1, 1))

    def num_slots(self) -> int:
        """Slices of the stacks, plain CLIP's included."""
        return next((cast(StackedExperts, experts).down.shape[0] for experts in self.experts.values()), 1)

    def _head(self, x: Tensor) -> Tensor:
        pooled, _ = self.visual._pool(x)
        features = pooled @ self.visual.proj if self.visual.proj is not None else pooled
        return F.normalize(features, dim=-1)

    def forward(self, images: Tensor, task: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify into embeddings.

        Args:
            images: uint8 `[B, S, S, 3]`.
            task: int64 `[B]`: index of a task, -1 to choose, -2 for plain CLIP.

        Returns:
            Normalised embeddings `[B, D]`, the task used `[B]`, scores minus thresholds `[B, T]`.
        """
        pixels = images.permute(0, 3, 1, 2).float() * self.pixel_scale + self.pixel_shift
        x = self.visual._embeds(pixels.to(self.visual.class_embedding.dtype))
        blocks = self.visual.transformer.resblocks
        for number in range(self.first_block):
            x = plain_block(blocks[number], x)
        if self.place == "embedding":
            plain = x
            for number in range(self.first_block, len(blocks)):
                plain = plain_block(blocks[number], plain)
            read = self._head(plain)
        else:
            read = selector_features(self.backbone, x.float(), self.first_block, self.place)
        chosen, scores = self.selector(read.float())
        used = torch.where(task == CHOOSE, chosen, task)
        index = slots(used, self.num_slots())
        for number in range(self.first_block, len(blocks)):
            if str(number) in self.experts:
                experts = cast(StackedExperts, self.experts[str(number)])
                x = stacked_block(blocks[number], experts, x, index)
            else:
                x = plain_block(blocks[number], x)
        return self._head(x).float(), used, scores

    def half_precision(self) -> "ImageGraph":
        """A copy in fp16, but for the selector and the pixels' normalisation; its inputs and outputs stay the same."""
        graph = copy.deepcopy(self).half()
        # What went through half precision has lost digits; these have not.
        for name, buffer in self.selector.named_buffers():
            graph.selector.register_buffer(name, buffer.clone())
        graph.pixel_scale, graph.pixel_shift = self.pixel_scale.clone(), self.pixel_shift.clone()
        return graph

"""The image side of a bundle as modules: pixels and a task for each sample in, embeddings and the task used out.

Where the selector reads the shared trunk, one graph does all in one pass (`ImageGraph`). Where it reads plain CLIP's
embedding, a graph of its own chooses (`SelectGraph`), and the other one need not run for images that stay plain, nor
the first for callers who name the task.

Shapes: B images, S image side, D embedding width, T tasks, F selector features, N classes of all tasks.
"""

import copy
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import SelectorTable, Stacks
from igsp_deploy.config import RouterInput
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.selector import selector_features
from igsp_deploy.names import AUTO, PLAIN
from igsp_export.blocks import StackedExperts, answered, count_slots, plain_block, slots, stacked_block, stacked_experts


class SelectorGraph(nn.Module):
    """Scores of every task, as of `igsp_deploy.model.selector.Selector`, minus the task's threshold; the choice."""

    center: Tensor
    whitening: Tensor
    means: Tensor
    class_task: Tensor
    thresholds: Tensor
    background: Tensor

    def __init__(self, table: SelectorTable) -> None:
        """Hold the selector's numbers as buffers."""
        super().__init__()
        for name, value in table.arrays().items():
            self.register_buffer(name, torch.from_numpy(value))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`features` `[B, F]` -> chosen task `[B]` (`PLAIN`: none accepts), scores minus thresholds `[B, T]`."""
        u = (features - self.center) @ self.whitening
        own = (1.0 - self.background) * (u * u).sum(1, keepdim=True)
        squared = own - 2.0 * (u @ self.means.T) + (self.means * self.means).sum(1)
        floor = torch.full((u.shape[0], self.thresholds.shape[0]), -1e30, dtype=u.dtype, device=u.device)
        index = self.class_task.unsqueeze(0).expand(u.shape[0], -1)
        scores = floor.scatter_reduce(1, index, -0.5 * squared, "amax")
        best, task = scores.max(dim=1)
        chosen = torch.where(best >= self.thresholds[task], task, torch.full_like(task, PLAIN))
        return chosen, scores - self.thresholds


class _ImageTower(nn.Module):
    """The frozen image tower with its pixels' normalisation, which stays in float32 whatever the rest is in."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.visual: Any = backbone.visual
        spec = backbone.preprocess
        self.register_buffer("pixel_scale", (1.0 / (255.0 * torch.tensor(spec.std))).view(1, 3, 1, 1))
        self.register_buffer("pixel_shift", (-torch.tensor(spec.mean) / torch.tensor(spec.std)).view(1, 3, 1, 1))

    def embed(self, images: Tensor) -> Tensor:
        """Input of the first block, `[B, n, d]`."""
        pixels = images.permute(0, 3, 1, 2).float() * self.pixel_scale + self.pixel_shift
        return self.visual._embeds(pixels.to(self.visual.class_embedding.dtype))

    def head(self, x: Tensor) -> Tensor:
        """Normalised embeddings `[B, D]` of the last block's output."""
        pooled, _ = self.visual._pool(x)
        features = pooled @ self.visual.proj if self.visual.proj is not None else pooled
        return F.normalize(features.float(), dim=-1)

    def plain(self, x: Tensor, first: int, last: int) -> Tensor:
        """Frozen blocks `first` to `last - 1`."""
        for number in range(first, last):
            x = plain_block(self.visual.transformer.resblocks[number], x)
        return x

    def in_precision(self, dtype: torch.dtype) -> Self:
        """A copy in another floating-point type, but for the selector and the pixels' normalisation.

        Its inputs and outputs stay the same.
        """
        graph = copy.deepcopy(self).to(dtype)
        # What went through half precision has lost digits; these have not.
        kept = {name: value for name, value in self.named_buffers() if name.startswith(("selector.", "pixel_"))}
        for name, value in kept.items():
            owner, _, own = name.rpartition(".")
            graph.get_submodule(owner).register_buffer(own, value.clone())
        return graph


class PlainGraph(_ImageTower):
    """Plain CLIP alone: no experts, no selector. What every latency is compared with."""

    def forward(self, images: Tensor) -> Tensor:
        """uint8 `[B, S, S, 3]` -> normalised embeddings `[B, D]`."""
        return self.head(self.plain(self.embed(images), 0, len(self.visual.transformer.resblocks)))


class SelectGraph(_ImageTower):
    """The first of two passes: plain CLIP's embedding, and the task chosen from it."""

    def __init__(self, backbone: Backbone, selector: SelectorTable) -> None:
        """Take the frozen image tower and a selector that reads its embedding."""
        super().__init__(backbone)
        self.selector = SelectorGraph(selector)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 `[B, S, S, 3]` -> plain embeddings `[B, D]`, chosen task `[B]`, scores minus thresholds `[B, T]`."""
        features = self.head(self.plain(self.embed(images), 0, len(self.visual.transformer.resblocks)))
        chosen, scores = self.selector(features)
        return features, chosen, scores


class ImageGraph(_ImageTower):
    """One pass: the shared trunk, the choice of the task where it is made there, and each sample's own experts."""

    def __init__(
        self,
        backbone: Backbone,
        stacks: Stacks,
        selector: SelectorTable | None,
        *,
        rank: int,
        router_input: RouterInput,
    ) -> None:
        """Take the frozen image tower and the stacked tasks.

        Args:
            backbone: frozen.
            stacks: see `igsp_deploy.bundle.stacks.expert_stacks`.
            selector: reads the trunk; None where `SelectGraph` chooses.
            rank: of one expert.
            router_input: what the routers read.
        """
        super().__init__(backbone)
        self.experts = stacked_experts(stacks, rank, router_input)
        self.first_block = min(int(block) for block in self.experts)
        self.selector = SelectorGraph(selector) if selector is not None else None

    def forward(self, images: Tensor, task: Tensor) -> tuple[Tensor, Tensor, Tensor] | Tensor:
        """Classify into embeddings.

        Args:
            images: uint8 `[B, S, S, 3]`.
            task: int64 `[B]`: index of a task, -2 for plain CLIP, or, with a selector, -1 to choose.

        Returns:
            Normalised embeddings `[B, D]`, not a number for any other `task`; with a selector also the task used `[B]`
            and scores minus thresholds `[B, T]`.
        """
        blocks = self.visual.transformer.resblocks
        x = self.plain(self.embed(images), 0, self.first_block)
        used, scores = task, None
        if self.selector is not None:
            chosen, scores = self.selector(selector_features(self.backbone, x.float(), self.first_block, "trunk"))
            used = torch.where(task == AUTO, chosen, task)
        num_slots = count_slots(next(cast(StackedExperts, one).down for one in self.experts.values()))
        index = slots(used, num_slots)
        for number in range(self.first_block, len(blocks)):
            if str(number) in self.experts:
                x = stacked_block(blocks[number], cast(StackedExperts, self.experts[str(number)]), x, index)
            else:
                x = plain_block(blocks[number], x)
        features = answered(self.head(x), used, num_slots)
        return features if scores is None else (features, used, scores)

"""The image side of a bundle as modules: pixels and a task for each sample in, embeddings and the task used out.

Shapes: B images, S image side, D embedding width, T tasks.
"""

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.bundle.stacks import SelectorTable, Stacks
from igsp_deploy.config import HeadFeatures, RouterInput
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import NO_EXPERTS, Clip, ClipTower
from igsp_deploy.model.experts import SlicedExperts, StackedExperts
from igsp_deploy.model.fourier import directions, fourier
from igsp_deploy.model.selector import Selector
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.sites import Site, Tower

Module = TypeVar("Module", bound=nn.Module)


def in_precision(module: Module, dtype: torch.dtype) -> Module:
    """A copy in another floating-point type, but for selector and heads, the pixels' normalisation and class vectors.

    Its inputs and outputs stay the same.
    """
    graph = copy.deepcopy(module).to(dtype)
    # What went through half precision has lost digits; these have not.
    for name, value in module.named_buffers():
        owner, _, own = name.rpartition(".")
        if name.startswith(("selector.", "reader.")) or own.startswith(("pixel_", "class_vectors")):
            graph.get_submodule(owner).register_buffer(own, value.clone())
    return graph


def with_merged_branches(module: Module) -> Module:
    """A copy whose convolutions compute in one what they learned with in several, as MobileCLIP-S's; else itself.

    The same function up to rounding: "MobileOne" (arXiv 2206.04040, section 3.2), by timm's own code.
    """
    if not any(hasattr(part, "reparameterize") for part in module.modules()):
        return module
    merged = copy.deepcopy(module)
    # Each once: timm's `reparameterize_model` trips over a module that has two owners.
    for part in list(merged.modules()):
        if hasattr(part, "reparameterize"):
            cast(Any, part).reparameterize()
    return merged


class Pixels(nn.Module):
    """uint8 `[B, S, S, 3]` -> normalised float32 `[B, 3, S, S]`, in two operations."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, spec: PreprocessSpec) -> None:
        """Take the channels' means and standard deviations."""
        super().__init__()
        self.register_buffer("pixel_scale", (1.0 / (255.0 * torch.tensor(spec.std))).view(1, 3, 1, 1))
        self.register_buffer("pixel_shift", (-torch.tensor(spec.mean) / torch.tensor(spec.std)).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise."""
        return images.permute(0, 3, 1, 2).float() * self.pixel_scale + self.pixel_shift


class PlainGraph(nn.Module):
    """Plain CLIP alone: no experts, no selector. What every latency is compared with."""

    def __init__(self, backbone: Backbone) -> None:
        """Take the frozen image tower."""
        super().__init__()
        self.pixels = Pixels(backbone.preprocess)
        self.tower = Clip(backbone, [], exact=False).vision

    def forward(self, images: Tensor) -> Tensor:
        """uint8 `[B, S, S, 3]` -> normalised embeddings `[B, D]`."""
        return image_features(self.tower, self.tower.trunk(self.pixels(images)))


def image_features(tower: ClipTower, x: Tensor, experts: dict[Site, SlicedExperts] | None = None) -> Tensor:
    """Normalised float32 embeddings `[B, D]` of the trunk's output."""
    return F.normalize(tower(x, x, experts or NO_EXPERTS).float(), dim=-1)


class HeadReader(nn.Module):
    """What heads are compared with, of summaries."""

    columns: Tensor | None

    def __init__(self, kind: HeadFeatures, width: int) -> None:
        """Take the directions, of Fourier features of summaries of `width` numbers."""
        super().__init__()
        self.register_buffer("columns", directions(width) if kind == "fourier" else None)

    def forward(self, summary: Tensor) -> Tensor:
        """float32 `[B, F]` -> `[B, P]`."""
        return summary if self.columns is None else fourier(summary, self.columns)


class ImageGraph(nn.Module):
    """One pass: the shared trunk, the choice of the task where none is named, and each sample's own experts."""

    def __init__(
        self,
        backbone: Backbone,
        stacks: Stacks,
        selector: SelectorTable,
        *,
        rank: int,
        router_input: RouterInput,
        head_features: HeadFeatures,
    ) -> None:
        """Take the frozen image tower and the stacked tasks.

        Args:
            backbone: frozen.
            stacks: see `igsp_deploy.bundle.stacks.expert_stacks`.
            selector: reads the trunk.
            rank: of one expert.
            router_input: what the routers read.
            head_features: what heads are compared with.
        """
        super().__init__()
        self.pixels = Pixels(backbone.preprocess)
        self.experts = stacked_experts(stacks, rank, router_input)
        self.tower = Clip(backbone, [("vision", int(block)) for block in self.experts], exact=False).vision
        self.selector = Selector(**{name: torch.from_numpy(value) for name, value in selector.arrays().items()})
        self.reader = HeadReader(head_features, len(selector.center))

    def forward(self, images: Tensor, task: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Classify into embeddings.

        Args:
            images: uint8 `[B, S, S, 3]`.
            task: int64 `[B]`: index of a task, `PLAIN`, or `AUTO` to choose.

        Returns:
            Normalised embeddings `[B, D]`, not a number for any other `task`; the task used `[B]`; scores minus
            thresholds `[B, T]`; and what heads are compared with, of the trunk's summary `[B, P]`.
        """
        x = self.tower.trunk(self.pixels(images))
        summary = self.tower.summary(x.float())
        chosen, scores = self.selector(summary)
        used = torch.where(task == AUTO, chosen, task)
        num_tasks = count_tasks(self.experts)
        features = image_features(self.tower, x, sliced(self.experts, "vision", used, num_tasks))
        return answered(features, used, num_tasks), used, scores, self.reader(summary)


def stacked_experts(stacks: Stacks, rank: int, router_input: RouterInput) -> nn.ModuleDict:
    """The blocks of a tower's stacks, by the block's number."""
    blocks: dict[str, Stacks] = {}
    for name, value in stacks.items():
        _, block, kind = name.split(".")
        blocks.setdefault(block, {})[kind] = value
    return nn.ModuleDict({block: StackedExperts(arrays, rank, router_input) for block, arrays in blocks.items()})


def count_tasks(experts: nn.ModuleDict) -> Tensor | None:
    """Slices of the stacks but the last one, plain CLIP's, as a number on the GPU; None where there is no stack.

    Summed up there: a number made from a shape stays on the CPU, and is copied to the GPU at each run.
    """
    if not experts:
        return None
    slices = cast(StackedExperts, next(iter(experts.values()))).down.shape[0]
    return torch.ones(slices - 1, dtype=torch.int64).sum()


def sliced(experts: nn.ModuleDict, tower: Tower, task: Tensor, num_tasks: Tensor | None) -> dict[Site, SlicedExperts]:
    """Each sample's own experts: its task's slice, or the last one (plain CLIP) where there is no such task `[B]`."""
    if num_tasks is None:
        return {}
    index = torch.where(_is_task(task, num_tasks), task, num_tasks)
    blocks = {(tower, int(block)): cast(StackedExperts, stacked) for block, stacked in experts.items()}
    return {site: stacked.of(index) for site, stacked in blocks.items()}


def answered(features: Tensor, task: Tensor, num_tasks: Tensor | None) -> Tensor:
    """Embeddings `[B, D]`, not a number where `task` `[B]` is none: nobody shall take those for plain CLIP's."""
    asked = _is_task(task, num_tasks) | (task == PLAIN)
    return torch.where(asked.unsqueeze(1), features, torch.nan)


def _is_task(task: Tensor, num_tasks: Tensor | None) -> Tensor:
    """Whether there is such a task, `[B]`; a graph without experts cannot tell how many there are."""
    return task >= 0 if num_tasks is None else (task >= 0) & (task < num_tasks)

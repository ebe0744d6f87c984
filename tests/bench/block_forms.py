"""The image tower with several forms of the adapted block, to compare what each costs.

Shapes: B images, n tokens, d width, T tasks, K experts of a task, r rank of one expert, R = K r.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.config import RouterInput
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import BesideMlp, StackedExperts
from igsp_deploy.model.towers.block import MlpParts
from igsp_deploy.sites import Site
from igsp_export.image_graph import Pixels, in_precision, stacked_experts
from igsp_export.onnx_file import Signature, write_onnx

DELTA = 0.2
"""Root mean square of what a task's experts add to a block, where the activations they read have 1."""


class Form:
    """One form of the experts beside an MLP, for one call: it does its own routing."""

    router_input: RouterInput = "static"

    def __init__(self, experts: Any, index: Tensor) -> None:
        """Take `experts`, and the slice of each sample `[B]`."""
        self.experts, self.index = experts, index

    def gates(self, read: Tensor | None) -> Tensor | None:
        """None: `delta` routes."""
        return None

    def delta(self, hidden: Tensor, gates: Tensor | None) -> Tensor:
        """What they add for `hidden` `[B, n, d]`."""
        result: Tensor = self.experts(hidden, self.index)
        return result


class Forms(nn.Module):
    """Pixels to normalised embeddings, with `experts` beside the MLPs of the blocks they are numbered for."""

    def __init__(
        self, backbone: Backbone, experts: nn.ModuleDict, mlps: Mapping[Site, nn.Module] | None = None
    ) -> None:
        """Share the backbone's image tower; `mlps` stand in for its own."""
        super().__init__()
        self.pixels = Pixels(backbone.preprocess)
        self.experts = experts
        self.tower = Clip(backbone, [("vision", 0)], exact=False, mlps=mlps).vision

    def forward(self, images: Tensor, task: Tensor | None = None) -> Tensor:
        """uint8 `[B, S, S, 3]` and, where there are experts, a task a sample, int64 `[B]` -> float32 `[B, D]`."""
        beside: dict[Site, BesideMlp] = {}
        for number, experts in self.experts.items() if task is not None else ():
            assert task is not None
            slots = cast(Tensor, experts.router_bias).shape[0]
            index = torch.where(task < 0, torch.full_like(task, slots - 1), task)
            beside["vision", int(number)] = (
                experts.of(index) if isinstance(experts, StackedExperts) else Form(experts, index)
            )
        x = self.tower.trunk(self.pixels(images))
        return F.normalize(self.tower(x, x, beside).float(), dim=-1)


class CommonTask(nn.Module):
    """The experts of one task for the whole batch: the first sample's."""

    def __init__(self, experts: Any) -> None:
        """Take the stacks of the form that gathers."""
        super().__init__()
        self.rank = experts.rank
        for name, buffer in experts.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, hidden: Tensor, index: Tensor) -> Tensor:
        """What they add for `hidden` `[B, n, d]`."""
        down, up, weight, bias = (
            cast(Tensor, getattr(self, name)).index_select(0, index[:1])
            for name in ("down", "up", "router_weight", "router_bias")
        )
        gates = (torch.matmul(hidden[:, :1], weight.transpose(1, 2)).squeeze(1) + bias).softmax(-1)
        inner = torch.matmul(hidden, down.transpose(1, 2))
        inner = (inner.unflatten(2, (gates.shape[1], self.rank)) * gates[:, None, :, None]).flatten(2)
        return torch.matmul(inner, up.transpose(1, 2))


class MaskedTasks(nn.Module):
    """The experts of all tasks in one GEMM; a mask leaves those of each sample's own task.

    Buffers `down_rows` and `up_rows` `[T+1, K, r, d]`: `down`, and `up` with its last two dimensions exchanged, so that
    both are one matrix of `(T+1) R` rows as they lie in memory.
    """

    router_weight: Tensor
    router_bias: Tensor
    down_rows: Tensor
    up_rows: Tensor

    def __init__(self, arrays: Stacks) -> None:
        """Take what `masked_stacks` gives for one block."""
        super().__init__()
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array))

    def forward(self, hidden: Tensor, index: Tensor) -> Tensor:
        """What they add for `hidden` `[B, n, d]`, each sample under its task `index` `[B]`."""
        width, rank = self.down_rows.shape[3], self.down_rows.shape[2]
        weight, bias = self.router_weight.index_select(0, index), self.router_bias.index_select(0, index)
        gates = (torch.bmm(hidden[:, :1], weight.transpose(1, 2)).squeeze(1) + bias).softmax(-1)
        own = (torch.arange(self.down_rows.shape[0], device=index.device) == index[:, None]).to(gates.dtype)  # [B, T+1]
        mask = (own[:, :, None] * gates[:, None, :]).flatten(1)  # [B, (T+1) K]
        inner = F.linear(hidden, self.down_rows.reshape(-1, width))
        inner = (inner.unflatten(2, (mask.shape[1], rank)) * mask[:, None, :, None]).flatten(2)
        return torch.matmul(inner, self.up_rows.reshape(-1, width))


def own_parts(plain: Clip, block: int) -> MlpParts:
    """Of one of open_clip's own vision blocks."""
    parts = plain.block(("vision", block)).parts()
    assert parts is not None
    return parts


class WidenedMlp(nn.Module):
    """A block's MLP with the experts of one task as further hidden units: linear ones, times their gates."""

    def __init__(self, mlp: MlpParts, stacks: Stacks, task: int) -> None:
        """Join the matrices of the MLP and of a task's slice of the block's stacks."""
        super().__init__()
        down, up, weight, bias = (
            torch.from_numpy(stacks[name][task]) for name in ("down", "up", "router_weight", "router_bias")
        )
        self.gelu = mlp.activation
        self.sizes = [mlp.expand.out_features, len(down)]
        self.widened_fc = _linear(torch.cat([mlp.expand.weight, down]), F.pad(mlp.expand.bias, (0, len(down))))
        self.widened_proj = _linear(torch.cat([mlp.contract.weight, up], dim=1), mlp.contract.bias)
        self.router = _linear(weight, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """What MLP and experts give together for `hidden` `[B, n, d]`."""
        gates = self.router(hidden[:, 0]).softmax(-1)
        outer, inner = self.widened_fc(hidden).split(self.sizes, dim=2)
        count = gates.shape[1]
        inner = (inner.unflatten(2, (count, self.sizes[1] // count)) * gates[:, None, :, None]).flatten(2)
        return self.widened_proj(torch.cat([self.gelu(outer), inner], dim=2))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear.requires_grad_(False)


def random_stacks(backbone: Backbone, *, tasks: int, experts: int, rank: int, seed: int) -> Stacks:
    """Stacks of all blocks: `tasks` random tasks of `experts` experts each, and plain CLIP's slice of zeros.

    Returns:
        The inputs of the graph, in its layout; slice t is the same for any larger number of tasks.
    """
    random, width = np.random.default_rng(seed), backbone.vision_width
    size = experts * rank

    def draw(scale: float, *shape: int) -> NDArray[np.float32]:
        values = np.zeros((tasks + 1, *shape), np.float32)
        for slot in values[:tasks]:
            slot[:] = random.standard_normal(shape, dtype=np.float32) * scale
        return values

    stacks: Stacks = {}
    for block in range(backbone.vision_depth):
        # The sum of K gated experts of rank r, gates of about 1 / K, has a variance of r / K.
        stacks[f"experts.{block}.down"] = draw(width**-0.5, size, width)
        stacks[f"experts.{block}.up"] = draw(DELTA * (experts / rank) ** 0.5, width, size)
        stacks[f"experts.{block}.router_weight"] = draw(width**-0.5, experts, width)
        stacks[f"experts.{block}.router_bias"] = draw(1.0, experts)
    return stacks


def masked_stacks(stacks: Stacks, rank: int) -> Stacks:
    """The same for the graph with a mask."""
    result: Stacks = {}
    for name, value in stacks.items():
        base, kind = name.rsplit(".", 1)
        if kind in ("down", "up"):
            rows = value if kind == "down" else np.ascontiguousarray(value.transpose(0, 2, 1))
            result[f"{base}.{kind}_rows"] = rows.reshape(len(rows), -1, rank, rows.shape[2])
        else:
            result[name] = value
    return result


def write_graphs(backbone: Backbone, stacks: Stacks, rank: int, folder: Path, *, opset: int, half: bool) -> None:
    """Write `plain.onnx`, `gather.onnx`, `common.onnx`, `masked.onnx` and, for task 0, `widened.onnx`.

    Args:
        backbone: whose image tower to take; its blocks are the ones that `stacks` is for.
        stacks: their first task becomes the default of the graphs' inputs, and the task of `widened.onnx`.
        rank: of one expert.
        folder: where to.
        opset: ONNX opset.
        half: fp16, but for the pixels' normalisation; inputs and outputs stay what they are, the stacks become fp16.
    """
    first = {name: np.ascontiguousarray(value[[0, -1]]) for name, value in stacks.items()}
    gather = stacked_experts(first, rank, "class_token")
    common = nn.ModuleDict({block: CommonTask(experts) for block, experts in gather.items()})
    masked = nn.ModuleDict(
        {block: MaskedTasks(arrays) for block, arrays in _by_block(masked_stacks(first, rank)).items()}
    )
    plain = Clip(backbone, [])
    mlps: dict[Site, nn.Module] = {
        ("vision", int(block)): WidenedMlp(own_parts(plain, int(block)), arrays, 0)
        for block, arrays in _by_block(first).items()
    }
    towers = {
        "plain": Forms(backbone, nn.ModuleDict()),
        "gather": Forms(backbone, gather),
        "common": Forms(backbone, common),
        "masked": Forms(backbone, masked),
        "widened": Forms(backbone, nn.ModuleDict(), mlps),
    }
    size = backbone.preprocess.size
    for name, tower in towers.items():
        inputs = {"images": torch.zeros(3, size, size, 3, dtype=torch.uint8)}
        if len(tower.experts):
            inputs["task"] = torch.zeros(3, dtype=torch.int64)
        signature = Signature(inputs=inputs, outputs=["features"], lengths={})
        write_onnx(
            (in_precision(tower, torch.float16) if half else tower).eval(),
            signature,
            folder / f"{name}.onnx",
            opset=opset,
        )


def _by_block(stacks: Stacks) -> dict[str, Stacks]:
    blocks: dict[str, Stacks] = {}
    for name, value in stacks.items():
        _, block, kind = name.split(".")
        blocks.setdefault(block, {})[kind] = value
    return blocks

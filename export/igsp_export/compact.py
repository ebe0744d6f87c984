"""Compaction: the experts a task's router kept become one pair of matrices and one router a block; tasks are stacked.

Shapes: T tasks, d width, r rank of one expert, K experts of a router, R = K r; K and R padded to the largest task's.
Slice T of every stack is zero and means plain CLIP.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from igsp_deploy.model.adapter import BlockAdapter, TaskAdapter
from igsp_deploy.model.router import static_gates

MASKED = -1e4
"""Bias of a padded router row: its gate is zero. Finite in half precision: a row of nothing else must not be NaN."""


@dataclass(frozen=True, kw_only=True)
class CompactBlock:
    """One task in one block, the scale folded into `up` (and the gates too where they are static).

    Attributes:
        down: `[R, d]`.
        up: `[d, R]`.
        router_weight: `[K, d]`; None where the gates are folded into `up`.
        router_bias: `[K]`; None where the gates are folded into `up`.
    """

    down: Tensor
    up: Tensor
    router_weight: Tensor | None
    router_bias: Tensor | None

    def delta(self, hidden: Tensor, features: Tensor | None) -> Tensor:
        """What the block adds to its MLP, `[B, n, d]`; `features` is what the router reads, `[B, d]`."""
        inner = hidden @ self.down.T
        if self.router_weight is not None and self.router_bias is not None and features is not None:
            gates = (features @ self.router_weight.T + self.router_bias).softmax(-1)
            inner = inner * gates.repeat_interleave(self.down.shape[0] // gates.shape[1], 1).unsqueeze(1)
        return inner @ self.up.T


def compact_block(adapter: BlockAdapter) -> CompactBlock:
    """Fold the scale into `up`, and static gates as well."""
    if not len(adapter.router_bias):  # nothing kept: the softmax of no experts has no meaning
        return CompactBlock(down=adapter.down, up=adapter.up, router_weight=adapter.router_weight, router_bias=None)
    if adapter.router_weight is None or adapter.router_input == "static":
        gates = static_gates(adapter.router_bias)[0] * adapter.scale
        rank = adapter.down.shape[0] // len(gates)
        return CompactBlock(
            down=adapter.down, up=adapter.up * gates.repeat_interleave(rank), router_weight=None, router_bias=None
        )
    return CompactBlock(
        down=adapter.down,
        up=adapter.up * adapter.scale,
        router_weight=adapter.router_weight,
        router_bias=adapter.router_bias,
    )


@dataclass(frozen=True, kw_only=True)
class Stack:
    """All tasks in one block, padded; the last slice is zero.

    Attributes:
        down: `[T + 1, R, d]`.
        up: `[T + 1, d, R]`.
        router_weight: `[T + 1, K, d]`, or None where gates are folded.
        router_bias: `[T + 1, K]`, or None where gates are folded.
    """

    down: Tensor
    up: Tensor
    router_weight: Tensor | None
    router_bias: Tensor | None


def stack_block(blocks: list[CompactBlock | None], rank: int) -> Stack | None:
    """Stack one block of all tasks.

    Args:
        blocks: one a task; None for a task that leaves the block plain.
        rank: rank of one expert, to pad in whole experts.

    Returns:
        None where no task has an expert in the block.
    """
    kept = [(t, block) for t, block in enumerate(blocks) if block is not None and len(block.down)]
    if not kept:
        return None
    tasks, width = len(blocks), kept[0][1].down.shape[1]
    largest = max(block.down.shape[0] for _, block in kept)
    routed = kept[0][1].router_weight is not None
    down = torch.zeros(tasks + 1, largest, width)
    up = torch.zeros(tasks + 1, width, largest)
    weight = torch.zeros(tasks + 1, largest // rank, width) if routed else None
    bias = torch.full((tasks + 1, largest // rank), MASKED) if routed else None
    for t, block in kept:
        size = block.down.shape[0]
        down[t, :size] = block.down
        up[t, :, :size] = block.up
        if weight is not None and bias is not None:
            assert block.router_weight is not None
            assert block.router_bias is not None
            weight[t, : size // rank] = block.router_weight
            bias[t, : size // rank] = block.router_bias
    return Stack(down=down, up=up, router_weight=weight, router_bias=bias)


def stack_tasks(adapters: list[TaskAdapter], rank: int) -> tuple[dict[int, Stack], dict[int, Stack]]:
    """Stacks of all blocks in which a task has experts: vision block -> stack, text block -> stack."""
    return (
        _stack_tower([adapter.vision for adapter in adapters], rank),
        _stack_tower([adapter.text for adapter in adapters], rank),
    )


def _stack_tower(tasks: list[dict[int, BlockAdapter]], rank: int) -> dict[int, Stack]:
    stacks = {}
    for number in sorted({number for task in tasks for number in task}):
        stack = stack_block([compact_block(task[number]) if number in task else None for task in tasks], rank)
        if stack is not None:
            stacks[number] = stack
    return stacks

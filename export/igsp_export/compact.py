"""Compaction: what the learned tasks' routers kept, each expert once, the scale (and static gates) folded in.

Shapes: d width, r rank of one expert, E experts of a block, K experts a task uses in it.
"""

from collections.abc import Sequence

import numpy as np
import torch

from igsp_deploy.bundle.experts import BlockUse, ExpertTable, Floats
from igsp_deploy.bundle.manifest import ExpertLayout
from igsp_deploy.bundle.stacks import SelectorTable
from igsp_deploy.model.experts import Experts, SiteExperts
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.selector import Selector
from igsp_deploy.sites import Site

Ids = dict[Site, list[int]]
"""Block -> pool ids of the experts a task uses in it."""


def compact(learned: Sequence[SiteExperts], ids: Sequence[Ids], rank: int) -> ExpertTable:
    """All tasks' experts, each once.

    Args:
        learned: one a task.
        ids: one a task: which pool expert each of its experts is; equal ids are equal experts.
        rank: of one expert.
    """
    rows: dict[Site, dict[int, int]] = {}
    downs: dict[Site, list[Floats]] = {}
    ups: dict[Site, list[Floats]] = {}
    tasks = []
    for own, used in zip(learned, ids, strict=True):
        uses = {}
        for site, block in own.items():
            if not used.get(site):
                continue
            row = rows.setdefault(site, {})
            for position, expert in enumerate(used[site]):
                if expert not in row:
                    row[expert] = len(row)
                    part = slice(position * rank, (position + 1) * rank)
                    downs.setdefault(site, []).append(block.down[part].numpy())
                    ups.setdefault(site, []).append((block.up[:, part] * block.scale).numpy())
            uses[site] = _use(block, np.array([row[expert] for expert in used[site]], np.int64))
        tasks.append(uses)
    return ExpertTable(
        down={site: np.stack(values) for site, values in downs.items()},
        up={site: np.stack(values) for site, values in ups.items()},
        tasks=tuple(tasks),
    )


def _use(block: Experts, experts: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> BlockUse:
    if block.router_weight is None:
        return BlockUse(experts=experts, gates=block.gates(None)[0].numpy())
    return BlockUse(experts=experts, router_weight=block.router_weight.numpy(), router_bias=block.router_bias.numpy())


def expert_layout(folder: ModelFolder) -> ExpertLayout:
    """Where the graphs of this model take experts."""
    return ExpertLayout(
        rank=folder.config.rank,
        vision_blocks=tuple(block for tower, block in folder.sites if tower == "vision"),
        text_blocks=tuple(block for tower, block in folder.sites if tower == "text"),
        vision_width=folder.width(("vision", 0)),
        text_width=folder.width(("text", 0)),
        routed=folder.config.router_input != "static",
    )


@torch.no_grad()
def selector_table(selector: Selector) -> SelectorTable:
    """The selector's numbers."""
    return SelectorTable(
        center=selector.center.numpy(),
        whitening=selector.whitening.numpy(),
        means=selector.means.numpy(),
        class_task=selector.class_task.numpy().astype(np.int64),
        thresholds=selector.thresholds.numpy(),
        background=selector.background.numpy(),
        squares=selector.squares.numpy(),
    )


def task_sizes(
    table: ExpertTable, selector: SelectorTable, embed_dim: int, itemsize: int, *, heads: Sequence[int]
) -> list[int]:
    """Bytes each task adds to a bundle whose experts take `itemsize` bytes a number.

    Its new experts and its routers, and for each of its classes two embeddings, the selector's mean and, where it has
    a head (of so many numbers a class; 0 is none), that one's vector, in float32.
    """
    classes = np.bincount(selector.class_task, minlength=len(table.tasks))
    width = selector.means.shape[1]
    rows = [4 * (2 * embed_dim + width + head) for head in heads]
    sizes = zip(table.task_bytes(itemsize), classes, rows, strict=True)
    return [size + int(count) * row for size, count, row in sizes]

"""Which experts a task keeps after phase 1: plain functions of the mean routing probabilities of one block.

The routing probability is the gate on an expert's gradient (identity 1 of docs/paper_to_code.md), so an expert with
little of it neither learned nor is needed.
"""

import torch
from torch import Tensor

from igsp_deploy.config import PruneRule


def experts_to_keep(mean_gates: Tensor, rule: PruneRule, keep_ratio: float, seed: int = 0) -> Tensor:
    """Bool mask `[K]` of the experts that stay in the router of one block; at least the strongest does.

    Args:
        mean_gates: mean routing probability of each expert over samples, `[K]`, sums to 1.
        rule: `cumulative` keeps the smallest set that holds `keep_ratio` of the mass; `relative` those with at least
            `keep_ratio / K`; `absolute` those with at least `keep_ratio`; `random` as many as `cumulative`, drawn
            at random (a control).
        keep_ratio: level kappa.
        seed: for `random`.
    """
    count = len(mean_gates)
    if rule in ("cumulative", "random"):
        order = mean_gates.argsort(descending=True, stable=True)
        before = mean_gates[order].double().cumsum(0) - mean_gates[order].double()
        mask = torch.zeros(count, dtype=torch.bool)
        mask[order[before < keep_ratio * float(mean_gates.sum())]] = True
        if rule == "random":
            drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: int(mask.sum())]
            mask = torch.zeros(count, dtype=torch.bool)
            mask[drawn] = True
    else:
        mask = mean_gates >= (keep_ratio / count if rule == "relative" else keep_ratio)
    mask[mean_gates.argmax()] = True
    return mask

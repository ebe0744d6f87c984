"""Which experts a task keeps after phase 1: plain functions of the mean routing probabilities.

The routing probability is the gate on an expert's gradient (identity 1 of docs/paper_to_code.md), so an expert with
little of it neither learned nor is needed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from igsp_deploy.config import LearnConfig, PruneRule
from igsp_deploy.sites import Site
from igsp_train.importance import HeldOutLoss, Masks, leave_one_out

HALVINGS = 7
"""Steps of the search for a level: it is found to a 128th."""
LOSS_IMAGES = 256
"""Images on which pruning measures a loss."""
BOUND_IMAGES = 64
"""The same where a block has more experts than a task may keep: one loss for each of them."""
TOLERANCE_OF_FEW = 0.25
"""Share of `learn.prune_tolerance` that holds where training images stand in for held-out ones: they were learned from,
so their loss rises less than that of new images."""


def masks_to_keep(
    gates: dict[Site, Tensor],
    config: LearnConfig,
    limit: int,
    loss: Callable[[int], HeldOutLoss],
    seed: int,
    *,
    few_held_out: bool,
) -> dict[Site, Tensor]:
    """Which experts the pruning rule of `config` keeps, bool `[K]` for each block.

    Args:
        gates: mean routing probabilities of every block, `[K]`.
        config: settings of learning.
        limit: experts a block, at most; 0 is no bound.
        loss: gives the loss on so many images, as a function of which experts stay.
        seed: of a random choice.
        few_held_out: whether nearly all of these images are training ones.
    """
    masks = _masks_of_rule(gates, config, loss, seed, few_held_out)
    if not limit or all(int(mask.sum()) <= limit for mask in masks.values()):
        return masks
    return at_most(masks, limit, loss(BOUND_IMAGES))


def _masks_of_rule(
    gates: dict[Site, Tensor], config: LearnConfig, loss: Callable[[int], HeldOutLoss], seed: int, few_held_out: bool
) -> dict[Site, Tensor]:
    rule, level = config.prune_rule, config.keep_ratio
    if rule == "leave_one_out":
        sizes = {site: len(mean) for site, mean in gates.items()}
        return most_worth(leave_one_out(loss(LOSS_IMAGES), sizes), level)
    if rule == "held_out":
        tolerance = config.prune_tolerance * (TOLERANCE_OF_FEW if few_held_out else 1.0)
        rule, level = "cumulative", level_by_loss(gates, loss(LOSS_IMAGES), tolerance)
    return {
        site: experts_to_keep(mean, rule, level, seed * 1000 + number)
        for number, (site, mean) in enumerate(gates.items())
    }


def experts_to_keep(mean_gates: Tensor, rule: PruneRule, keep_ratio: float, seed: int = 0) -> Tensor:
    """Bool mask `[K]` of the experts that stay in the router of one block; at least the strongest does.

    Args:
        mean_gates: mean routing probability of each expert over samples, `[K]`, sums to 1.
        rule: `cumulative` keeps the smallest set that holds `keep_ratio` of the mass; `relative` those with at least
            `keep_ratio / K`; `absolute` those with at least `keep_ratio`; `random` as many as `cumulative`, drawn
            at random (a control).
        keep_ratio: level kappa.
        seed: for `random`.

    Raises:
        ValueError: another rule, such as those that measure a loss.
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
    elif rule in ("relative", "absolute"):
        mask = mean_gates >= (keep_ratio / count if rule == "relative" else keep_ratio)
    else:
        raise ValueError(f"experts are not kept by their gates under the rule {rule!r}")
    mask[mean_gates.argmax()] = True
    return mask


def level_by_loss(mean_gates: dict[Site, Tensor], loss: Callable[[Masks], float], tolerance: float) -> float:
    """The lowest cumulative level whose held-out loss is at most `tolerance` nats over that of all experts.

    The routing probabilities say in which order experts go, the loss says how far. Found by halving, so where the loss
    is not monotone in the level it is a level that holds, not always the lowest one.

    Args:
        mean_gates: of every block, `[K]`.
        loss: held-out loss with only the experts of the masks.
        tolerance: in nats.
    """
    limit = loss({}) + tolerance
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        masks = {site: experts_to_keep(mean, "cumulative", middle) for site, mean in mean_gates.items()}
        low, high = (low, middle) if loss(masks) <= limit else (middle, high)
    return high


def at_most(masks: Masks, limit: int, loss: Callable[[Masks], float]) -> dict[Site, Tensor]:
    """The masks with at most `limit` experts a block: those go whose absence alone raises the loss least.

    Args:
        masks: of every block, bool `[K]`.
        limit: experts a block.
        loss: held-out loss with only the experts of the masks.
    """
    bounded = dict(masks)
    for site, mask in masks.items():
        kept = mask.nonzero().flatten()
        if len(kept) > limit:
            without = [loss({**bounded, site: mask & (torch.arange(len(mask)) != expert)}) for expert in kept]
            dearest = torch.tensor(without).argsort(descending=True, stable=True)[:limit]
            bounded[site] = torch.zeros_like(mask).index_fill(0, kept[dearest], True)
    return bounded


def most_worth(worth: dict[Site, Tensor], share: float) -> dict[Site, Tensor]:
    """Over all blocks, the fewest experts that hold `share` of what leaving one out costs; one a block at least.

    Args:
        worth: nats by which the held-out loss grows without an expert, `[K]` for each block; infinite for an only one.
        share: level kappa. What costs nothing or helps when left out holds no share.
    """
    sites = list(worth)
    finite = torch.cat([torch.nan_to_num(worth[site], posinf=0.0).clamp_min(0) for site in sites]).double()
    order = finite.argsort(descending=True, stable=True)
    before = finite[order].cumsum(0) - finite[order]
    chosen = torch.zeros(len(finite), dtype=torch.bool)
    chosen[order[(before < share * finite.sum()) & (finite[order] > 0)]] = True
    masks = dict(zip(sites, chosen.split([len(worth[site]) for site in sites]), strict=True))
    for site, mask in masks.items():
        mask[worth[site].argmax()] = True
    return masks

"""Isolated experts made as small as iGSP's afterwards: what one does who has learned them already.

The experts of a block become one expert of rank `model.rank` without a router. `s * sum_k p_k B_k A_k`, with p_k the
mean gate of expert k over the task's training images, is one matrix `[d, d]`; its largest `model.rank` singular values
stay, which is the nearest matrix of that rank in the Frobenius norm. Nothing is learned after the cut.
With three experts a block a task keeps a third of its numbers, less the router, whose gates no longer depend on the
image.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from igsp_deploy.model.experts import Experts, SiteExperts, Trace
from igsp_deploy.sites import Site
from igsp_train.research.baselines.isolated import learn_isolated
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.tokens import TrunkTokens


def learn_then_cut(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """Learn every task by itself, and keep one expert a block."""

    def cut(task: TrunkTokens, experts: SiteExperts) -> SiteExperts:
        means = mean_gates(setting, task, experts)
        return {site: merged(block, means[site], setting.model.rank) for site, block in experts.items()}

    return learn_isolated(setting, tasks, cut)


@torch.no_grad()
def mean_gates(setting: Setting, task: TrunkTokens, experts: SiteExperts) -> dict[Site, Tensor]:
    """Mean gates of every block over the training images, `[K]`; of a static router they are its gates."""
    seen: dict[Site, list[Tensor]] = {site: [block.gates(None)] for site, block in experts.items() if site[0] == "text"}
    for tokens, _ in task.chunks("train"):
        trace = Trace()
        setting.clip.embed(tokens, experts, trace=trace)
        for site, gates in trace.gates.items():
            seen.setdefault(site, []).append(gates)
    return {site: torch.cat(parts).mean(0) for site, parts in seen.items()}


def merged(block: Experts, gates: Tensor, rank: int) -> Experts:
    """One expert of `rank` nearest to the block's experts under constant `gates` `[K]`."""
    weights = (gates * block.scale).repeat_interleave(block.rank)
    left, values, right = torch.linalg.svd((block.up * weights) @ block.down)
    root = values[:rank].sqrt()
    return Experts(
        down=root[:, None] * right[:rank],
        up=left[:, :rank] * root,
        router_weight=None,
        router_bias=torch.zeros(1),
        scale=1.0,
        router_input="static",
    )

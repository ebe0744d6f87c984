"""A control: frozen experts drawn at random, as many in every block as iGSP would reuse there.

A task is learned twice over the same pool. iGSP's phase 1 and pruning say how many old and how many new experts each
block keeps. Then it begins anew, with so many old experts drawn from the block's whole pool: router and candidates are
trained beside those from the first step on, all of them stay, and of the candidates as many as before, the strongest.
Steps, penalty, schedule and numbers are iGSP's; which old experts a task gets is left to chance.
"""

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor

from igsp_deploy.config import LearnConfig
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.sites import Site
from igsp_train.research.baselines.igsp import learn_into_pool
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import make_run
from igsp_train.research.study.tokens import TrunkTokens
from igsp_train.steps import LearnResult

Counts = dict[Site, tuple[int, int]]
"""Old and new experts that a task keeps in each block."""


class Pruned(Exception):
    """Phase 1 is over, and there is no need to go on."""


def learn_with_random_reuse(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """Learn every task with iGSP's number of old experts, and chance's choice of them."""

    def one(folder: ModelFolder, task: TrunkTokens) -> LearnResult:
        counts = kept_counts(setting, folder, task, setting.learn)
        chosen = drawn(folder, counts, seed=setting.learn.seed * 1000 + len(folder.tasks))
        return learn_beside(setting, folder, task, chosen, counts)

    return learn_into_pool(setting, tasks, one)


def kept_counts(setting: Setting, folder: ModelFolder, task: TrunkTokens, learn: LearnConfig) -> Counts:
    """How many old and new experts iGSP keeps of a task in each block; `folder` stays as it is."""
    run = make_run(setting, folder, task, learn)

    def stop() -> bool:
        if run.progress.phase == 2:
            raise Pruned
        return False

    with suppress(Pruned):
        run.run(stop=stop)
    return {site: (learner.num_frozen, learner.num_candidates) for site, learner in run.learner.items()}


def drawn(folder: ModelFolder, counts: Counts, seed: int) -> dict[Site, list[int]]:
    """Pool ids of as many experts as `counts` has old ones, from each block's whole pool."""
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for site, (old, _) in counts.items():
        ids = torch.randperm(folder.pool.size(site), generator=generator)[:old]
        chosen[site] = sorted(ids.tolist())
    return chosen


def learn_beside(
    setting: Setting, folder: ModelFolder, task: TrunkTokens, chosen: dict[Site, list[int]], counts: Counts
) -> LearnResult:
    """Learn a task beside the experts `chosen`, and keep these and the number of new ones that `counts` says."""

    def keep(gates: dict[Site, Tensor]) -> dict[Site, Tensor]:
        return {site: strongest(mean, *counts[site]) for site, mean in gates.items()}

    run = make_run(setting, folder, task, setting.learn, reuse_ids=chosen, keep=keep)
    result = run.run()
    assert {site: (one.num_frozen, one.num_candidates) for site, one in result.learner.items()} == counts
    return result


def strongest(mean_gates: Tensor, old: int, new: int) -> Tensor:
    """Bool mask `[old + m]`: all `old` experts, which come first, and the `new` candidates with the largest gates."""
    mask = torch.arange(len(mean_gates)) < old
    order = mean_gates[old:].argsort(descending=True, stable=True)[:new]
    mask[old + order] = True
    return mask

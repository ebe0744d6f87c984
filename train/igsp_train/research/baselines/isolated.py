"""Experts of its own for every task, nothing shared: the bound on accuracy, and the explosion of parameters."""

import dataclasses
from collections.abc import Callable, Iterator

from igsp_deploy.config import LearnConfig
from igsp_deploy.model.experts import SiteExperts, frozen
from igsp_deploy.model.head import Head
from igsp_train.research.baselines.zero_shot import predictor, words_alone
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import find_head, run_task, scratch_folder
from igsp_train.research.study.tokens import TrunkTokens

RESTART = 0.4
"""Share of the steps after which the learning rate starts anew, as in iGSP: better than one cosine."""


def without_pruning(learn: LearnConfig) -> LearnConfig:
    """The same settings, but every expert stays and nothing is penalised."""
    return dataclasses.replace(
        learn,
        penalty="none",
        prune_rule="cumulative",
        keep_ratio=1.0,
        phase1_min_share=RESTART,
        phase1_max_share=RESTART,
        phase2_restart=True,
        phase2_candidate_mass=0.0,
    )


Cut = Callable[[TrunkTokens, SiteExperts], SiteExperts]
"""What a task keeps of what it learned."""


def learn_isolated(
    setting: Setting, tasks: list[TrunkTokens], cut: Cut = lambda _, experts: experts
) -> Iterator[Stage]:
    """Learn every task with `num_candidates` experts a block and a router, on an empty pool, and keep all of them.

    Args:
        setting: of the run.
        tasks: to learn.
        cut: makes them smaller in the end; by default they stay as they are.
    """
    experts: dict[str, SiteExperts] = {}
    heads: dict[str, Head | None] = {}
    learn = without_pruning(setting.learn)
    with scratch_folder(setting) as empty:
        for task in tasks:
            result = run_task(setting, empty, task, learn)
            experts[task.name] = own = cut(task, frozen(result.learner.experts(), "cpu"))
            heads[task.name] = head = find_head(setting, task, own)
            size = result.learner.num_parameters()
            kept = sum(part.numel() for block in own.values() for part in block.buffers())
            yield Stage(
                predict=predictor(setting, dict(experts), dict(heads)),
                words=words_alone(setting, dict(experts), heads),
                trained_phase1=size,
                trained_phase2=size,
                kept=kept + (0 if head is None else head.num_parameters()),
                details={"learn_seconds": round(result.seconds, 1)},
            )

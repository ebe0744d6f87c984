"""iGSP itself, as one of the methods of a comparison."""

from collections.abc import Callable, Iterator
from typing import Any

from igsp_deploy.model.experts import SiteExperts
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_train.research.baselines.zero_shot import predictor, words_alone
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import add_to_pool, run_task, scratch_folder
from igsp_train.research.study.selector_cost import selector_report
from igsp_train.research.study.tokens import TrunkTokens
from igsp_train.steps import LearnResult

LearnOne = Callable[[ModelFolder, TrunkTokens], LearnResult]
"""Learns a task on top of a pool, which stays as it is."""


def learn_igsp(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """Identify, prune and fine-tune one task after another on one pool."""

    def one(folder: ModelFolder, task: TrunkTokens) -> LearnResult:
        return run_task(setting, folder, task, setting.learn)

    return learn_into_pool(setting, tasks, one)


def learn_into_pool(setting: Setting, tasks: list[TrunkTokens], learn: LearnOne) -> Iterator[Stage]:
    """Learn every task by `learn`, and take what it gives into one pool."""
    experts: dict[str, SiteExperts] = {}
    heads: dict[str, Head | None] = {}
    with scratch_folder(setting) as folder:
        for task in tasks:
            result = learn(folder, task)
            record = add_to_pool(setting, folder, task, result)
            experts[task.name], heads[task.name] = folder.experts(record.index), folder.head(record.index)
            details = learning_details(result, setting.learn.num_candidates)
            if len(folder.tasks) == len(tasks):
                details["selector"] = selector_report(setting, folder, tasks)
            yield Stage(
                predict=predictor(setting, dict(experts), dict(heads)),
                words=words_alone(setting, dict(experts), heads),
                trained_phase1=result.trained_parameters,
                trained_phase2=result.learner.num_parameters(),
                kept=record.kept_parameters,
                details=details,
            )


def learning_details(result: LearnResult, num_candidates: int) -> dict[str, Any]:
    """How learning one task went: experts reused, new and dropped in each tower, end of phase 1, curves."""
    details: dict[str, Any] = {"phase1_steps": result.phase1_steps, "learn_seconds": round(result.seconds, 1)}
    for tower in ("vision", "text"):
        learners = [learner for site, learner in result.learner.items() if site[0] == tower]
        kept = {site: mask for site, mask in result.kept.items() if site.startswith(tower)}
        new = sum(learner.num_candidates for learner in learners)
        reused = sum(learner.num_frozen for learner in learners)
        considered = sum(len(mask) for mask in kept.values())
        candidates = num_candidates * len(learners)
        details[tower] = {"new": new, "candidates": candidates, "reused": reused, "considered": considered}
    details["movement"] = [round(value, 4) for value in result.curves["movement"]]
    details["mass"] = [round(value, 4) for value in result.curves["mass"]]
    details["loss"] = [round(value, 4) for value in result.curves["loss"]]
    return details

"""Do routers converge early: what would be kept at each step, against what a router trained to the end would keep.

Every task is learned twice from the same start: once as always, which feeds the pool, and once with phase 1 stretched
over all steps. Until the first one prunes, both take the very same steps.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from igsp_deploy.model.experts import SiteExperts
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.sites import Site, read_site
from igsp_train.research.baselines.igsp import learning_details
from igsp_train.research.baselines.zero_shot import predictor
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import add_to_pool, make_run, run_task, scratch_folder
from igsp_train.research.study.tokens import TrunkTokens
from igsp_train.steps import StepReport

POINTS = 10
"""Steps at which the kept set is looked at, evenly spread over learning; the last one is the end."""


def learn_watching_routers(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """iGSP, with the second, stretched run of every task; its `details` hold `agreement`."""
    experts: dict[str, SiteExperts] = {}
    with scratch_folder(setting) as folder:
        for task in tasks:
            result = run_task(setting, folder, task, setting.learn)
            details = learning_details(result, setting.learn.num_candidates)
            details["agreement"] = agreement_curve(setting, folder, task, result.phase1_steps, result.kept)
            record = add_to_pool(setting, folder, task, result)
            experts[task.name] = folder.experts(record.index)
            yield Stage(
                predict=predictor(setting, dict(experts)),
                trained_phase1=result.trained_parameters,
                trained_phase2=result.learner.num_parameters(),
                kept=result.learner.num_parameters(),
                details=details,
            )


def agreement_curve(
    setting: Setting, folder: ModelFolder, task: TrunkTokens, phase1_steps: int, kept: dict[str, list[bool]]
) -> dict[str, object]:
    """Stretch phase 1 of one task to its end and compare.

    Args:
        setting: backbone and settings.
        folder: the pool before the task; it stays as it is.
        task: the task.
        phase1_steps: when the ordinary run pruned.
        kept: what it kept then, "tower.block" -> mask.

    Returns:
        `steps` and `overlap`: Jaccard overlap (in percent) of what would be kept at a step with what is kept at the
        end; `at_end_of_phase1`: the same for what the ordinary run kept; `by_chance`: for as many drawn at random.
    """
    learn = dataclasses.replace(setting.learn, phase1_min_share=1.0, phase1_max_share=1.0)
    run = make_run(setting, folder, task, learn)
    every = max(1, learn.steps // POINTS)
    seen: dict[int, Tensor] = {}

    def look(report: StepReport) -> None:
        if report.phase == 1 and (report.step % every == 0 or report.step == learn.steps):
            seen[report.step] = flat(run.masks())

    result = run.run(look)
    final = flat({read_site(name): torch.tensor(mask) for name, mask in result.kept.items()})
    ordinary = flat({read_site(name): torch.tensor(mask) for name, mask in kept.items()})
    share_a, share_b = float(ordinary.double().mean()), float(final.double().mean())
    by_chance = share_a * share_b / (share_a + share_b - share_a * share_b)
    return {
        "steps": list(seen),
        "overlap": [overlap(mask, final) for mask in seen.values()],
        "phase1_steps": phase1_steps,
        "at_end_of_phase1": overlap(ordinary, final),
        "by_chance": round(100 * by_chance, 1),
    }


def flat(masks: dict[Site, Tensor]) -> Tensor:
    """All blocks' masks in one row."""
    return torch.cat([masks[site] for site in sorted(masks)])


def overlap(one: Tensor, other: Tensor) -> float:
    """Experts in both sets over experts in either, in percent."""
    either = int((one | other).sum())
    return round(100 * int((one & other).sum()) / either, 1) if either else 100.0

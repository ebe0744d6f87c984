"""Sharing driven by how alike two tasks' images look: what the paper argues against.

A task uses all experts of the earlier task whose images look most like its own, and adds a fixed number of new ones.
What it shares is decided before anything is learned, from features alone; router, penalty and pruning have no say.
The experts of all other tasks are out of reach. Papers that share by similarity differ in what they compare
(prototypes, task embeddings, Gaussians); here it is the cosine of the mean CLIP image embeddings, less the mean over
all tasks seen.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.model.experts import SiteExperts
from igsp_deploy.model.head import Head
from igsp_deploy.sites import Site
from igsp_train.research.baselines.isolated import without_pruning
from igsp_train.research.baselines.zero_shot import predictor, words_alone
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import add_to_pool, run_task, scratch_folder
from igsp_train.research.study.tokens import TrunkTokens


def learn_by_similarity(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """Learn every task on the experts of its nearest predecessor, with one new expert a block less than the first."""
    experts: dict[str, SiteExperts] = {}
    heads: dict[str, Head | None] = {}
    means: list[Tensor] = []
    learn = without_pruning(setting.learn)
    with scratch_folder(setting) as folder:
        for task in tasks:
            mean = mean_embedding(setting, task)
            near = nearest(mean, means)
            means.append(mean)
            reuse_ids: dict[Site, list[int]] = {}
            if near is not None:
                reuse_ids = folder.tasks[near].ids
                learn = dataclasses.replace(learn, num_candidates=max(1, setting.learn.num_candidates - 1))
            result = run_task(setting, folder, task, learn, reuse_ids=reuse_ids)
            record = add_to_pool(setting, folder, task, result)
            experts[task.name], heads[task.name] = folder.experts(record.index), folder.head(record.index)
            size = result.learner.num_parameters()
            yield Stage(
                predict=predictor(setting, dict(experts), dict(heads)),
                words=words_alone(setting, dict(experts), heads),
                trained_phase1=size,
                trained_phase2=size,
                kept=record.kept_parameters,
                details={
                    "shares_with": None if near is None else tasks[near].name,
                    "learn_seconds": round(result.seconds, 1),
                },
            )


def mean_embedding(setting: Setting, task: TrunkTokens) -> Tensor:
    """Mean normalised CLIP embedding of the training images, `[D]`."""
    with torch.no_grad():
        parts = [setting.clip.embed(tokens) for tokens, _ in task.chunks("train")]
    return torch.cat(parts).mean(0)


def nearest(mean: Tensor, earlier: list[Tensor]) -> int | None:
    """Index of the earlier task that looks most alike; None for the first task.

    Args:
        mean: mean embedding of the new task, `[D]`.
        earlier: those of the earlier ones.
    """
    if not earlier:
        return None
    center = torch.stack([*earlier, mean]).mean(0)
    alike = [float(F.cosine_similarity(mean - center, other - center, dim=0)) for other in earlier]
    return max(range(len(alike)), key=lambda i: alike[i])

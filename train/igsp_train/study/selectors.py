"""Where the task selector should read and how it should score: compared on frozen features, nothing is learned.

Every kind scores an image for every task; the best task takes it unless it scores lower there than 5 % of the task's
held-out images (`SelectorConfig.false_alarm`) do. `shared` is the product's (igsp_deploy/model/selector.py).

Shapes: N images, F features, C classes of a task, T tasks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igsp_deploy.model.selector import PLAIN, Selector, selector_features, task_statistics
from igsp_deploy.model.towers import run_blocks
from igsp_train.study.method import Setting
from igsp_train.study.tokens import TaskTokens

Score = Callable[[Tensor], Tensor]
"""Features `[N, F]` -> score of each task `[N, T]`."""
OWN_WEIGHT = 50
"""Images that the shared covariance counts for beside a task's own, in the kind `per task`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """What a selector reads of one task: features of its splits, and the labels of the training images."""

    train: Tensor
    labels: Tensor
    val: Tensor
    test: Tensor


def read_place(setting: Setting, task: TaskTokens, place: str, block: int) -> Read:
    """Features of a task at the input of vision block `block` (`trunk`) or of the finished embedding.

    Args:
        setting: backbone; its first adapted block is where the tokens were taken.
        task: the task.
        place: `trunk` or `embedding`.
        block: block whose input is read, at least the first adapted one.
    """
    found: dict[str, Tensor] = {}
    for split in task.splits:
        parts = []
        with torch.no_grad():
            for tokens, _ in task.chunks(split):
                if place == "embedding":
                    parts.append(selector_features(setting.backbone, tokens, setting.first_block, "embedding"))
                    continue
                blocks = setting.backbone.visual.transformer.resblocks[:block]
                x = run_blocks(blocks, tokens, {}, first=setting.first_block)
                parts.append(selector_features(setting.backbone, x, block, "trunk"))
        found[split] = torch.cat(parts)
    return Read(train=found["train"], labels=task.splits["train"][1], val=found["val"], test=found["test"])


def whitening(covariance: Tensor, shrinkage: float) -> Tensor:
    """`W` `[F, F]` with `W W^T` the inverse of the covariance, shrunk to its mean variance."""
    size = covariance.shape[0]
    floor = covariance.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    return torch.linalg.cholesky(torch.linalg.inv((1 - shrinkage) * covariance + shrinkage * floor)).float()


def _moments(known: list[Read]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Class means and scatter of each task, and the shared covariance."""
    means, scatters = [], []
    for read in known:
        statistics = task_statistics(read.train, read.labels, int(read.labels.max()) + 1, read.val)
        means.append(statistics.means)
        scatters.append(statistics.scatter.double())
    total = sum(len(read.train) for read in known)
    return means, scatters, torch.stack(scatters).sum(0) / total


def score_shared(known: list[Read], shrinkage: float) -> Score:
    """The product's selector: class-conditional Gaussians, one covariance for all tasks."""
    statistics = [task_statistics(r.train, r.labels, int(r.labels.max()) + 1, r.val) for r in known]
    return Selector(statistics, shrinkage=shrinkage, false_alarm=0.0).scores


def score_per_task(known: list[Read], shrinkage: float) -> Score:
    """Class-conditional Gaussians, a covariance a task, drawn to the shared one; with its determinant."""
    means, scatters, shared = _moments(known)
    forms = []
    for read, scatter in zip(known, scatters, strict=True):
        own = (scatter + OWN_WEIGHT * shared) / (len(read.train) + OWN_WEIGHT)
        transform = whitening(own, shrinkage)
        forms.append((transform, float(torch.linalg.slogdet(transform.double())[1])))

    def score(x: Tensor) -> Tensor:
        columns = [
            log_determinant - 0.5 * torch.cdist(x @ w, mean @ w).square().min(1).values
            for mean, (w, log_determinant) in zip(means, forms, strict=True)
        ]
        return torch.stack(columns, dim=1)

    return score


def score_relative(known: list[Read], shrinkage: float) -> Score:
    """As `shared`, less the score of one Gaussian over all training images (arXiv 2106.09022)."""
    shared = score_shared(known, shrinkage)
    everything = torch.cat([read.train for read in known]).double()
    mean = everything.mean(0)
    w = whitening((everything - mean).T @ (everything - mean) / len(everything), shrinkage)
    return lambda x: shared(x) + 0.5 * ((x - mean.float()) @ w).square().sum(1, keepdim=True)


def score_neighbour(known: list[Read], shrinkage: float) -> Score:
    """Distance to the fifth nearest training image, in the shared whitened space. Keeps an entry for every image."""
    w = whitening(_moments(known)[2], shrinkage)
    stored = [read.train @ w for read in known]

    def score(x: Tensor) -> Tensor:
        near = [torch.cdist(x @ w, own).topk(min(5, len(own)), largest=False).values[:, -1] for own in stored]
        return -torch.stack(near, dim=1)

    return score


KINDS: dict[str, Callable[[list[Read], float], Score]] = {
    "shared": score_shared,
    "per task": score_per_task,
    "relative": score_relative,
    "neighbour": score_neighbour,
}


def measure_selector(
    reads: dict[str, Read], orders: list[tuple[str, ...]], kind: str, *, shrinkage: float, false_alarm: float
) -> dict[str, Any]:
    """Choose the task of every test image after every task of every order.

    Returns:
        In percent, mean over tasks and orders: `right_task` and `false_alarm` after the last task (images that the
        right task took, and learned images left to plain CLIP), `unseen_left_to_plain`: images of tasks still to come.
    """
    right, alarm, unseen = [], [], []
    for order in orders:
        for count in range(1, len(order) + 1):
            known = [reads[name] for name in order[:count]]
            score = KINDS[kind](known, shrinkage)
            own = [score(read.val)[:, t] for t, read in enumerate(known)]
            thresholds = torch.stack([torch.quantile(values, false_alarm) for values in own])
            later = [float((choose(score, thresholds, reads[n].test) == PLAIN).double().mean()) for n in order[count:]]
            unseen += [float(np.mean(later))] if later else []
            if count == len(order):
                chosen = [choose(score, thresholds, read.test) for read in known]
                right += [float((c == t).double().mean()) for t, c in enumerate(chosen)]
                alarm += [float((c == PLAIN).double().mean()) for c in chosen]
    names = ("right_task", "false_alarm", "unseen_left_to_plain")
    values = zip(names, (right, alarm, unseen), strict=True)
    return {name: round(100 * float(np.mean(found)), 1) for name, found in values}


def choose(score: Score, thresholds: Tensor, features: Tensor) -> Tensor:
    """Best task of each image, or `PLAIN` where it is under that task's threshold: `[N]`."""
    best, task = score(features).max(1)
    return torch.where(best >= thresholds[task], task, torch.full_like(task, PLAIN))

"""Where the task selector should read and how it should score: compared on frozen features, nothing is learned.

Every kind scores an image for every task; the best task takes it unless it scores lower there than 5 % of the task's
held-out images (`SelectorConfig.false_alarm`) do. `background` is the product's (igsp_deploy/model/selector.py).

Shapes: N images, F features, C classes of a task, T tasks.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igsp_deploy.config import SelectorConfig
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.selector import Selector, task_statistics
from igsp_deploy.names import PLAIN
from igsp_train.research.study.method import Setting
from igsp_train.research.study.tokens import TrunkTokens

Score = Callable[[Tensor], Tensor]
"""Features `[N, F]` -> score of each task `[N, T]`."""
OWN_WEIGHT = 50
"""Images that the shared covariance counts for beside a task's own, in the kinds `per task` and `directions`."""
DIRECTIONS = 16
"""Directions in which a task has a variance of its own, in the kind `directions`."""
LEVELS = (0.004, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.13, 0.17)
"""Shares of held-out images under a threshold between which kinds are compared at equal false alarms."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """What a selector reads of one task: features of its splits, and the labels of the training images."""

    train: Tensor
    labels: Tensor
    val: Tensor
    test: Tensor


def read_place(setting: Setting, task: TrunkTokens, place: str, block: int) -> Read:
    """Features of a task at the input of vision block `block` (`trunk`) or of the finished embedding.

    Args:
        setting: backbone; its first adapted block is where the tokens were taken.
        task: the task.
        place: `trunk` or `embedding`.
        block: block whose input is read, at least the first adapted one.
    """
    found: dict[str, Tensor] = {}
    higher = Clip(setting.backbone, [("vision", block)])
    for split in task.splits:
        parts = []
        with torch.no_grad():
            for tokens, _ in task.chunks(split):
                if place == "embedding":
                    parts.append(setting.clip.embed(tokens))
                else:
                    parts.append(higher.summary(higher.vision.climb(tokens, setting.first_block, block)))
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


def score_background(known: list[Read], config: SelectorConfig) -> Score:
    """The product's selector: class-conditional Gaussians, one covariance for all tasks, less a wide background."""
    statistics = [task_statistics(r.train, r.labels, int(r.labels.max()) + 1, r.val) for r in known]
    return Selector.fit(
        statistics, shrinkage=config.shrinkage, false_alarm=config.false_alarm, background=config.background
    ).scores


def score_shared(known: list[Read], config: SelectorConfig) -> Score:
    """The same without a background: the distance to the nearest class (arXiv 1807.03888)."""
    return score_background(known, dataclasses.replace(config, background=0.0))


def score_directions(known: list[Read], config: SelectorConfig) -> Score:
    """As `background`, and each task has its own variance in a few directions, and one for all others.

    In whitened space a task's covariance is `U diag(variances) U^T + rest (I - U U^T)`, U the `DIRECTIONS` in which it
    varies most: a principal subspace and its rest as in "ViM" (arXiv 2203.10807), as a Gaussian. F numbers a direction.
    """
    means, scatters, shared = _moments(known)
    center, w = torch.cat(means).mean(0), whitening(shared, config.shrinkage)
    forms = []
    for read, mean, scatter in zip(known, means, scatters, strict=True):
        size = len(w)
        own = w.double().T @ scatter @ w.double() + OWN_WEIGHT * torch.eye(size, dtype=torch.float64)
        variances, axes = torch.linalg.eigh(own / (len(read.train) + OWN_WEIGHT))
        top, rest = variances[-DIRECTIONS:], variances[:-DIRECTIONS].mean()
        narrowed = axes[:, -DIRECTIONS:] * (1 / rest - 1 / top).clamp(min=0).sqrt()
        log_determinant = float(top.log().sum() + (size - len(top)) * rest.log())
        forms.append(((mean - center) @ w, narrowed.float(), float(rest), log_determinant))

    def score(x: Tensor) -> Tensor:
        u = (x - center) @ w
        columns = []
        for mean, narrowed, rest, log_determinant in forms:
            squared = torch.cdist(u, mean).square() / rest - torch.cdist(u @ narrowed, mean @ narrowed).square()
            columns.append(-0.5 * (squared.min(1).values + log_determinant))
        return torch.stack(columns, dim=1) + 0.5 * config.background * u.square().sum(1, keepdim=True)

    return score


def score_per_task(known: list[Read], config: SelectorConfig) -> Score:
    """Class-conditional Gaussians, a covariance a task, drawn to the shared one; with its determinant."""
    means, scatters, shared = _moments(known)
    forms = []
    for read, scatter in zip(known, scatters, strict=True):
        own = (scatter + OWN_WEIGHT * shared) / (len(read.train) + OWN_WEIGHT)
        transform = whitening(own, config.shrinkage)
        forms.append((transform, float(torch.linalg.slogdet(transform.double())[1])))

    def score(x: Tensor) -> Tensor:
        columns = [
            log_determinant - 0.5 * torch.cdist(x @ w, mean @ w).square().min(1).values
            for mean, (w, log_determinant) in zip(means, forms, strict=True)
        ]
        return torch.stack(columns, dim=1)

    return score


def score_relative(known: list[Read], config: SelectorConfig) -> Score:
    """As `shared`, less the score of one Gaussian over all training images (arXiv 2106.09022)."""
    shared = score_shared(known, config)
    everything = torch.cat([read.train for read in known]).double()
    mean = everything.mean(0)
    w = whitening((everything - mean).T @ (everything - mean) / len(everything), config.shrinkage)
    return lambda x: shared(x) + 0.5 * ((x - mean.float()) @ w).square().sum(1, keepdim=True)


def score_neighbour(known: list[Read], config: SelectorConfig) -> Score:
    """Distance to the fifth nearest training image, in the shared whitened space. Keeps an entry for every image."""
    w = whitening(_moments(known)[2], config.shrinkage)
    stored = [read.train @ w for read in known]

    def score(x: Tensor) -> Tensor:
        near = [torch.cdist(x @ w, own).topk(min(5, len(own)), largest=False).values[:, -1] for own in stored]
        return -torch.stack(near, dim=1)

    return score


KINDS: dict[str, Callable[[list[Read], SelectorConfig], Score]] = {
    "shared": score_shared,
    "background": score_background,
    "directions": score_directions,
    "per task": score_per_task,
    "relative": score_relative,
    "neighbour": score_neighbour,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of all images after some tasks of an order.

    Attributes:
        held_out: of each known task's held-out images for that task, `[N]` each.
        known: of each known task's test images for all known tasks, `[N, T]` each.
        unseen: of each later task's test images for all known tasks, `[N, T]` each.
    """

    held_out: list[Tensor]
    known: list[Tensor]
    unseen: list[Tensor]

    def thresholds(self, level: float) -> Tensor:
        """That leave a share `level` of each task's held-out images under them, `[T]`."""
        return torch.stack([torch.quantile(values, level) for values in self.held_out])


def score_stages(
    reads: Mapping[str, Read], orders: list[tuple[str, ...]], kind: str, config: SelectorConfig
) -> list[Scored]:
    """Scores after every task of every order, by what is read at one place."""
    return [
        _score(KINDS[kind]([reads[n] for n in order[:count]], config), reads, order, count)
        for order in orders
        for count in range(1, len(order) + 1)
    ]


def measure_selector(places: Sequence[list[Scored]], config: SelectorConfig) -> dict[str, Any]:
    """Choose the task of every test image after every task of every order.

    Args:
        places: of `score_stages`, for each place that is read; their scores are added.
        config: of the selector.

    Returns:
        In percent, mean over tasks and orders: `right_task` and `false_alarm` after the last task (images that the
        right task took, and learned images left to plain CLIP), `unseen_left_to_plain`: images of tasks still to come.
        `unseen_at_equal_alarm` is the latter with the thresholds of all tasks moved until `false_alarm` is what
        `config.false_alarm` asks for on the test images. No product could do that; it compares kinds whose thresholds,
        from few held-out images, err to different sides. `auroc` and `fpr_at_95` ask how well learned images are told
        from those of tasks to come by what decides it, the best task's score less its threshold, wherever the line is
        drawn: the share of pairs that stand in the right order, and the share of unseen images over the line that
        keeps 95 % of the learned ones (as in arXiv 1610.02136 and 1706.02690).
    """
    stages = [_sum(each) for each in zip(*places, strict=True)]
    right, alarm, unseen = _shares(stages, config.false_alarm)
    others = sorted(_shares(stages, level)[1:] for level in LEVELS)
    equal = np.interp(100 * config.false_alarm, *zip(*others, strict=True))
    pairs = [_detection(stage, config.false_alarm) for stage in stages if stage.unseen]
    auroc, fpr = np.mean(pairs, axis=0) if pairs else (np.nan, np.nan)
    found = {"right_task": right, "false_alarm": alarm, "unseen_left_to_plain": unseen, "unseen_at_equal_alarm": equal}
    return {n: round(float(value), 1) for n, value in {**found, "auroc": auroc, "fpr_at_95": fpr}.items()}


def _score(score: Score, reads: Mapping[str, Read], order: tuple[str, ...], count: int) -> Scored:
    return Scored(
        held_out=[score(reads[name].val)[:, t] for t, name in enumerate(order[:count])],
        known=[score(reads[name].test) for name in order[:count]],
        unseen=[score(reads[name].test) for name in order[count:]],
    )


def _sum(places: Sequence[Scored]) -> Scored:
    """The scores of all places together."""
    lists = {name: [getattr(scored, name) for scored in places] for name in ("held_out", "known", "unseen")}
    return Scored(**{name: [sum(images) for images in zip(*rows, strict=True)] for name, rows in lists.items()})


def _shares(stages: list[Scored], level: float) -> tuple[float, float, float]:
    """Right task, false alarms and unseen images left to plain CLIP, in percent, with `level` under each threshold."""
    right, alarm, unseen = [], [], []
    for stage in stages:
        thresholds = stage.thresholds(level)
        later = [float((choose(scores, thresholds) == PLAIN).double().mean()) for scores in stage.unseen]
        if later:
            unseen.append(float(np.mean(later)))
            continue
        chosen = [choose(scores, thresholds) for scores in stage.known]
        right += [float((c == t).double().mean()) for t, c in enumerate(chosen)]
        alarm += [float((c == PLAIN).double().mean()) for c in chosen]
    return 100 * float(np.mean(right)), 100 * float(np.mean(alarm)), 100 * float(np.mean(unseen or [np.nan]))


def _detection(stage: Scored, level: float) -> tuple[float, float]:
    """AUROC and false positives at 95 % true positives, in percent, of learned images among those of later tasks."""
    thresholds = stage.thresholds(level)

    def margins(scores: list[Tensor]) -> Tensor:
        best, task = torch.cat(scores).max(1)
        return best - thresholds[task]

    known, unseen = margins(stage.known), margins(stage.unseen)
    line = known.sort().values[int(0.05 * len(known))]
    ordered = unseen.sort().values
    # A pair of equal scores counts half.
    below = torch.searchsorted(ordered, known) + torch.searchsorted(ordered, known, right=True)
    auroc = below.double().mean() / (2 * len(unseen))
    return 100 * float(auroc), 100 * float((unseen >= line).double().mean())


def choose(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Best task of each image by its scores `[N, T]`, or `PLAIN` where it is under that task's threshold: `[N]`."""
    best, task = scores.max(1)
    return torch.where(best >= thresholds[task], task, torch.full_like(task, PLAIN))

"""Choosing the task of an image when nobody says it: class-conditional Gaussians with one shared, shrunk covariance.

The score of a task is the best log-likelihood among its classes, a Mahalanobis distance as in "A Simple Unified
Framework for Detecting Out-of-Distribution Samples" (arXiv 1807.03888, section 2.1), less that of the image under a
background: one wide Gaussian for all images there are. A background goes back to "A Simple Fix to Mahalanobis Distance
for Improving Near-OOD Detection" (arXiv 2106.09022), which fits it to the training images; here it is the tasks'
shared covariance, `1 / background` times as wide, around the mean of the classes, and has no numbers of its own. An
image that falls under its best task's threshold is left to plain CLIP. Decided for every image by itself.

Shapes: B images, F features, C classes of one task, S classes of all tasks, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igsp_deploy.names import PLAIN

MIN_VARIANCE = 1e-4
"""Least mean variance the covariance is shrunk to: below it whitening would blow rounding errors up into scores."""
_NO_CLASS = -1e30
"""Score of a task without a class, in graphs that have room for more tasks. Finite: a NaN must not come of it."""


HELD_OUT = -1
"""Label, in `TaskStatistics.labels`, of an image that is not among those of the means and the scatter."""


@dataclass(frozen=True, kw_only=True)
class TaskStatistics:
    """What the selector remembers of a task: no image, only sums and the features of a few.

    Attributes:
        means: mean feature of each class, `[C, F]` float32.
        scatter: sum over images of (x - mean of its class)(x - mean of its class)^T, `[F, F]` float32.
        count: number of images behind `scatter`.
        calibration: features of the images that set the threshold, `[M, F]` float32.
        labels: their classes, or `HELD_OUT`, int64 `[M]`.
        sizes: number of images behind each mean, int64 `[C]`.
    """

    means: Tensor
    scatter: Tensor
    count: int
    calibration: Tensor
    labels: Tensor
    sizes: Tensor


def task_statistics(
    features: Tensor, labels: Tensor, num_classes: int, calibration: Tensor | None = None, *, keep: int = 256
) -> TaskStatistics:
    """Statistics of one task from its training images.

    Args:
        features: of the training images, `[N, F]`.
        labels: their classes, `[N]`.
        num_classes: C.
        calibration: features of other images that set the threshold, `[M, F]`; by default training images do, each
            as if it had been left out.
        keep: at most so many training images set it, evenly spread. Those that are their class's only image, and say
            nothing of how a class varies, are passed over where there are others.
    """
    x = features.double()
    means = torch.zeros(num_classes, x.shape[1], dtype=torch.float64)
    means.index_add_(0, labels, x)
    sizes = torch.bincount(labels, minlength=num_classes)
    means /= sizes.clamp(min=1)[:, None]
    residual = x - means[labels]
    if calibration is None:
        several = (sizes[labels] > 1).nonzero().flatten()
        rows = several if len(several) else torch.arange(len(labels))
        rows = rows[torch.linspace(0, len(rows) - 1, min(keep, len(rows)), dtype=torch.float64).round().long()]
        calibration, own = features[rows], labels[rows]
    else:
        own = torch.full((len(calibration),), HELD_OUT)
    return TaskStatistics(
        means=means.float(),
        scatter=(residual.T @ residual).float(),
        count=len(labels),
        calibration=calibration.float(),
        labels=own.long(),
        sizes=sizes,
    )


class Selector(nn.Module):
    """Scores every task for every image, and chooses one, or none. The exported graphs hold this very module.

    Attributes:
        center: mean of all class means, `[F]`; the background's mean.
        whitening: `[F, F]` with `whitening @ whitening.T` the inverse of the shared covariance.
        means: whitened class means, `[S, F]`.
        class_task: task of each row of `means`, int64 `[S]`.
        squares: sum of squares of each row of `means`, `[S]`: with many classes they take longer than all else.
        thresholds: score under which an image is not taken for that task, `[T]`.
        background: variance of the tasks' Gaussians over that of the background, `[1]`; 0 is one without an end.
        floors: lowest score of any of the images that set the task's threshold, `[T]`.
    """

    center: Tensor
    whitening: Tensor
    means: Tensor
    class_task: Tensor
    squares: Tensor
    thresholds: Tensor
    background: Tensor

    def __init__(
        self,
        *,
        center: Tensor,
        whitening: Tensor,
        means: Tensor,
        class_task: Tensor,
        thresholds: Tensor,
        background: Tensor,
        squares: Tensor | None = None,
        floors: Tensor | None = None,
    ) -> None:
        """Hold the numbers; `fit` makes them."""
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("whitening", whitening)
        self.register_buffer("means", means)
        self.register_buffer("class_task", class_task)
        self.register_buffer("squares", (means * means).sum(1) if squares is None else squares)
        self.register_buffer("thresholds", thresholds)
        self.register_buffer("background", background)
        # Of no use to a graph, which gets no label set, and so no input of it.
        self.floors = thresholds if floors is None else floors

    @classmethod
    def fit(
        cls, statistics: Sequence[TaskStatistics], *, shrinkage: float, false_alarm: float, background: float
    ) -> "Selector":
        """Pool the tasks' statistics.

        Args:
            statistics: one a task, in order.
            shrinkage: weight of `mean variance * identity` in the covariance, in (0, 1].
            false_alarm: share of a task's own images that may fall under its threshold.
            background: in [0, 1).
        """
        total = max(sum(s.count for s in statistics), 1)
        covariance = torch.zeros_like(statistics[0].scatter, dtype=torch.float64)
        for s in statistics:
            covariance += s.scatter / total
        size = covariance.shape[0]
        floor = max(float(covariance.diagonal().mean()), MIN_VARIANCE)
        covariance = (1 - shrinkage) * covariance + shrinkage * floor * torch.eye(size, dtype=torch.float64)
        means = torch.cat([s.means for s in statistics]).double()
        center = means.mean(0)
        whitening = torch.linalg.cholesky(torch.linalg.inv(covariance))
        share, weight = 1 / len(means), (1 - shrinkage) / total
        own = [left_out_scores(s, center, whitening, background, share=share, weight=weight) for s in statistics]
        none = torch.tensor(float("-inf"))
        return cls(
            center=center.float(),
            whitening=whitening.float(),
            means=((means - center) @ whitening).float(),
            class_task=torch.cat([torch.full((len(s.means),), t) for t, s in enumerate(statistics)]),
            thresholds=torch.stack([torch.quantile(x, false_alarm) if len(x) else none for x in own]),
            background=torch.tensor([background]),
            floors=torch.stack([x.min() if len(x) else none for x in own]),
        )

    def scores(self, features: Tensor) -> Tensor:
        """Log-likelihood of each task's nearest class less that of the background, up to a constant, `[B, T]`.

        `max over classes c of the task of -|u - m_c|^2 / 2 + background |u|^2 / 2`, u the whitened feature. The second
        part is the same for all tasks: it does not change which one is best, only which images are left to plain CLIP.
        """
        return self._scores(features, self.background)

    def distances(self, features: Tensor) -> Tensor:
        """`min over classes c of the task of |u - m_c|^2 / 2`, `[B, T]`."""
        return -self._scores(features, torch.zeros_like(self.background))

    def sizes(self, features: Tensor) -> Tensor:
        """Sum of the two distances whose difference a score is, `[B, T]`: what its rounding errors are measured by."""
        return self.scores(features) + 2 * self.distances(features)

    def _scores(self, features: Tensor, background: Tensor) -> Tensor:
        u = (features - self.center) @ self.whitening
        own = (1.0 - background) * (u * u).sum(1, keepdim=True)
        squared = own - 2.0 * (u @ self.means.T) + self.squares
        worst = torch.full((u.shape[0], self.thresholds.shape[0]), _NO_CLASS, dtype=u.dtype, device=u.device)
        index = self.class_task.expand(u.shape[0], -1)
        return worst.scatter_reduce(1, index, -0.5 * squared, "amax")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Choose for images of which the caller says nothing.

        Args:
            features: what the selector reads, float32 `[B, F]`.

        Returns:
            Index of the task of each image, int64 `[B]`, `PLAIN` where the best one is under its threshold; and the
            evidence: scores minus thresholds, `[B, T]`.
        """
        scores = self.scores(features)
        evidence = scores - self.thresholds
        task = scores.argmax(dim=1, keepdim=True)
        chosen = torch.where(evidence.gather(1, task) >= 0, task, PLAIN).squeeze(1)
        return chosen, evidence

    def choose(self, features: Tensor, among: Sequence[int] | None = None) -> Tensor:
        """Index of the task of each image, int64 `[B]`, or `PLAIN`.

        Args:
            features: what the selector reads, `[B, F]`.
            among: the tasks whose classes are the label set that the caller gave. Those words are evidence already:
                only these tasks are considered, and an image is left to plain CLIP only where it lies under every
                image that set the task's threshold (`floors`). An empty list is a label set of no task: plain CLIP.
        """
        if among is None:
            return self(features)[0]
        if not among:
            return torch.full((len(features),), PLAIN, device=features.device)
        considered = torch.tensor(among, device=features.device)
        best, place = self.scores(features)[:, considered].max(dim=1)
        task = considered[place]
        return torch.where(best >= self.floors.to(best.device)[task], task, torch.full_like(task, PLAIN))


def left_out_scores(
    statistics: TaskStatistics, center: Tensor, whitening: Tensor, background: float, *, share: float, weight: float
) -> Tensor:
    """Score for a task of the images that set its threshold, each as if it had not been learned from, float32 `[M]`.

    Without an image x at r from the mean of its class of n, that mean lies at k r, k = n / (n - 1), and the scatter is
    less by k r r^T: a change of rank one, so nothing is inverted again (Sherman and Morrison). The count of images and
    the shrinkage's mean variance stay as they are. An image that is all of its class is scored by the other classes.

    Args:
        statistics: of the task.
        center: mean of all class means, `[F]`.
        whitening: of all tasks' covariance, `[F, F]`.
        background: as of `Selector`.
        share: share of one class mean in `center`.
        weight: of the scatter in the covariance.
    """
    x = (statistics.calibration.double() - center) @ whitening
    means = (statistics.means.double() - center) @ whitening
    label, inside = statistics.labels.clamp(min=0), statistics.labels != HELD_OUT
    size = torch.where(inside, statistics.sizes[label].double(), torch.inf)
    alone = inside & (size == 1)
    residual = (x - means[label]) * (inside & ~alone)[:, None]
    grown = torch.where(inside & ~alone, size / (size - 1), 1.0)
    squared = residual.square().sum(1)
    gain = (weight * grown / (1 - weight * grown * squared))[:, None]
    distances = torch.cdist(x, means).square()
    distances += gain * ((x * residual).sum(1, keepdim=True) - residual @ means.T).square()
    rows = inside.nonzero().flatten()
    distances[rows, label[rows]] = (grown.square() * squared / (1 - weight * grown * squared))[rows]
    distances[alone, label[alone]] = torch.inf
    away = x + share * (grown - 1)[:, None] * residual
    wide = away.square().sum(1) + gain[:, 0] * (away * residual).sum(1).square()
    scores = 0.5 * (background * wide - distances.min(1).values)
    return scores[scores.isfinite()].float()

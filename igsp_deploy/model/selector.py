"""Choosing the task of an image when nobody says it: class-conditional Gaussians with one shared, shrunk covariance.

The score of a task is the best log-likelihood among its classes, a Mahalanobis distance as in "A Simple Unified
Framework for Detecting Out-of-Distribution Samples" (arXiv 1807.03888, section 2.1), less that of the image under a
background: one wide Gaussian for all images there are. A background goes back to "A Simple Fix to Mahalanobis Distance
for Improving Near-OOD Detection" (arXiv 2106.09022), which fits it to the training images; here it is the tasks'
shared covariance, `1 / background` times as wide, around the mean of the classes, and has no numbers of its own. An
image that falls under its best task's threshold is left to plain CLIP. Decided for every image by itself.

Shapes: B images, F features, C classes of one task, S classes of all tasks, T tasks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from igsp_deploy.config import SelectorPlace
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.towers import encode_from_trunk
from igsp_deploy.names import PLAIN

MIN_VARIANCE = 1e-4
"""Least mean variance the covariance is shrunk to: below it whitening would blow rounding errors up into scores."""


def selector_features(backbone: Backbone, tokens: Tensor, first_block: int, place: SelectorPlace) -> Tensor:
    """What the selector reads of each image, `[B, F]`.

    `trunk`: class token and mean of the other tokens of the first adapted block's input, both without their mean and
    at unit variance, so that no scale of the backbone enters. `embedding`: plain CLIP's normalised image embedding.

    Args:
        tokens: output of `trunk_tokens` for `first_block`, `[B, n, d]`.
    """
    if place == "embedding":
        return encode_from_trunk(backbone, tokens, None, first_block, normalize=True)
    pair = torch.stack([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
    pair = torch.nn.functional.layer_norm(pair, pair.shape[-1:])
    if first_block == 0:  # there the class token is the same for every image
        return pair[:, 1]
    return pair.flatten(1)


@dataclass(frozen=True, kw_only=True)
class TaskStatistics:
    """What the selector remembers of a task: no image, only sums.

    Attributes:
        means: mean feature of each class, `[C, F]` float32.
        scatter: sum over images of (x - mean of its class)(x - mean of its class)^T, `[F, F]` float32.
        count: number of images behind `scatter`.
        calibration: features of held-out images that set the threshold, `[M, F]` float32.
    """

    means: Tensor
    scatter: Tensor
    count: int
    calibration: Tensor


def task_statistics(features: Tensor, labels: Tensor, num_classes: int, calibration: Tensor) -> TaskStatistics:
    """Statistics of one task from its training features `[M, F]` with labels `[M]` and held-out features."""
    x = features.double()
    means = torch.zeros(num_classes, x.shape[1], dtype=torch.float64)
    means.index_add_(0, labels, x)
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    means /= counts[:, None]
    residual = x - means[labels]
    return TaskStatistics(
        means=means.float(), scatter=(residual.T @ residual).float(), count=len(labels), calibration=calibration.float()
    )


class Selector:
    """Scores every task for every image, and chooses one, or none.

    Attributes:
        center: mean of all class means, `[F]`; the background's mean.
        whitening: `[F, F]` with `whitening @ whitening.T` the inverse of the shared covariance.
        whitened_means: `[S, F]`.
        class_task: task of each row of `whitened_means`, int64 `[S]`.
        thresholds: score under which an image is not taken for that task, `[T]`.
        floors: lowest score of any of the task's held-out images, `[T]`.
        background: variance of the tasks' Gaussians over that of the background; 0 is a background without an end.
    """

    def __init__(
        self, statistics: list[TaskStatistics], *, shrinkage: float, false_alarm: float, background: float
    ) -> None:
        """Pool the tasks' statistics.

        Args:
            statistics: one a task, in order.
            shrinkage: weight of `mean variance * identity` in the covariance, in (0, 1].
            false_alarm: share of a task's own held-out images that may fall under its threshold.
            background: in [0, 1).
        """
        total = sum(s.count for s in statistics)
        covariance = torch.stack([s.scatter.double() for s in statistics]).sum(0) / max(total, 1)
        size = covariance.shape[0]
        floor = max(float(covariance.diagonal().mean()), MIN_VARIANCE)
        covariance = (1 - shrinkage) * covariance + shrinkage * floor * torch.eye(size, dtype=torch.float64)
        means = torch.cat([s.means for s in statistics]).double()
        center = means.mean(0)
        whitening = torch.linalg.cholesky(torch.linalg.inv(covariance))
        self.num_tasks = len(statistics)
        self.background = background
        self.center = center.float()
        self.whitening = whitening.float()
        self.whitened_means = ((means - center) @ whitening).float()
        self.class_task = torch.cat([torch.full((len(s.means),), t) for t, s in enumerate(statistics)])
        thresholds, floors = [], []
        for t, s in enumerate(statistics):
            own = self.scores(s.calibration)[:, t]
            thresholds.append(float(torch.quantile(own, false_alarm)) if len(own) else float("-inf"))
            floors.append(float(own.min()) if len(own) else float("-inf"))
        self.thresholds = torch.tensor(thresholds)
        self.floors = torch.tensor(floors)

    def scores(self, features: Tensor) -> Tensor:
        """Log-likelihood of each task's nearest class less that of the background, up to a constant, `[B, T]`.

        `max over classes c of the task of -|u - m_c|^2 / 2 + background |u|^2 / 2`, u the whitened feature. The second
        part is the same for all tasks: it does not change which one is best, only which images are left to plain CLIP.
        """
        return self._scores(features, self.background)

    def distances(self, features: Tensor) -> Tensor:
        """`min over classes c of the task of |u - m_c|^2 / 2`, `[B, T]`."""
        return -self._scores(features, 0.0)

    def sizes(self, features: Tensor) -> Tensor:
        """Sum of the two distances whose difference a score is, `[B, T]`: what its rounding errors are measured by."""
        return self.scores(features) + 2 * self.distances(features)

    def _scores(self, features: Tensor, background: float) -> Tensor:
        u = (features.cpu().float() - self.center) @ self.whitening
        own = (1.0 - background) * (u * u).sum(1, keepdim=True)
        squared = own - 2 * u @ self.whitened_means.T + (self.whitened_means**2).sum(1)
        result = torch.full((len(u), self.num_tasks), float("-inf"))
        index = self.class_task.expand(len(u), -1)
        return result.scatter_reduce(1, index, -0.5 * squared, "amax")

    def choose(self, features: Tensor, among: list[int] | None = None) -> Tensor:
        """Index of the task of each image, int64 `[B]`; `PLAIN` where the best one is under its threshold.

        Args:
            features: what the selector reads, `[B, F]`.
            among: the tasks whose classes are the label set that the caller gave. Those words are evidence already:
                only these tasks are considered, and an image is left to plain CLIP only where it lies under every
                held-out image of the task (`floors`). An empty list is a label set that no task has: plain CLIP.
        """
        scores = self.scores(features)
        if among is None:
            best, task = scores.max(dim=1)
            return torch.where(best >= self.thresholds[task], task, torch.full_like(task, PLAIN))
        if not among:
            return torch.full((len(features),), PLAIN)
        best, place = scores[:, among].max(dim=1)
        task = torch.tensor(among)[place]
        return torch.where(best >= self.floors[task], task, torch.full_like(task, PLAIN))

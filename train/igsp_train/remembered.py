"""What a ridge regression needs of images that are gone, from a task's selector statistics and its head.

With n images of mean m a class and the scatter S around the means, `X^T X = S + sum n m m^T` and `Y^T X = n m`: exact
where heads are compared with summaries. Of Fourier features the same moments are those of Gaussians, in closed form:
with x from N(m, V) and directions w, `E cos(w x) = exp(-w V w / 2) cos(w m)`, and products of cosines and sines are
cosines and sines of the directions' sums and differences. A Gaussian knows no more of a class than a linear head would,
so the head itself is kept beside them: the sums are such that they give its vectors back, and new images move it.

Shapes: F numbers of a summary, P that heads are compared with, C classes.
"""

import torch
from torch import Tensor

from igsp_deploy.config import HeadFeatures
from igsp_deploy.model.fourier import directions
from igsp_deploy.model.selector import TaskStatistics
from igsp_train.head import RidgeSums


def remembered(statistics: TaskStatistics, kind: HeadFeatures, vectors: Tensor | None) -> RidgeSums:
    """Sums over the images behind a task's statistics.

    Args:
        statistics: of the task.
        kind: what heads are compared with.
        vectors: the task's head times any number, `[C, P]`; None where words alone tell its classes apart.
    """
    if kind == "summary":
        return _of_summaries(statistics)
    sums = _of_fourier(statistics)
    return sums if vectors is None else anchored(sums, vectors)


def _of_summaries(statistics: TaskStatistics) -> RidgeSums:
    means, sizes = statistics.means.double(), statistics.sizes.double()
    sums = RidgeSums(*means.shape)
    sums.counts = sizes
    sums.sums = sizes[:, None] * means
    sums.gram = statistics.scatter.double() + means.T @ sums.sums
    return sums


def _of_fourier(statistics: TaskStatistics) -> RidgeSums:
    """Expected sums, each class a Gaussian around its mean, all of the task's covariance."""
    columns, sizes = directions(statistics.means.shape[1]).double(), statistics.sizes.double()
    angles = statistics.means.double() @ columns
    spread = columns.T @ (statistics.scatter.double() / max(statistics.count, 1)) @ columns
    own = spread.diagonal()
    cos, sin = angles.cos(), angles.sin()
    cc, ss, sc = (a.T @ (sizes[:, None] * b) for a, b in ((cos, cos), (sin, sin), (sin, cos)))
    # Of the differences and of the sums of two directions: what is left of a wave behind the Gaussian, halved.
    minus = 0.5 * torch.exp(spread - 0.5 * (own[:, None] + own))
    plus = 0.5 * torch.exp(-spread - 0.5 * (own[:, None] + own))
    cosines = minus * (cc + ss) + plus * (cc - ss)
    sines = minus * (cc + ss) - plus * (cc - ss)
    mixed = minus * (sc - sc.T) + plus * (sc + sc.T)
    sums = RidgeSums(len(sizes), 2 * len(own))
    sums.counts = sizes
    sums.gram = torch.cat([torch.cat([cosines, mixed.T], dim=1), torch.cat([mixed, sines], dim=1)])
    sums.sums = sizes[:, None] * torch.cat([cos, sin], dim=1) * torch.exp(-0.5 * own).repeat(2)
    return sums


def anchored(sums: RidgeSums, vectors: Tensor) -> RidgeSums:
    """The same Gram matrix, with sums of the classes whose ridge has the direction of given vectors.

    A ridge W has `W (X^T X + s m I) = (Y - share)^T X`; the factor is the one with which that holds along W.

    Args:
        sums: over the images.
        vectors: `[C, P]`, not all zero.
    """
    given, held = vectors.double(), sums.held()
    share, total = sums.shares()[:, None], sums.sums.sum(0)
    factor = (given * (sums.sums - share * total)).sum() / ((given @ held) * given).sum()
    if factor <= 0:  # they contradict the images: these are worth more
        return sums
    found = RidgeSums(*sums.sums.shape)
    found.counts, found.gram, found.sums = sums.counts, sums.gram, factor * given @ held + share * total
    return found

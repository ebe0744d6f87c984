"""The closed-form head of a task that is learned: ridge regression on the frozen trunk, blended with the words.

Least squares from Fourier features of an image's summary (`LearnedClip.for_heads`) to its class: no intercept, targets
one-hot less the classes' shares, `W = (X^T X + s m I)^-1 X^T (Y - share)` with m the mean of the diagonal of `X^T X`.
Seen are the training images as they are and the augmented views that learning had in its cache.
Scores are scaled to spread over the classes as those of the words do, and weighed against these.

The trunk is frozen, so its features of training images are no better than those of any image; those behind the experts
are, and a ridge on them loses its worth as training goes on (train/RESULTS.md has both).

The probabilities of a task with a head get a temperature, where enough images are held out to see how sure they may be
(arXiv 1706.04599, section 4.2). Training images cannot stand in: the experts have learned them, and plain CLIP's words
are less sure than those behind experts (train/RESULTS.md has all three).

Shapes: N images, F numbers of a summary, P that heads are compared with, C classes, n tokens, d width.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.names import PLAIN
from igsp_train.features import CHUNK

STRENGTH = 0.1
"""Ridge strength s, relative to the mean of the Gram matrix' diagonal."""
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Weights of the head to choose among by the loss on held-out images; 0 leaves the words alone. Not more: some dozens
of held-out images would trust the head too much."""
FEW = 20
"""Held-out images under which their loss says too little to choose by."""
WEIGHT_OF_FEW = 0.5
"""The head's weight then, at most."""
MEASURED = 256
"""Training images at most that stand in for held-out ones then."""
ROWS = 1024
"""Images whose features are computed at once."""
FOLDS = 5
"""Parts of the training images; those of one are told apart by a ridge on the others."""
TEMPERATURES = torch.logspace(-2, 2, 401, base=2.0, dtype=torch.float64)
"""What a task's scores may be divided by."""
DOUBT = 8.0
"""What one squared unit of log temperature costs, in nats over all held-out images: some dozens of them say little."""
NO_SPREAD = 1e-6
"""Scores that spread less than this, in logits, tell nothing apart: one class, or the same summary of every image."""


class RidgeSums:
    """What a ridge regression needs of the images it has seen, in float64 on the CPU."""

    def __init__(self, num_classes: int, width: int) -> None:
        """No images yet, for `width` numbers an image."""
        self.counts = torch.zeros(num_classes, dtype=torch.float64)
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.sums = torch.zeros(num_classes, width, dtype=torch.float64)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features `[N, P]` and labels `[N]`."""
        x = features.double()
        self.gram.addmm_(x.T, x)
        self.sums.index_add_(0, labels, x)
        self.counts += torch.bincount(labels, minlength=len(self.counts))

    def plus(self, others: Iterable["RidgeSums"]) -> "RidgeSums":
        """The sums over the images of all of them."""
        total = RidgeSums(*self.sums.shape)
        for one in (self, *others):
            total.counts += one.counts
            total.gram += one.gram
            total.sums += one.sums
        return total

    def without(self, other: "RidgeSums") -> "RidgeSums":
        """The sums less those over images that are among its own."""
        left = RidgeSums(*self.sums.shape)
        left.counts, left.gram, left.sums = self.counts - other.counts, self.gram - other.gram, self.sums - other.sums
        return left

    def shares(self) -> Tensor:
        """Of the images, each class's, `[C]`."""
        return self.counts / self.counts.sum().clamp(min=1.0)

    def held(self) -> Tensor:
        """The Gram matrix and what holds the vectors small, `X^T X + s m I`: `[P, P]`."""
        gram = self.gram.clone()
        level = float(gram.diagonal().mean())
        # Where every feature is zero any positive number will do: the right side is zero as well.
        gram.diagonal().add_(STRENGTH * level if level > 0 else 1.0)
        return gram

    def solve(self) -> Tensor:
        """Vectors of the classes, `[C, P]` float32; zeros where no image was seen."""
        right = self.sums - self.shares()[:, None] * self.sums.sum(0)
        return torch.cholesky_solve(right.T, torch.linalg.cholesky(self.held())).T.float()

    def widened(self, num_classes: int) -> "RidgeSums":
        """The same images, none of which is of the further classes."""
        more = RidgeSums(num_classes, len(self.gram))
        more.gram, count = self.gram, len(self.counts)
        more.counts[:count], more.sums[:count] = self.counts, self.sums
        return more


def take_in(sums: RidgeSums, learned: LearnedClip, summaries: Tensor, labels: Tensor) -> None:
    """Add what heads read of summaries `[N, F]` with classes `[N]`, some images at a time."""
    for some, own in zip(summaries.split(ROWS), labels.split(ROWS), strict=True):
        sums.add(learned.for_heads(some), own)


def spread_of(scores: Tensor) -> float:
    """How far scores `[N, C]` lie from their image's mean: the root of the mean square."""
    return float((scores - scores.mean(1, keepdim=True)).pow(2).mean().sqrt()) if len(scores) else 0.0


def best_weight(words: Tensor, ridge: Tensor, labels: Tensor, weights: Sequence[float]) -> float:
    """The weight of the ridge, spread as the words are, with the least loss; the smallest of equals.

    Args:
        words: logits `[N, C]`.
        ridge: scores `[N, C]`.
        labels: `[N]`.
        weights: in rising order.
    """
    spread_ridge = spread_of(ridge)
    if spread_ridge < NO_SPREAD:
        return 0.0
    ridge = ridge * (spread_of(words) / spread_ridge)
    losses = [float(F.cross_entropy((1 - w) * words + w * ridge, labels)) for w in weights]
    return weights[losses.index(min(losses))]


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T of `TEMPERATURES` with the least loss of `logits / T`, which costs more the further T is from 1.

    Args:
        logits: of images that nothing was learned from, `[N, C]`.
        labels: `[N]`.
    """
    scores, own = logits.cpu().double(), labels.cpu()
    losses = [F.cross_entropy(scores / t, own, reduction="sum") + DOUBT * t.log() ** 2 for t in TEMPERATURES]
    return float(TEMPERATURES[int(torch.stack(losses).argmin())])


def weight_of(head: Head | None, tempered: float) -> float:
    """The weight in [0, 1) of a head whose scores were divided by `tempered`; 0 of None."""
    return 0.0 if head is None else 1.0 - head.text_share * tempered


@torch.no_grad()
def task_head(
    learned: LearnedClip,
    seen: tuple[Tensor, Tensor],
    views: Iterable[Tensor],
    weighed: tuple[Tensor, Tensor] | None,
    *,
    folds: Tensor | None = None,
) -> Head | None:
    """The head of the one task of `learned`, which has none yet.

    Its weight is the one with the least loss on held-out images. Where too few are held out, training images stand
    in, told apart by a ridge that has not seen their part of the images, and by plain CLIP's words, which saw none:
    a trunk that says little about the classes gets no weight then either.

    Args:
        learned: the frozen CLIP with that task's experts and words.
        seen: summaries `[N, F]` of the training images and their classes `[N]`.
        views: summaries `[N, F]` of the same images in each of their cached views.
        weighed: trunk tokens `[M, n, d]` and classes `[M]` of images to choose its weight by; None of no image.
        folds: of training images: which of the `FOLDS` each is in, `[M]`; None of held-out images.

    Returns:
        It, or None where words alone are as good.
    """
    if weighed is None or not len(seen[1]):
        return None
    labels = seen[1]
    width = learned.for_heads(seen[0][:1]).shape[1]
    parts = [RidgeSums(len(learned.tasks[0].display_names), width) for _ in range(1 if folds is None else FOLDS)]
    for summaries in (seen[0], *views):
        for fold, part in enumerate(parts):
            take_in(part, learned, summaries[fold :: len(parts)], labels[fold :: len(parts)])
    vectors, scale = parts[0].plus(parts[1:]).solve(), learned.clip.logit_scale
    words, plain, read = measure(learned, weighed[0])
    ridge, weight = read @ vectors.T, 0.0
    spreads = spread_of(scale * words), spread_of(ridge)
    if min(spreads) < NO_SPREAD:
        return None
    if folds is None:
        weight = best_weight(scale * words, ridge, weighed[1], WEIGHTS)
    else:
        for fold in folds.unique().tolist():
            others = [part for number, part in enumerate(parts) if number != fold]
            ridge[folds == fold] = read[folds == fold] @ others[0].plus(others[1:]).solve().T
        weight = best_weight(scale * plain, ridge, weighed[1], [w for w in WEIGHTS if w <= WEIGHT_OF_FEW])
    if not weight:
        return None
    return Head(vectors=vectors * (weight * spreads[0] / spreads[1] / scale), text_share=1.0 - weight)


def predicted(learned: LearnedClip, tokens: Tensor) -> Tensor:
    """Scores `[M, C]` of the one task of `learned` before the softmax, of trunk tokens `[M, n, d]`."""
    return torch.cat([learned.predict(part, 0) for part in tokens.to(learned.device).split(CHUNK)])


def measure(learned: LearnedClip, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines with the words under the experts and under plain CLIP, `[M, C]` each, and what heads read, `[M, P]`."""
    rows = []
    for part in tokens.to(learned.device).split(CHUNK):
        rows.append((learned.cosines(part, 0), learned.cosines(part, PLAIN), learned.read(part)))
    words, plain, read = (torch.cat(column).cpu() for column in zip(*rows, strict=True))
    return words, plain, read

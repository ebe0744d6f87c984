"""The embedding space, fixed before the towers are trained: where each class name and each picture ought to lie.

With the teacher's pooled feature f [1280] and logits W f + b, a linear map A and unit class vectors v_c are sought
such that

    softmax_c( s * cos(A f + a, v_c) )  =  softmax_c( W f + b )

and such that A f + a keeps what else f holds (a second linear map rebuilds the whitened f from it). v_c is then the
target of the text tower for the class's name, and A f + a that of the vision tower: CLIP's geometry from a
classifier, by distillation (Hinton et al. 2015, arXiv 1503.02531).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 700
BATCH = 384
TEMPERATURES = (1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Targets in the embedding space of size D."""

    project: nn.Linear
    """A and a: pooled feature [1280] to an embedding [D], not normalised."""
    imagenet: Tensor
    """[1000, D] unit vectors, in the order of `open_clip.IMAGENET_CLASSNAMES`."""
    folder: Tensor
    """[C, D] unit vectors of the classes of the folder of real images."""


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over `TEMPERATURES` of T * KL(teacher / T || student / T); both [B, C] logits."""
    terms = [
        t * F.kl_div((student / t).log_softmax(1), (teacher / t).log_softmax(1), log_target=True, reduction="batchmean")
        for t in TEMPERATURES
    ]
    return torch.stack(terms).mean()


def fit_anchors(
    real: Tensor, labels: Tensor, rendered: Tensor, classifier: nn.Linear, num_dims: int, scale: float, seed: int
) -> Anchors:
    """Fit the anchors by Adam on cached features.

    Args:
        real: [N, 1280] pooled features of real pictures and their mixtures.
        labels: [N] class in the folder, -1 for mixtures.
        rendered: [M, 1280] pooled features of rendered pictures (they take part in the rebuilding term only).
        classifier: the teacher's linear layer.
        num_dims: D.
        scale: s, the model's exp(logit_scale).
        seed: of the order of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = classifier.weight - classifier.weight.mean(0)
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    project = nn.Linear(1280, num_dims)
    rebuild = nn.Linear(num_dims, 1280)
    mean = real.mean(0)
    spread = real.std(0).mean()
    num_classes = int(labels.max()) + 1
    with torch.no_grad():
        project.weight.copy_(singular[:num_dims, None].sqrt() * right[:num_dims])
        assert project.bias is not None
        project.bias.copy_(-project.weight @ mean)
        imagenet = F.normalize(left[:, :num_dims] * singular[:num_dims].sqrt(), dim=1)
        embedded = F.normalize(project(real), dim=1)
        folder = torch.stack([F.normalize(embedded[labels == c].mean(0), dim=0) for c in range(num_classes)])
    free = [nn.Parameter(imagenet.clone()), nn.Parameter(folder.clone())]
    groups = [{"params": free, "lr": 3e-3}, {"params": [*project.parameters(), *rebuild.parameters()], "lr": 1e-3}]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(real), (BATCH,), generator=generator)
        other = torch.randint(len(rendered), (BATCH // 4,), generator=generator)
        feature = torch.cat([real[rows], rendered[other]])
        raw = project(feature)
        unit = F.normalize(raw, dim=1)
        chosen = F.normalize(free[0], dim=1)
        loss = distillation(scale * unit[:BATCH] @ chosen.T, classifier(feature[:BATCH]))
        loss = loss + 0.3 * F.mse_loss(rebuild(unit * num_dims**0.5), (feature - mean) / spread)
        known = labels[rows] >= 0
        loss = loss + 0.3 * F.cross_entropy(
            scale * unit[:BATCH][known] @ F.normalize(free[1], dim=1).T, labels[rows][known]
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    project.requires_grad_(False)
    with torch.no_grad():
        return Anchors(
            project=project, imagenet=F.normalize(free[0], dim=1).detach(), folder=F.normalize(free[1], dim=1).detach()
        )

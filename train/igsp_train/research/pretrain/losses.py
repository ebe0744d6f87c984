"""Losses that tie the two towers to the anchors and to each other."""

import torch
import torch.nn.functional as F
from torch import Tensor


def alignment(embedding: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - cos over rows, both [B, D]."""
    return 1 - F.cosine_similarity(embedding, target, dim=1).mean()


def caption_contrast(images: Tensor, texts: Tensor, agreeing: Tensor, scale: float) -> Tensor:
    """Symmetric contrast of pictures and their captions (Radford et al. 2021, arXiv 2103.00020).

    Args:
        images: [B, D] unit embeddings.
        texts: [M, D] unit embeddings, M >= B; row i < B describes picture i, further rows are captions of no picture.
        agreeing: [B, M] bool, true where caption j is true of picture i as well: no negative (the diagonal does not
            matter).
        scale: exp(logit_scale).
    """
    own = torch.eye(*agreeing.shape, dtype=torch.bool)
    logits = (scale * images @ texts.T).masked_fill(agreeing & ~own, float("-inf"))
    target = torch.arange(len(images))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(images)].T, target)) / 2


def name_loss(texts: Tensor, anchors: Tensor, target: Tensor, scale: float) -> Tensor:
    """Pull names to their anchors and away from the others.

    Args:
        texts: [B, D] unit embeddings of names.
        anchors: [C, D] unit vectors.
        target: [B] index of each name's anchor.
        scale: exp(logit_scale).
    """
    return 3 * alignment(texts, anchors[target]) + 0.3 * F.cross_entropy(scale * texts @ anchors.T, target)

"""What the selector reads of a task's images, seen without augmentation."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.model.clip import Clip
from igsp_train.features import trunk_chunks


def image_summaries(clip: Clip, images: NDArray[np.uint8]) -> Tensor:
    """What the selector reads of uint8 images `[N, S, S, 3]`: `[N, F]`."""
    with torch.no_grad():
        return torch.cat([clip.summary(tokens).cpu() for _, tokens in trunk_chunks(clip, images)])


def chunked_summaries(
    clip: Clip, chunks: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]]
) -> tuple[Tensor, Tensor]:
    """What the selector reads, `[N, F]`, and labels `[N]` of images that come in chunks; `[0, 0]` of none."""
    features, labels = [], []
    for images, targets in chunks:
        features.append(image_summaries(clip, images))
        labels.append(torch.from_numpy(targets))
    return (torch.cat(features), torch.cat(labels)) if features else (torch.zeros(0, 0), torch.zeros(0).long())


def spread(count: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` of `count` places, evenly spread."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64) if count else np.zeros(0, np.int64)

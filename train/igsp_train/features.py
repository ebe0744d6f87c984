"""Frozen-trunk features of a task's images: computed without gradient, cached where they fit.

Shapes: B images, n tokens, d width, S image side.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.towers import normalize_images, trunk_tokens
from igsp_train.data.workers import WorkerViews

CHUNK = 32
"""Images a forward pass of the trunk. Fixed, so that a cached feature does not depend on which step asked for it."""


class Views(Protocol):
    """Augmented training images, each a pure function of its index and epoch."""

    def __len__(self) -> int: ...

    def view(self, index: int, epoch: int) -> NDArray[np.uint8]:
        """Image `index` as seen in `epoch`, uint8 `[S, S, 3]`."""


def image_trunk(backbone: Backbone, images: NDArray[np.uint8], first_block: int) -> Tensor:
    """Trunk tokens `[B, n, d]` of uint8 images `[B, S, S, 3]`."""
    spec = backbone.preprocess
    with torch.no_grad():
        pixels = normalize_images(torch.from_numpy(images).to(backbone.device), spec.mean, spec.std)
        return trunk_tokens(backbone, pixels, first_block)


def trunk_chunks(backbone: Backbone, images: NDArray[np.uint8], first_block: int) -> Iterator[tuple[slice, Tensor]]:
    """Trunk tokens of many images, `CHUNK` at a time, with the slice each chunk covers."""
    for start in range(0, len(images), CHUNK):
        rows = slice(start, min(start + CHUNK, len(images)))
        yield rows, image_trunk(backbone, images[rows], first_block)


class TrunkViews:
    """Trunk tokens of augmented training images.

    With `cached_views = V > 0` epoch e sees view e mod V, whose tokens are computed once for all images and kept; with
    0, or where V views would not fit into the limit, every step augments and computes anew.
    """

    def __init__(
        self, backbone: Backbone, first_block: int, views: Views, *, cached_views: int, limit_bytes: int
    ) -> None:
        """Prepare; nothing is computed before it is asked for."""
        self.backbone = backbone
        self.first_block = first_block
        self.views = views
        tokens = backbone.visual.positional_embedding.numel()
        fitting = limit_bytes // max(1, len(views) * tokens * 4)
        self.cached_views = min(cached_views, fitting)
        self._cache: dict[int, Tensor] = {}

    def _images(self, pairs: list[tuple[int, int]]) -> NDArray[np.uint8]:
        if isinstance(self.views, WorkerViews):
            return self.views.batch(pairs)
        return np.stack([self.views.view(index, epoch) for index, epoch in pairs])

    def batch(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> Tensor:
        """Tokens `[B, n, d]` of images `indices`, each as seen in its epoch."""
        if not self.cached_views:
            pairs = list(zip(indices.tolist(), epochs.tolist(), strict=True))
            return image_trunk(self.backbone, self._images(pairs), self.first_block)
        rows = []
        for index, epoch in zip(indices.tolist(), epochs.tolist(), strict=True):
            rows.append(self._view(epoch % self.cached_views)[index])
        return torch.stack(rows)

    def _view(self, number: int) -> Tensor:
        if number not in self._cache:
            parts = []
            for start in range(0, len(self.views), CHUNK):
                pairs = [(i, number) for i in range(start, min(start + CHUNK, len(self.views)))]
                parts.append(image_trunk(self.backbone, self._images(pairs), self.first_block))
            self._cache[number] = torch.cat(parts)
        return self._cache[number]

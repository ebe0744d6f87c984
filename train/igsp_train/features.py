"""Frozen-trunk features of a task's images: computed without gradient, cached where they fit.

Shapes: B images, n tokens, d width, S image side.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.config import Precision
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.towers import normalize_images, trunk_tokens
from igsp_train.data.workers import WorkerViews
from igsp_train.precision import autocast
from igsp_train.ranks import ALONE, Ranks

CHUNK = 32
"""Images a forward pass of the trunk. Fixed, so that a cached feature does not depend on which step asked for it."""

Pairs = list[tuple[int, int]]
"""Index and epoch of every view of a batch."""


class Views(Protocol):
    """Augmented training images, each a pure function of its index and epoch."""

    def __len__(self) -> int: ...

    def view(self, index: int, epoch: int) -> NDArray[np.uint8]:
        """Image `index` as seen in `epoch`, uint8 `[S, S, 3]`."""


def image_trunk(
    backbone: Backbone,
    images: NDArray[np.uint8],
    first_block: int,
    *,
    precision: Precision = "fp32",
    lean: bool = False,
) -> Tensor:
    """Trunk tokens `[B, n, d]` of uint8 images `[B, S, S, 3]`; `lean` as in igsp_deploy/model/towers.py."""
    spec, device = backbone.preprocess, backbone.device
    with torch.no_grad(), autocast(device, precision):
        if device.type == "cpu":
            pixels = normalize_images(torch.from_numpy(images), spec.mean, spec.std)
        else:
            # Constants stay on the device and pixels come from pinned memory: the host waits for neither.
            mean, std = _channels(spec.mean, device), _channels(spec.std, device)
            raw = torch.from_numpy(images).pin_memory().to(device, non_blocking=True)
            pixels = (raw.permute(0, 3, 1, 2).float() / 255.0 - mean) / std
        return trunk_tokens(backbone, pixels, first_block, lean=lean)


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def trunk_chunks(backbone: Backbone, images: NDArray[np.uint8], first_block: int) -> Iterator[tuple[slice, Tensor]]:
    """Trunk tokens of many images, `CHUNK` at a time, with the slice each chunk covers."""
    for start in range(0, len(images), CHUNK):
        rows = slice(start, min(start + CHUNK, len(images)))
        yield rows, image_trunk(backbone, images[rows], first_block)


class TrunkViews:
    """Trunk tokens of augmented training images.

    With `cached_views = V > 0` epoch e sees view e mod V, whose tokens are computed once for all images and kept; with
    0, or where V views would not fit into the limit, every step augments and computes anew. Either way a thread makes
    the images of the next batch while the trunk or the step runs.
    """

    def __init__(
        self,
        backbone: Backbone,
        first_block: int,
        views: Views,
        *,
        cached_views: int,
        limit_bytes: int,
        precision: Precision = "fp32",
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare; nothing is computed before it is asked for.

        Args:
            backbone: the frozen CLIP.
            first_block: first adapted vision block.
            views: the images.
            cached_views: V.
            limit_bytes: memory for cached tokens.
            precision: of the trunk.
            ranks: processes that learn together; each computes its part of the cached views.
        """
        self.backbone = backbone
        self.first_block = first_block
        self.views = views
        self.precision = precision
        self.ranks = ranks
        tokens = backbone.visual.positional_embedding.numel()
        fitting = limit_bytes // max(1, len(views) * tokens * (2 if precision == "bf16" else 4))
        self.cached_views = min(cached_views, fitting)
        self._cache: dict[int, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="views")
        self._coming: tuple[Pairs, Future[NDArray[np.uint8]]] | None = None

    def _images(self, pairs: Pairs) -> NDArray[np.uint8]:
        if isinstance(self.views, WorkerViews):
            return self.views.batch(pairs)
        return np.stack([self.views.view(index, epoch) for index, epoch in pairs])

    def _trunk(self, images: NDArray[np.uint8]) -> Tensor:
        return image_trunk(self.backbone, images, self.first_block, precision=self.precision, lean=True)

    def prepare(self, epochs: NDArray[np.int64]) -> None:
        """Compute the cached views that a batch of these epochs needs.

        Learning together, every process must call this with the epochs of the whole batch before it asks for its part.
        """
        if self.cached_views:
            for number in np.unique(epochs % self.cached_views).tolist():
                self._view(number)

    def prefetch(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> None:
        """Begin to augment the images that the next call of `batch` will ask for."""
        if not self.cached_views:
            pairs = list(zip(indices.tolist(), epochs.tolist(), strict=True))
            self._coming = (pairs, self._thread.submit(self._images, pairs))

    def batch(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> Tensor:
        """Tokens `[B, n, d]` of images `indices`, each as seen in its epoch."""
        if self.cached_views:
            self.prepare(epochs)
            pairs = zip(indices.tolist(), (epochs % self.cached_views).tolist(), strict=True)
            return torch.stack([self._cache[number][index] for index, number in pairs])
        wanted = list(zip(indices.tolist(), epochs.tolist(), strict=True))
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] == wanted:
            return self._trunk(coming[1].result())
        return self._trunk(self._images(wanted))

    def _view(self, number: int) -> Tensor:
        if number not in self._cache:
            starts = range(0, len(self.views), CHUNK)
            mine = self.ranks.part(starts)
            parts = []
            coming = self._thread.submit(self._images, self._chunk(mine[0], number)) if mine else None
            for following in [*mine[1:], None]:
                if coming is None:
                    break
                images = coming.result()
                coming = self._thread.submit(self._images, self._chunk(following, number)) if following else None
                parts.append(self._trunk(images))
            self._cache[number] = self.ranks.concatenate(parts, self._empty())
        return self._cache[number]

    def _chunk(self, start: int, number: int) -> Pairs:
        return [(index, number) for index in range(start, min(start + CHUNK, len(self.views)))]

    def _empty(self) -> Tensor:
        """Tokens of no image: what a process without a part of a view has to give."""
        shape = tuple(self.backbone.visual.positional_embedding.shape)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return torch.empty(0, *shape, dtype=dtype, device=self.backbone.device)

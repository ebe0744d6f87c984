"""Frozen-trunk features of a task's images: computed without gradient, cached where they fit.

Shapes: B images, n tokens, d width, S image side.
"""

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.config import Precision
from igsp_deploy.data import Items, eval_chunks
from igsp_deploy.model.clip import Clip
from igsp_train.data.workers import WorkerViews
from igsp_train.precision import autocast
from igsp_train.ranks import ALONE, Ranks

CHUNK = 32
"""Images a forward pass of the trunk. Fixed, so that a cached feature does not depend on which step asked for it."""

Labelled = tuple[Tensor, Tensor]
"""Trunk tokens `[N, n, d]` of images, and their classes `[N]`."""

Pairs = list[tuple[int, int]]
"""Index and epoch of every view of a batch."""


class Views(Protocol):
    """Augmented training images, each a pure function of its index and epoch."""

    def __len__(self) -> int: ...

    def view(self, index: int, epoch: int) -> NDArray[np.uint8]:
        """Image `index` as seen in `epoch`, uint8 `[S, S, 3]`."""


class TokenBatches(Protocol):
    """Trunk tokens of augmented training images: `TrunkViews`, or ones that a study read from disk."""

    def batch(self, indices: NDArray[np.int64], epochs: NDArray[np.int64], /) -> Tensor:
        """Tokens `[B, n, d]` of images `indices`, each as seen in its epoch."""


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor on `device`; on a GPU of CUDA the host waits for nothing."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":  # MPS reads memory that was not pinned while it is used for something else
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def image_trunk(clip: Clip, images: NDArray[np.uint8], *, precision: Precision = "fp32") -> Tensor:
    """Trunk tokens `[B, n, d]` of uint8 images `[B, S, S, 3]`."""
    with torch.no_grad(), autocast(clip.device, precision):
        return clip.trunk(to_device(images, clip.device))


def trunk_chunks(clip: Clip, images: NDArray[np.uint8]) -> Iterator[tuple[slice, Tensor]]:
    """Trunk tokens of many images, `CHUNK` at a time, with the slice each chunk covers."""
    for start in range(0, len(images), CHUNK):
        rows = slice(start, min(start + CHUNK, len(images)))
        yield rows, image_trunk(clip, images[rows])


def trunk_and_labels(clip: Clip, items: Items, spec: PreprocessSpec) -> Labelled | None:
    """Trunk tokens and labels of images without augmentation; None of no image."""
    parts = [(image_trunk(clip, images), torch.from_numpy(labels)) for images, labels in eval_chunks(items, spec)]
    if not parts:
        return None
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([labels for _, labels in parts])


def views_seen(cached_views: int, images: int, steps: int, batch_size: int) -> int:
    """How many of the cached views some step has seen."""
    return min(cached_views, -(-steps * batch_size // max(1, images)))


class TrunkViews:
    """Trunk tokens of augmented training images.

    With `cached_views = V > 0` epoch e sees view e mod V, whose tokens are computed once for all images and kept; with
    0, or where V views would not fit into the limit, every step augments and computes anew. Either way a thread makes
    the images of the next batch while the trunk or the step runs.
    """

    def __init__(
        self,
        clip: Clip,
        views: Views,
        *,
        cached_views: int,
        limit_bytes: int,
        precision: Precision = "fp32",
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare; nothing is computed before it is asked for.

        Args:
            clip: the frozen CLIP, as learning runs it.
            views: the images.
            cached_views: V.
            limit_bytes: memory for cached tokens.
            precision: of the trunk.
            ranks: processes that learn together; each computes its part of the cached views.
        """
        self.clip = clip
        self.views = views
        self.precision = precision
        self.ranks = ranks
        tokens = math.prod(clip.token_shape)
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
        return image_trunk(self.clip, images, precision=self.precision)

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

    def seen(self, steps: int, batch_size: int) -> Iterator[Tensor]:
        """Tokens `[N, n, d]` of all images in each cached view that so many steps have seen; nothing without a cache.

        A run that was resumed may have to compute some anew. Learning together, every process must ask.
        """
        for number in range(views_seen(self.cached_views, len(self.views), steps, batch_size)):
            yield self._view(number)

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
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return torch.empty(0, *self.clip.token_shape, dtype=dtype, device=self.clip.device)

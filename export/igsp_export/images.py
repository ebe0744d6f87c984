"""Images to hold the graphs against PyTorch with: the tasks' own test images where they can be found.

They are read a batch at a time while they are compared, so that memory holds one batch, whatever there is of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from igsp_deploy.data import eval_chunks
from igsp_deploy.data.frozen import FrozenSplit
from igsp_deploy.data.test_items import find_test_items
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.record import TaskRecord

TEST = "test images"
SYNTHETIC = 32
"""Synthetic images a task, where there are no real ones."""
CHUNK = 32
"""Images a batch."""

Batch = tuple[NDArray[np.uint8], NDArray[np.int64] | None]
"""Images uint8 `[B, S, S, 3]` and their labels `[B]`; None of synthetic ones."""


@dataclass(frozen=True, kw_only=True)
class CheckImages:
    """Images of one task, to be gone through once.

    Attributes:
        batches: of at least one image each.
        origin: `test images`, which have labels, or `synthetic images`.
    """

    batches: Iterator[Batch]
    origin: str

    @property
    def labelled(self) -> bool:
        """Whether its batches have labels."""
        return self.origin == TEST


def check_images(
    record: TaskRecord,
    backbone: Backbone,
    console: Console,
    limit: int = 0,
    split: FrozenSplit | None = None,
    size: int = CHUNK,
) -> CheckImages:
    """The task's test images, or synthetic ones where its source is gone.

    Args:
        record: the task.
        backbone: for the size of its input.
        console: gets a line where images are missing.
        limit: take this many at most, spread evenly; 0 takes all.
        split: the task's frozen split.
        size: images a batch.
    """

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    try:
        items = find_test_items(record, None, split, say)
        if limit and len(items) > limit:
            items = items.subset(np.linspace(0, len(items) - 1, limit).round().astype(int).tolist())
        batches: Iterator[Batch] = eval_chunks(items, backbone.preprocess, say, size)
        first = next(batches)  # whether any can be read
    except UserError as error:
        say(f"{record.name}: checked with synthetic images, because its own are not there ({error})")
        count = min(limit, SYNTHETIC) if limit else SYNTHETIC
        images = synthetic_images(count, backbone.preprocess.size, seed=record.index)
        parts = (images[start : start + size] for start in range(0, count, size))
        return CheckImages(batches=((part, None) for part in parts), origin="synthetic images")
    return CheckImages(batches=chain([first], batches), origin=TEST)


def synthetic_images(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Seeded pictures of waves, gradients and rectangles: uint8 `[count, size, size, 3]`. They show nobody's data."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    result = np.empty((count, size, size, 3), np.uint8)
    for image in result:
        base, slope = random.uniform(0, 255, 3), random.uniform(-160, 160, (2, 3))
        wave = np.sin(2 * np.pi * (random.uniform(0, 8) * x + random.uniform(0, 8) * y + random.uniform()))
        picture = base + slope[0] * x[..., None] + slope[1] * y[..., None] + wave[..., None] * random.uniform(0, 60, 3)
        for _ in range(random.integers(1, 5)):
            left, top = random.integers(0, size, 2)
            width, height = random.integers(1, max(2, size // 2), 2)
            picture[top : top + height, left : left + width] = random.uniform(0, 255, 3)
        image[:] = np.clip(picture + random.normal(0, random.uniform(0, 20), picture.shape), 0, 255)
    return result

"""Images to hold the graphs against PyTorch with: the tasks' own test images where they can be found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from igsp_deploy.data.frozen import FrozenSplit
from igsp_deploy.data.test_items import read_test_images
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.record import TaskRecord

SYNTHETIC = 32
"""Synthetic images a task, where there are no real ones."""


@dataclass(frozen=True, kw_only=True)
class CheckImages:
    """Images of one task.

    Attributes:
        images: uint8 `[N, S, S, 3]`.
        labels: `[N]`, or None for synthetic images.
        origin: `test images` or `synthetic images`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    origin: str


def check_images(
    record: TaskRecord, backbone: Backbone, console: Console, limit: int = 0, split: FrozenSplit | None = None
) -> CheckImages:
    """The task's test images, or synthetic ones where its source is gone.

    Args:
        record: the task.
        backbone: for the size of its input.
        console: gets a line where images are missing.
        limit: take this many at most, spread evenly; 0 takes all.
        split: the task's frozen split.
    """
    try:
        images, labels = read_test_images(record, backbone.preprocess, None, console, split)
    except UserError as error:
        console.print(
            f"{record.name}: checked with synthetic images, because its own are not there ({error})",
            markup=False,
            highlight=False,
        )
        count = min(limit, SYNTHETIC) if limit else SYNTHETIC
        images = synthetic_images(count, backbone.preprocess.size, seed=record.index)
        return CheckImages(images=images, labels=None, origin="synthetic images")
    if limit and len(images) > limit:
        rows = np.linspace(0, len(images) - 1, limit).round().astype(np.int64)
        images, labels = images[rows], labels[rows]
    return CheckImages(images=images, labels=labels, origin="test images")


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

"""What a source yields: image files with labels, in three splits, and the words for the classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Items:
    """Image files and their labels.

    Attributes:
        paths: the files.
        labels: index into the task's classes, int64 `[N]`.
    """

    paths: list[Path]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that every file has its label."""
        assert self.labels.shape == (len(self.paths),), "as many labels as files"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "Items":
        """The items at `indices`, in that order."""
        return Items([self.paths[i] for i in indices], self.labels[np.asarray(indices, dtype=np.int64)])


@dataclass(frozen=True)
class TaskData:
    """One task before it is learned.

    Attributes:
        name: name of the task.
        classes: names of the classes in the source (folder names, labels of the manifest), sorted: the label order.
        display_names: what stands for each class in a prompt.
        templates: prompt templates with one `{}`.
        train: images to learn from.
        val: images held out of the training images.
        test: images to measure on.
    """

    name: str
    classes: list[str]
    display_names: list[str]
    templates: list[str]
    train: Items
    val: Items
    test: Items

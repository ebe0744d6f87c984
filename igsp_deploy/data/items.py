"""What a source yields: images with labels, in three splits, and the words for the classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from igsp_deploy.data.counts import ClassCount
    from igsp_deploy.data.frozen import FrozenSplit


class ImageReader(Protocol):
    """Images that are not files of their own: rows of a data set, entries of an array.

    Readers are used from several threads, and from processes that were forked after they were made.
    """

    @property
    def name(self) -> str:
        """What the images belong to, for messages and fingerprints."""

    def read(self, index: int) -> Path | bytes | Image.Image:
        """Image `index`: a file, the bytes of one, or an image that pillow has opened."""


@dataclass(frozen=True)
class StoredImage:
    """An image inside a data set, read when it is asked for.

    Attributes:
        reader: what holds it.
        index: its place there.
    """

    reader: ImageReader
    index: int

    @property
    def name(self) -> str:
        """Its place, as `NAME[INDEX]`."""
        return f"{self.reader.name}[{self.index}]"

    def __str__(self) -> str:
        """The same."""
        return self.name

    def read(self) -> Path | bytes | Image.Image:
        """The image as the reader gives it."""
        return self.reader.read(self.index)


ImageRef = Path | StoredImage
"""Where an image is: a file, or a place in a data set."""


def place_in_source(image: ImageRef, root: Path | None) -> str:
    """Where an image is, for people who may not know the machine: below `root`, or its name and the folder it is in.

    An image inside a data set is called by the last word of the set and its number, as in `test[7]`.
    """
    if isinstance(image, StoredImage):
        return f"{image.reader.name.rpartition(' ')[2].rpartition('/')[2]}[{image.index}]"
    if root is not None and image.is_relative_to(root):
        return image.relative_to(root).as_posix()
    return "/".join(image.parts[-2:] if len(image.parts) > 2 else image.parts[-1:])


@dataclass(frozen=True)
class Items:
    """Images and their labels. Nothing is read before it is asked for.

    Attributes:
        images: where they are.
        labels: index into the task's classes, int64 `[N]`.
    """

    images: Sequence[ImageRef]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that every image has its label."""
        assert self.labels.shape == (len(self.images),), "as many labels as images"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def paths(self) -> list[Path]:
        """The files, where every image is one."""
        files = [image for image in self.images if isinstance(image, Path)]
        assert len(files) == len(self.images), "some images are not files of their own"
        return files

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "Items":
        """The items at `indices`, in that order."""
        return Items([self.images[i] for i in indices], self.labels[np.asarray(indices, dtype=np.int64)])


@dataclass(frozen=True)
class TaskData:
    """One task before it is learned.

    Attributes:
        name: name of the task.
        classes: names of the classes in the source (folder names, labels of the manifest), in label order.
        display_names: what stands for each class in a prompt.
        templates: prompt templates with one `{}`.
        train: images to learn from.
        val: images held out of the training images.
        test: images to measure on.
        counts: images of each class: learned, held out, tested, skipped; empty where nobody looked.
        skipped: place in the source and reason of every file that is not used.
        split: the same split by the content of the images, to find it again; None where nobody looked.
        notes: what a person should know before it is learned, a line each.
    """

    name: str
    classes: list[str]
    display_names: list[str]
    templates: list[str]
    train: Items
    val: Items
    test: Items
    counts: "dict[str, ClassCount]" = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    split: "FrozenSplit | None" = None
    notes: list[str] = field(default_factory=list)

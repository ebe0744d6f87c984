"""Copies among the images of a task: they must not stand on both sides of a split.

Two images are copies if their content is equal, or if one is the other saved again: another format, quality or size.
The second is told by a perceptual hash: a small grey picture of each, and how much two of them differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.data.items import ImageRef, Items
from igsp_deploy.data.listing import Listing
from igsp_deploy.data.looks import Look, look_at

MOST_COMPARED = 100_000
"""Of more images than this only equal files are told: comparing takes time with the square of their number."""

_NEAR = 3.0
"""Root mean square difference of copies, of 255 grey values: JPEG of quality 50 and half the size stay below."""
_PLAIN = 8.0
"""Pictures whose grey values deviate less from their mean say too little to be compared."""
_BLOCK = 2048


@dataclass(frozen=True)
class Looks:
    """What was seen of the images of a task, and which are copies of each other.

    Attributes:
        seen: image -> what was seen of it.
        group: image -> number of its group of copies.
        compared: whether small pictures were compared, and not only contents.
    """

    seen: dict[ImageRef, Look]
    group: dict[ImageRef, int]
    compared: bool

    @classmethod
    def of(cls, listing: Listing) -> "Looks":
        """Look at all images of a source."""
        images = [image for items in listing.splits.values() for image in items.images]
        compared = len(images) <= MOST_COMPARED
        looks = look_at(images, decode=compared)
        groups = groups_of_copies(looks).tolist()
        return cls(dict(zip(images, looks, strict=True)), dict(zip(images, groups, strict=True)), compared)

    def groups(self, items: Items) -> NDArray[np.int64]:
        """Numbers int64 `[N]` of the groups of `items`."""
        return np.array([self.group[image] for image in items.images], dtype=np.int64)

    def notes(self, parts: dict[str, Items]) -> list[str]:
        """What to say of copies: in two parts of a split that people made, in two classes, and how many there are."""
        told = []
        train, test, held = (self.groups(parts[part]) for part in ("train", "test", "val"))
        for groups, what in ((test, "test"), (held, "validation")):
            both = np.isin(groups, train)
            if both.any():
                images = parts["test" if what == "test" else "val"].images
                first = images[int(np.flatnonzero(both)[0])]
                told.append(
                    f"{both.sum()} of {len(groups)} {what} images are copies of training images, the first is {first}: "
                    f"figures on them say more than they should"
                )
        total = sum(len(items) for items in parts.values())
        copies = total - len(set(np.concatenate([self.groups(items) for items in parts.values()]).tolist()))
        if copies:
            told.append(f"{copies} of {total} images are copies of others; an automatic split keeps copies on one side")
        if (two := self._in_two_classes(list(parts.values()))) is not None:
            told.append(
                f"{two[0]} images stand in another class than a copy of theirs, the first is {two[1]}, a copy of "
                f"{two[2]}: one of their labels is wrong, or the classes overlap"
            )
        if not self.compared:
            told.append(f"only equal files were looked for as copies, because there are over {MOST_COMPARED:,} images")
        return told

    def _in_two_classes(self, parts: Sequence[Items]) -> tuple[int, ImageRef, ImageRef] | None:
        """Images whose class is not that of their group's first image: their number, one of them, and that image."""
        firsts: dict[int, tuple[ImageRef, int]] = {}
        found = []
        for items in parts:
            for image, label in zip(items.images, items.labels.tolist(), strict=True):
                first, first_label = firsts.setdefault(self.group[image], (image, label))
                if label != first_label:
                    found.append((image, first))
        return (len(found), *found[0]) if found else None


def groups_of_copies(looks: Sequence[Look]) -> NDArray[np.int64]:
    """Numbers int64 `[N]`, equal for copies of one image and only for them."""
    parents = np.arange(len(looks), dtype=np.int64)

    def top(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = int(parents[index])
        return index

    first: dict[bytes, int] = {}
    for index, look in enumerate(looks):
        if look.content:
            parents[index] = first.setdefault(look.content, index)
    for one, other in _near_pairs(looks, [index for index in range(len(looks)) if parents[index] == index]):
        a, b = sorted((top(one), top(other)))
        parents[b] = a
    return np.array([top(index) for index in range(len(looks))], dtype=np.int64)


def _near_pairs(looks: Sequence[Look], indices: list[int]) -> list[tuple[int, int]]:
    """Pairs of images whose small pictures are nearly the same."""
    small = [(index, look) for index in indices if (look := looks[index].small) is not None]
    values = np.stack([s for _, s in small]).reshape(len(small), -1).astype(np.float32) if small else np.zeros((0, 1))
    deviations = values.std(axis=1) if len(values) else np.zeros(0)
    keep = np.flatnonzero(deviations >= _PLAIN)
    means = values[keep].mean(axis=1) if len(keep) else np.zeros(0)
    order = keep[np.argsort(means, kind="stable")]
    # Near pictures have near means: sorted by them, each has to be compared with its neighbours alone.
    values, means = values[order], np.sort(means, kind="stable")
    squares = (values * values).sum(axis=1)
    pairs = []
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        end = int(np.searchsorted(means, means[stop - 1] + _NEAR, side="right"))
        distances = squares[start:stop, None] + squares[None, start:end] - 2 * values[start:stop] @ values[start:end].T
        near = np.argwhere(distances <= _NEAR**2 * values.shape[1])
        pairs += [(start + int(a), start + int(b)) for a, b in near if b > a]
    return [(small[int(order[a])][0], small[int(order[b])][0]) for a, b in pairs]

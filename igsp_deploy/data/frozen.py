"""The split of a task as it was when the task was learned: which image was in which part, by its content."""

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igsp_deploy.data.items import ImageRef, Items
from igsp_deploy.data.listing import Listing
from igsp_deploy.data.looks import CONTENT_BYTES, look_at
from igsp_deploy.errors import UserError

FORMAT = 1
PARTS = ("train", "val", "test", "unused")
"""Learned from, held out, tested on, and neither (few-shot leaves images out)."""
_NAME_BYTES = 4
_Key = tuple[bytes, bytes]
"""First bytes of the SHA-256 of an image's place in its source, and of its content; none of what cannot be read."""
_UNREAD = bytes(CONTENT_BYTES)
"""What stands in the file for the content of an image that could not be read: all keys are of one length there."""


@dataclass(frozen=True)
class FrozenSplit:
    """Which images a task was learned from, held out and tested on.

    Attributes:
        parts: part -> the keys of its images, in their order.
    """

    parts: dict[str, list[_Key]]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `split.json`: 12 bytes an image, in base 64."""
        packed = {
            part: base64.b64encode(b"".join(n + (c or _UNREAD) for n, c in keys)).decode()
            for part, keys in self.parts.items()
        }
        return {"format": FORMAT, "images": {part: len(keys) for part, keys in self.parts.items()}, "parts": packed}

    @classmethod
    def from_json(cls, values: Any, where: str) -> "FrozenSplit":
        """Read what `to_json` wrote.

        Raises:
            UserError: it is damaged or of a newer format; names `where`.
        """
        size = _NAME_BYTES + CONTENT_BYTES
        try:
            if values["format"] > FORMAT:
                raise UserError(f"{where} has format {values['format']}. Upgrade igsp-deploy.")
            parts = {}
            for part in PARTS:
                data = base64.b64decode(values["parts"][part], validate=True)
                rows = [data[at : at + size] for at in range(0, len(data), size)]
                keys = [(row[:_NAME_BYTES], row[_NAME_BYTES:]) for row in rows]
                parts[part] = [(name, b"" if content == _UNREAD else content) for name, content in keys]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where} is damaged ({error}). Restore the model folder from a copy.") from error
        return cls(parts)


def freeze(parts: dict[str, Items], contents: dict[ImageRef, bytes], root: Path | None) -> FrozenSplit:
    """Keep which image is in which part.

    Args:
        parts: the parts of `PARTS`; absent ones are empty.
        contents: image -> first bytes of the SHA-256 of its content.
        root: what the places of files are told from.
    """
    return FrozenSplit(
        {
            part: [(name_key(image, root), contents[image]) for image in parts[part].images] if part in parts else []
            for part in PARTS
        }
    )


def name_key(image: ImageRef, root: Path | None) -> bytes:
    """First bytes of the SHA-256 of the place of an image in its source, the same wherever the source lies."""
    if isinstance(image, Path):
        name = image.relative_to(root).as_posix() if root and image.is_relative_to(root) else str(image)
    else:
        name = f"{image.reader.name.rpartition(' ')[2]}[{image.index}]"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:_NAME_BYTES]


def frozen_test_items(
    split: FrozenSplit, listing: Listing, classes: Sequence[str], say: Callable[[str], None]
) -> Items | None:
    """The test images of a task among those that its source holds now.

    Args:
        split: as it was when the task was learned.
        listing: what the source holds now.
        classes: the learned classes, in label order.
        say: gets one line where images went, came or changed.

    Returns:
        Images and labels into `classes`, in the order of the source; None where none of the test images is there.
    """
    wanted = Counter(content for _, content in split.parts["test"])
    by_place = set(split.parts["test"])
    places = {name for name, _ in by_place}
    images: list[ImageRef] = []
    labels: list[str] = []
    keys: list[_Key] = []
    taken: set[int] = set()
    # Training images are read only where the test split, if there is one, does not hold all of them.
    for _, items in sorted(listing.splits.items(), key=lambda entry: entry[0] != "test"):
        if "test" in listing.splits and not +wanted:
            break
        start = len(images)
        images += items.images
        labels += [listing.classes[label] for label in items.labels.tolist()]
        keys += [
            (name_key(image, listing.root), look.content)
            for image, look in zip(items.images, look_at(items.images, decode=False), strict=True)
        ]
        for exact in (True, False):  # a copy made later must not take the place of the image itself
            for index in range(start, len(images)):
                fits = labels[index] in classes and (keys[index] in by_place or not exact)
                if fits and index not in taken and wanted[keys[index][1]] > 0:
                    wanted[keys[index][1]] -= 1
                    taken.add(index)
    known = {content for keys in split.parts.values() for _, content in keys}
    names = {name for keys in split.parts.values() for name, _ in keys}
    strange = [name for name, content in keys if content not in known]
    changed = sum(name in places for name in strange)
    came = sum(name not in names for name in strange)
    gone = sum(wanted.values()) - changed
    told = [f"{count} {what}" for count, what in ((gone, "are gone"), (changed, "were changed")) if count > 0]
    if told:
        say(f"{' and '.join(told)} of the {len(split.parts['test'])} test images; the other {len(taken)} are used")
    if came:
        say(f"{came} images came since it was learned; none of them is tested on")
    if not taken:
        return None
    order = sorted(taken)
    chosen = np.array([list(classes).index(labels[index]) for index in order], dtype=np.int64)
    return Items([images[index] for index in order], chosen)


def unlearned(split: FrozenSplit, items: Items, say: Callable[[str], None]) -> Items:
    """The images that the task was neither learned from nor calibrated on; says how many were."""
    learned = {content for part in ("train", "val") for _, content in split.parts[part]}
    looks = look_at(items.images, decode=False)
    kept = [index for index, look in enumerate(looks) if look.content not in learned]
    if len(kept) < len(items):
        say(f"{len(items) - len(kept)} of {len(items)} images were learned from and are left out")
    return items.subset(kept)


def holds_most(split: FrozenSplit, listing: Listing) -> bool:
    """Whether a source holds more than half of the images that a task was learned from, held out and tested on."""
    wanted = Counter(content for keys in split.parts.values() for _, content in keys)
    images = [image for items in listing.splits.values() for image in items.images]
    there = Counter(look.content for look in look_at(images, decode=False))
    return 2 * (wanted & there).total() > wanted.total()

"""What reading a source gives, whatever its kind: images by split and class, and words for the classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from igsp_deploy.data.class_names import ClassNames
from igsp_deploy.data.image_folder import ClassFiles
from igsp_deploy.data.items import Items
from igsp_deploy.data.layout import PassedOver
from igsp_deploy.errors import UserError


@dataclass(frozen=True)
class Listing:
    """All images of a source. Nothing of them is read yet.

    Attributes:
        classes: names of the classes, in label order.
        splits: `train`, and `val` and `test` where the source has them.
        names: words for the classes.
        root: what the places of files are told from, where the images are files.
        passed_over: files that are not used, with the reason.
        notes: what a person should know of the source.
    """

    classes: list[str]
    splits: dict[str, Items]
    names: ClassNames
    root: Path | None = None
    passed_over: list[PassedOver] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Source(Protocol):
    """Where the images of a task come from."""

    def canonical(self) -> str:
        """The source as text that means the same from any folder; `parse_source` reads it back."""

    def read(self) -> Listing:
        """List the images.

        Raises:
            UserError: what is wrong with the source.
        """


def items_by_class(splits: dict[str, ClassFiles], classes: list[str]) -> dict[str, Items]:
    """Files by class as items, class after class."""
    found = {}
    for split, files in splits.items():
        images = [path for name in classes for path in files[name]]
        labels = [label for label, name in enumerate(classes) for _ in files[name]]
        found[split] = Items(images, np.array(labels, dtype=np.int64))
    return found


def check_classes(where: str, found: dict[str, set[str]]) -> list[str]:
    """The classes of the training split, sorted, if every other split has the same ones.

    Args:
        where: the source, for messages.
        found: split -> its classes.

    Raises:
        UserError: no training images, a single class, or splits with different classes.
    """
    if "train" not in found:
        raise UserError(f"{where} has no training images, only {' and '.join(sorted(found)) or 'nothing'}.")
    classes = sorted(found["train"])
    if len(classes) < 2:
        raise UserError(
            f"{where} has one class only ({classes[0] if classes else 'none'!r}). A task needs at least two to tell "
            "apart; add images of what it is not as a second class."
        )
    for split in ("val", "test"):
        if split not in found:
            continue
        more, less = sorted(found[split] - set(classes)), sorted(set(classes) - found[split])
        if more or less:
            both = (("it adds", more), ("it lacks", less))
            parts = [f"{text} {', '.join(names[:5])}" for text, names in both if names]
            raise UserError(
                f"{where}: the classes of {split} are not those of train: {' and '.join(parts)}. "
                "Both must have the same classes."
            )
    return classes

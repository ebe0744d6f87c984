"""How many images of each class are learned from, held out, tested on and skipped: for people and for the record."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from igsp_deploy.data.items import ImageRef, Items
from igsp_deploy.data.layout import PassedOver
from igsp_deploy.data.looks import Look
from igsp_deploy.runtime.image_files import count_kinds

_SHOWN = 6
"""Classes that the line of counts names."""


@dataclass
class ClassCount:
    """Images of one class."""

    learned: int = 0
    held_out: int = 0
    tested: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> files; what lies outside the class folders belongs to no class."""

    @property
    def used(self) -> int:
        """All that are not skipped."""
        return self.learned + self.held_out + self.tested

    def to_json(self) -> dict[str, Any]:
        """Plain values for `task.json`."""
        return {"learned": self.learned, "held_out": self.held_out, "tested": self.tested, "skipped": self.skipped}


def count_classes(
    classes: Sequence[str],
    parts: Mapping[str, Items],
    looks: Mapping[ImageRef, Look],
    passed_over: Sequence[PassedOver],
) -> dict[str, ClassCount]:
    """Count the images of every class.

    Args:
        classes: names in label order.
        parts: `train`, `val` and `test`.
        looks: what was seen of each image; those with a problem are skipped.
        passed_over: files that were never taken.
    """
    counts = {name: ClassCount() for name in classes}
    skipped: dict[str, Counter[str]] = {name: Counter() for name in classes}
    for part, name in (("train", "learned"), ("val", "held_out"), ("test", "tested")):
        for image, label in zip(parts[part].images, parts[part].labels.tolist(), strict=True):
            problem = looks[image].problem
            if problem:
                skipped[classes[label]][problem] += 1
            else:
                setattr(counts[classes[label]], name, getattr(counts[classes[label]], name) + 1)
    for entry in passed_over:
        if entry.label in skipped:
            skipped[entry.label][entry.reason] += 1
    for name, found in skipped.items():
        counts[name].skipped = dict(found.most_common())
    return counts


def counts_line(counts: Mapping[str, ClassCount], outside: Sequence[PassedOver] = ()) -> str:
    """`boot 120 images, sandal 118 (3 skipped: 2 HEIC, 1 damaged)`; of many classes the first, and all in sum."""
    names = list(counts)
    shown = names if len(names) <= _SHOWN else names[: _SHOWN - 1]
    told = [f"{name} {counts[name].used}{' images' if index == 0 else ''}" for index, name in enumerate(shown)]
    if len(shown) < len(names):
        told.append(f"... {len(names)} classes with {sum(count.used for count in counts.values())} images in all")
    reasons = [reason for count in counts.values() for reason, n in count.skipped.items() for _ in range(n)]
    reasons += [entry.reason for entry in outside]
    skipped = f" ({len(reasons)} skipped: {count_kinds(reasons)})" if reasons else ""
    return ", ".join(told) + skipped

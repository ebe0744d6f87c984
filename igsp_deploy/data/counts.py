"""How many images of each class are learned from, held out, tested on and skipped: for people and for the record."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from igsp_deploy.checked import Count, stored
from igsp_deploy.data.items import ImageRef, Items, place_in_source
from igsp_deploy.data.layout import PassedOver
from igsp_deploy.data.looks import Look
from igsp_deploy.runtime.image_files import count_kinds

_SHOWN = 6
"""Classes that the line of counts names."""
MOST_ROWS = 20
"""Classes that the table of counts names."""
MOST_FILES = 100
"""Skipped files that are kept by name."""


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


def counts_table(name: str, counts: Mapping[str, ClassCount]) -> Table:
    """The images of each class of the task `name`; of many classes the first, and the others in one row."""
    table = Table(title=f"Images of {escape(name)}", title_justify="left")
    table.add_column("class", overflow="fold")
    for title in ("learned", "held out", "tested"):
        table.add_column(title, justify="right")
    table.add_column("skipped", overflow="fold")
    names = list(counts)
    for label in names[:MOST_ROWS]:
        table.add_row(escape(label), *_figures([counts[label]]))
    rest = names[MOST_ROWS:]
    if rest:
        table.add_row(f"({len(rest)} more)", *_figures([counts[label] for label in rest]))
    table.add_section()
    table.add_row("(all)", *_figures(list(counts.values())))
    return table


def _figures(counts: Sequence[ClassCount]) -> list[str]:
    sums = [sum(getattr(count, part) for count in counts) for part in ("learned", "held_out", "tested")]
    reasons = [reason for count in counts for reason, n in count.skipped.items() for _ in range(n)]
    return [*(f"{number:,}" for number in sums), escape(count_kinds(reasons))]


def skipped_files(
    looks: Mapping[ImageRef, Look], passed_over: Sequence[PassedOver], root: Path | None
) -> list[tuple[str, str]]:
    """Place in the source and reason of every file that is not used."""
    damaged = [(place_in_source(image, root), look.problem) for image, look in looks.items() if look.problem]
    return [("/".join(entry.parts), entry.reason) for entry in passed_over] + damaged


@stored
class SkippedFiles:
    """Files that were not used."""

    count: Count = 0
    """How many."""
    first: list[tuple[str, str]] = field(default_factory=list)
    """Place in the source, and reason, of the first of them."""


def first_skipped(files: Sequence[tuple[str, str]]) -> SkippedFiles:
    """For a record, of all `(place, reason)`; the first `MOST_FILES` by name."""
    return SkippedFiles(count=len(files), first=list(files[:MOST_FILES]))

"""What there is of the benchmark under a data root: counted against what is published."""

from dataclasses import dataclass
from pathlib import Path

from igsp_deploy.errors import UserError
from igsp_train.research.mtil.facts import SETS, BenchmarkSet
from igsp_train.research.mtil.source import FoundSet, differences, find_set


@dataclass(frozen=True)
class SetCheck:
    """One set: what was found of it.

    Attributes:
        one: the set.
        found: its images, or None where it is missing or cannot be read.
        problems: what is wrong and what to do; empty where it is as published.
    """

    one: BenchmarkSet
    found: FoundSet | None
    problems: list[str]

    @property
    def status(self) -> str:
        """`as published`, `different`, or `not usable`."""
        if self.found is None:
            return "not usable"
        return "different" if self.problems else "as published"


def check_set(one: BenchmarkSet, root: Path) -> SetCheck:
    """Look for a set and count its images and classes. No image is decoded."""
    try:
        found = find_set(one, root)
    except UserError as error:
        return SetCheck(one, None, [str(error)])
    problems = differences(one, found)
    if problems:
        problems = [f"{one.title}: {'; '.join(problems)}. {one.how_to_get(root)}"]
    return SetCheck(one, found, problems)


def check_benchmark_sets(root: Path) -> list[SetCheck]:
    """Check all sets, in order I.

    Raises:
        UserError: the data root does not exist.
    """
    if not root.is_dir():
        raise UserError(f"the data root {root} does not exist. Make the folder, or correct --data-root.")
    return [check_set(one, root) for one in SETS.values()]

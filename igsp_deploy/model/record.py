"""What is known of one learned task besides its numbers: `task.json`."""

import dataclasses
from dataclasses import field
from typing import Any

from igsp_deploy.checked import Count, build, stored
from igsp_deploy.data.counts import SkippedFiles
from igsp_deploy.errors import UserError
from igsp_deploy.sites import TOWERS, Site


@stored
class TaskRecord:
    """One learned task."""

    index: Count
    """Position in the sequence, from 0."""
    name: str
    """Its name."""
    classes: list[str]
    """Class names as in the data (folder names), in label order."""
    display_names: list[str]
    """The names put into prompts."""
    templates: list[str]
    """Prompt templates with one `{}`; the first is used in training, all of them in classification."""
    ids: dict[Site, list[Count]]
    """Block -> pool ids of the experts its router uses."""
    trained_parameters: Count
    """Numbers that received gradient at the start of phase 1."""
    kept_parameters: Count
    """Numbers this task added to the model: experts, routers and head."""
    selector_parameters: Count
    """Numbers its selector statistics hold."""
    source: str = ""
    """Where its images came from."""
    data: dict[str, Any] = field(default_factory=dict)
    """Settings of the split, to find the same test images again."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """What was measured while learning (accuracies, seconds, steps of phase 1, curves)."""
    images: dict[str, Any] = field(default_factory=dict)
    """Class -> images `learned`, `held_out`, `tested`, and those `skipped` by reason."""
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    """Files that were not used."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for `task.json`, the ids by tower: `vision_ids` and `text_ids`, block -> ids."""
        values = dataclasses.asdict(self)
        ids = values.pop("ids")
        for tower in TOWERS:
            values[f"{tower}_ids"] = {site[1]: used for site, used in ids.items() if site[0] == tower}
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> "TaskRecord":
        """Read what `to_json` wrote.

        Raises:
            UserError: fields are missing or have another kind of value; names `where`.
        """
        try:
            ids = {(tower, int(block)): ids for tower in TOWERS for block, ids in values[f"{tower}_ids"].items()}
            return build(cls, {**values, "ids": ids}, "", kind=UserError)
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            raise UserError(
                f"{where} is not a task record of this format ({error}). Restore it from a copy."
            ) from error


def count_experts(records: list[TaskRecord]) -> list[tuple[int, int]]:
    """For each task: experts its routers use, and those of them that no earlier task uses (it brought them)."""
    return [(len(_used(record)), len(brought)) for record, brought in zip(records, _brought(records), strict=True)]


def users_of(records: list[TaskRecord], index: int) -> dict[str, int]:
    """Name of each task after task `index` -> how many of the experts that this one brought its routers use."""
    brought = _brought(records)[index]
    return {record.name: len(_used(record) & brought) for record in records[index + 1 :]}


def _used(record: TaskRecord) -> set[tuple[Site, int]]:
    return {(site, i) for site, ids in record.ids.items() for i in ids}


def _brought(records: list[TaskRecord]) -> list[set[tuple[Site, int]]]:
    known: set[tuple[Site, int]] = set()
    brought = []
    for record in records:
        brought.append(_used(record) - known)
        known |= _used(record)
    return brought

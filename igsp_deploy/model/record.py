"""What is known of one learned task besides its numbers: `task.json`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.sites import TOWERS, Site


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """One learned task.

    Attributes:
        index: position in the sequence, from 0.
        name: its name.
        classes: class names as in the data (folder names), in label order.
        display_names: the names put into prompts.
        templates: prompt templates with one `{}`; the first is used in training, all of them in classification.
        ids: block -> pool ids of the experts its router uses.
        trained_parameters: numbers that received gradient at the start of phase 1.
        kept_parameters: numbers this task added to the model: experts, routers and head.
        selector_parameters: numbers its selector statistics hold.
        source: where its images came from.
        data: settings of the split, to find the same test images again.
        metrics: what was measured while learning (accuracies, seconds, steps of phase 1, curves).
        images: class -> images `learned`, `held_out`, `tested`, and those `skipped` by reason.
        skipped: files that were not used: `count`, and the `first` of them, each `[place in the source, reason]`.
    """

    index: int
    name: str
    classes: list[str]
    display_names: list[str]
    templates: list[str]
    ids: dict[Site, list[int]]
    trained_parameters: int
    kept_parameters: int
    selector_parameters: int
    source: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, Any] = field(default_factory=lambda: {"count": 0, "first": []})

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
            UserError: fields are missing; names `where`.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        try:
            picked = {key: value for key, value in values.items() if key in known}
            picked["ids"] = {
                (tower, int(block)): list(ids) for tower in TOWERS for block, ids in values[f"{tower}_ids"].items()
            }
            return cls(**picked)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
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

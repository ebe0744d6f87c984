"""`task.json`: what it holds comes back, anything else is refused in one line; who brought an expert, who uses it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from igsp_deploy.data.counts import SkippedFiles
from igsp_deploy.errors import UserError
from igsp_deploy.model.record import TaskRecord, count_experts, users_of
from igsp_deploy.sites import Site


def _record() -> TaskRecord:
    return TaskRecord(
        index=3,
        name="shoes",
        classes=["boot", "sandal"],
        display_names=["boot", "sandal"],
        templates=["a photo of a {}."],
        ids={("vision", 2): [0, 4], ("text", 0): []},
        trained_parameters=10,
        kept_parameters=5,
        selector_parameters=1,
        skipped=SkippedFiles(count=1, first=[("a.txt", "TXT")]),
    )


def test_a_record_comes_back_and_keys_of_later_versions_are_passed_over() -> None:
    assert TaskRecord.from_json({**_record().to_json(), "of_later": 1}, "task.json") == _record()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("classes"), "classes is missing"),
        (lambda v: v.__setitem__("classes", "boot"), "classes must be a list, got 'boot'"),
        (lambda v: v.__setitem__("index", "3"), "index must be a whole number, got '3'"),
        (lambda v: v.__setitem__("kept_parameters", -1), "kept_parameters must be at least 0, got -1"),
        (lambda v: v.__setitem__("templates", [1]), "templates.0 must be text, got 1"),
        (lambda v: v.__setitem__("vision_ids", {"x": []}), "invalid literal for int"),
        (lambda v: v.__setitem__("vision_ids", {"2": [0, None]}), "must be a whole number, got None"),
        (lambda v: v.pop("text_ids"), "'text_ids'"),
    ],
)
def test_a_record_of_another_shape_is_refused(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    values = _record().to_json()
    change(values)
    with pytest.raises(UserError) as refused:
        TaskRecord.from_json(values, "m/task.json")
    assert str(refused.value).startswith("m/task.json is not a task record of this format (")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_who_brought_an_expert_and_who_uses_it() -> None:
    """The second task uses two of the first and brings two, one in another block; the third uses one of each."""
    used: list[dict[Site, list[int]]] = [
        {("vision", 2): [0, 1]},
        {("vision", 2): [0, 1, 2], ("text", 0): [0]},
        {("vision", 2): [1], ("text", 0): [0]},
    ]
    records = [dataclasses.replace(_record(), index=i, name="abc"[i], ids=ids) for i, ids in enumerate(used)]
    assert count_experts(records) == [(2, 2), (4, 2), (2, 0)]
    assert users_of(records, 0) == {"b": 2, "c": 1}
    assert users_of(records, 1) == {"c": 1}
    assert users_of(records, 2) == {}

"""The evaluation of a report: taken whole and of this model, or refused with a reason."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.model.record import TaskRecord
from igsp_train.report.evaluation import check_evaluation, load_evaluation
from tests.unit.train.report.made_up import make_evaluation, make_records


def test_a_whole_evaluation_is_taken_with_its_nulls() -> None:
    records = make_records(2)
    values = make_evaluation(records)
    values["given"][0][1] = None
    checked = check_evaluation(values, records, "e.json")
    assert checked.given == [[90.0, None], [90.0, 89.0]]
    assert checked.confusion == [[15, 0, 5], [0, 15, 5]]
    assert checked.metrics.auto.transfer == 12.5


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("tasks"), "not an evaluation"),
        (_without("given"), "given is missing"),
        (_without("zero_shot"), "zero_shot is missing"),
        (_without("metrics"), "metrics is missing"),
        (_without("class_incremental"), "class_incremental is missing"),
        (lambda v: v["metrics"].pop("class_incremental"), "metrics.class_incremental is missing"),
        (_without("parameters"), "parameters is missing"),
        (lambda v: v["auto"].pop(), "auto must be 2 rows of 2 values"),
        (lambda v: v["given"][0].append(1.0), "given must be 2 rows of 2 values"),
        (lambda v: v["given"][0].__setitem__(0, 101.0), "given.0.0 must be at most 100, got 101.0"),
        (lambda v: v["given"][0].__setitem__(0, float("nan")), "given.0.0 must be a finite number"),
        (lambda v: v["given"][0].__setitem__(0, "<b>"), "given.0.0 must be a number, got '<b>'"),
        (lambda v: v["confusion"][1].pop(), "confusion must be 2 rows of 3 values"),
        (lambda v: v["confusion"][1].__setitem__(0, -1), "confusion.1.0 must be at least 0"),
        (lambda v: v["metrics"]["auto"].__setitem__("last", "much"), "metrics.auto.last must be a number, got 'much'"),
        (lambda v: v["tasks"].__setitem__(0, "other"), "about the tasks other, task-1, the model has task-0, task-1"),
        (lambda v: v["per_class"].pop(), "per_class must have one entry for each of 2 tasks"),
        (lambda v: v["per_class"][0].pop(), "per_class must be a row for each class of 'task-0'"),
        (lambda v: v["per_class"][1][0].__setitem__("class", "other"), "per_class must be a row for each class"),
        (lambda v: v["per_class"][1][0].__setitem__("recall", 101), "per_class.1.0.recall must be at most 100"),
        (lambda v: v["per_class"][1][0].__setitem__("images", -1), "per_class.1.0.images must be at least 0"),
        (lambda v: v["per_class"][1][0].__setitem__("taken_for", [["c1"]]), "per_class.1.0.taken_for.0.1 is missing"),
        (lambda v: v["per_class"].__setitem__(0, None), "per_class.0 must be a list, got None"),
        (lambda v: v["calibration"].pop(), "calibration must have one entry"),
        (lambda v: v["calibration"][0].pop("ece"), "calibration.0.ece is missing"),
        (lambda v: v["calibration"][0]["bins"][0].pop(), "calibration.0.bins.0.2 is missing"),
        (
            lambda v: v["worst"][0].__setitem__("task", "other"),
            "worst must name .* got 'c0' of 'other'",
        ),
        (lambda v: v["worst"][0].__setitem__("predicted", "other"), "worst must name classes"),
        (lambda v: v["worst"][0].__setitem__("score", None), "worst.0.score must be a number, got None"),
        (lambda v: v["worst"][0].pop("file"), "worst.0.file is missing"),
        (lambda v: v["skipped"].pop(), "skipped must have one entry"),
        (lambda v: v["skipped"][0]["first"][0].pop(), "skipped.0.first.0.1 is missing"),
        (lambda v: v["skipped"][0].__setitem__("count", -1), "skipped.0.count must be at least 0"),
        (lambda v: v["parameters"][1].__setitem__("kept", 7), "'task-1' kept 7 parameters there and 51 in the model"),
    ],
)
def test_what_is_damaged_or_of_another_model_is_refused(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    records = make_records(2)
    values = copy.deepcopy(make_evaluation(records))
    change(values)
    with pytest.raises(UserError, match=message) as error:
        check_evaluation(values, records, "e.json")
    assert str(error.value).startswith("e.json")
    assert "\n" not in str(error.value)


def test_an_evaluation_from_before_classes_were_kept_is_taken() -> None:
    records = make_records(2)
    values = make_evaluation(records)
    del values["per_class"], values["calibration"], values["worst"], values["skipped"]
    checked = check_evaluation(values, records, "e.json")
    assert checked.per_class == []
    assert checked.calibration == []
    assert checked.worst is None
    assert checked.skipped == []


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    records: list[TaskRecord] = make_records(1)
    path = tmp_path / "e.json"
    with pytest.raises(UserError, match="does not exist"):
        load_evaluation(path, records)
    path.write_text(json.dumps({"tasks": []})[:-4])
    with pytest.raises(UserError, match=r"e\.json is damaged"):
        load_evaluation(path, records)
    path.write_text("[]")
    with pytest.raises(UserError, match="not an evaluation"):
        load_evaluation(path, records)

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
    assert checked.metrics["auto"]["transfer"] == 12.5


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("tasks"), "not an evaluation"),
        (_without("given"), "expected given to be 2 rows of 2 percentages"),
        (_without("zero_shot"), "expected zero_shot"),
        (_without("metrics"), r"expected metrics\.given"),
        (_without("class_incremental"), "expected class_incremental to be 2 rows of 2 percentages"),
        (lambda v: v["metrics"].pop("class_incremental"), r"expected metrics\.class_incremental to be average, last"),
        (_without("parameters"), "expected parameters"),
        (lambda v: v["auto"].pop(), "expected auto"),
        (lambda v: v["given"][0].append(1.0), "expected given"),
        (lambda v: v["given"][0].__setitem__(0, 101.0), "expected given"),
        (lambda v: v["given"][0].__setitem__(0, float("nan")), "expected given"),
        (lambda v: v["given"][0].__setitem__(0, "<b>"), "expected given"),
        (lambda v: v["confusion"][1].pop(), "expected confusion to be 3 counts"),
        (lambda v: v["confusion"][1].__setitem__(0, -1), "expected confusion"),
        (lambda v: v["metrics"]["auto"].__setitem__("last", "much"), r"expected metrics\.auto"),
        (lambda v: v["tasks"].__setitem__(0, "other"), "about the tasks other, task-1, the model has task-0, task-1"),
        (lambda v: v["per_class"].pop(), "expected per_class to be 2 lists"),
        (lambda v: v["per_class"][0].pop(), "expected per_class to be a row for each class of 'task-0'"),
        (lambda v: v["per_class"][1][0].__setitem__("class", "other"), "expected per_class to be a row for each class"),
        (lambda v: v["per_class"][1][0].__setitem__("recall", 101), "expected per_class"),
        (lambda v: v["per_class"][1][0].__setitem__("images", -1), "expected per_class"),
        (lambda v: v["per_class"][1][0].__setitem__("taken_for", [["c1"]]), "expected per_class"),
        (lambda v: v["per_class"].__setitem__(0, None), "expected per_class"),
        (lambda v: v["calibration"].pop(), "expected calibration"),
        (lambda v: v["calibration"][0].pop("ece"), "expected calibration"),
        (lambda v: v["calibration"][0]["bins"][0].pop(), "expected calibration"),
        (lambda v: v["worst"][0].__setitem__("task", "other"), "expected worst"),
        (lambda v: v["worst"][0].__setitem__("predicted", "other"), "expected worst"),
        (lambda v: v["worst"][0].__setitem__("score", None), "expected worst"),
        (lambda v: v["worst"][0].pop("file"), "expected worst"),
        (lambda v: v["skipped"].pop(), "expected skipped to be 2 counts"),
        (lambda v: v["skipped"][0]["first"][0].pop(), "expected skipped"),
        (lambda v: v["skipped"][0].__setitem__("count", -1), "expected skipped"),
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

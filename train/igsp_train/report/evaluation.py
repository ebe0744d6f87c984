"""The evaluation a report is about: what `igsp evaluate MODEL --json` prints, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.files import read_json
from igsp_deploy.model.record import TaskRecord
from igsp_train.answers import WORST

Row = list[float | None]
"""One value a task; None where there was nothing to measure."""

_METRICS = {
    "given": ("transfer", "average", "last"),
    "auto": ("transfer", "average", "last"),
    "class_incremental": ("average", "last"),
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracies in percent; T tasks, indexed as in the model.

    Attributes:
        given: A[j][i], accuracy on task i after task j with the task given, `[T][T]`.
        chosen: the same with the task chosen by the selector.
        incremental: A[j][i], accuracy on task i after task j, nothing given, over the classes learned by then; None for
            i > j, `[T][T]`.
        zero_shot: plain CLIP before anything is learned, `[T]`.
        all_classes: after the last task, nothing given, over the classes of all tasks, `[T]`.
        right_task: share of a task's images that the selector gave to it, `[T]`.
        left_to_plain: share that it left to plain CLIP, `[T]`.
        confusion: images of each task given to each task, and last to plain CLIP, `[T][T + 1]`.
        metrics: `given` and `auto` -> Transfer, Average, Last; `class_incremental` -> Average, Last.
        test_images: images measured, `[T]`.
        per_class: a row for each class of each task, see `igsp_train.answers.of_classes`; empty in evaluations from
            before it was kept.
        calibration: of each task, see `igsp_train.answers.calibration`; empty as well.
        worst: mistakes, see `igsp_train.answers.worst_mistakes`; None in evaluations from before they were named.
        skipped: of each task, the test images that could not be read; empty as well.
    """

    given: list[Row]
    chosen: list[Row]
    incremental: list[Row]
    zero_shot: Row
    all_classes: Row
    right_task: Row
    left_to_plain: Row
    confusion: list[list[int]]
    metrics: dict[str, dict[str, float | None]]
    test_images: list[int]
    per_class: list[list[dict[str, Any]]]
    calibration: list[dict[str, Any]]
    worst: list[dict[str, Any]] | None
    skipped: list[dict[str, Any]]


def load_evaluation(path: Path, records: list[TaskRecord]) -> Evaluation:
    """Read a file that `igsp evaluate MODEL --json > FILE` made.

    Raises:
        UserError: missing, damaged, or of another model.
    """
    return check_evaluation(read_json(path, "evaluation"), records, str(path))


def check_evaluation(values: Any, records: list[TaskRecord], where: str) -> Evaluation:
    """Take over what `igsp_train.evaluate.evaluate_model` returned, if it is whole and of this model.

    Args:
        values: the evaluation.
        records: the tasks of the model.
        where: what to call the evaluation in an error.

    Raises:
        UserError: a part is missing or has another shape, or tasks or sizes are not this model's.
    """
    if not isinstance(values, dict) or not isinstance(values.get("tasks"), list):
        raise UserError(f"{where} is not an evaluation. Make one with: igsp evaluate MODEL --json > FILE")
    names = [record.name for record in records]
    if values["tasks"] != names:
        raise UserError(
            f"{where} is about the tasks {_list(values['tasks'])}, the model has {_list(names)}. "
            "Evaluate this model: igsp evaluate MODEL --json > FILE"
        )
    total = len(names)
    checked = Evaluation(
        given=_matrix(values, "given", total, where),
        chosen=_matrix(values, "auto", total, where),
        incremental=_matrix(values, "class_incremental", total, where),
        zero_shot=_row(values.get("zero_shot"), "zero_shot", total, where),
        all_classes=_row(values.get("open_last"), "open_last", total, where),
        right_task=_row(values.get("selector_accuracy"), "selector_accuracy", total, where),
        left_to_plain=_row(values.get("left_to_plain"), "left_to_plain", total, where),
        confusion=_confusion(values.get("confusion"), total, where),
        metrics={kind: _metrics(values, kind, names, where) for kind, names in _METRICS.items()},
        test_images=_counts(values.get("test_images"), "test_images", total, where),
        per_class=_per_class(values, records, where),
        calibration=_calibration(values, total, where),
        worst=_worst(values, records, where),
        skipped=_skipped(values, total, where),
    )
    _check_sizes(values, records, where)
    return checked


def _check_sizes(values: dict[str, Any], records: list[TaskRecord], where: str) -> None:
    """Tasks of the same names can have been learned again since: then they have another size."""
    parameters = values.get("parameters")
    if not isinstance(parameters, list) or len(parameters) != len(records):
        raise _damaged(where, "parameters", f"a list of {len(records)}")
    for record, one in zip(records, parameters, strict=True):
        kept = one.get("kept") if isinstance(one, dict) else None
        if kept != record.kept_parameters:
            raise UserError(
                f"{where}: task {record.name!r} kept {kept} parameters there and {record.kept_parameters} in the "
                "model, so it is of another model. Evaluate this one: igsp evaluate MODEL --json > FILE"
            )


def _list(names: list[Any]) -> str:
    return ", ".join(str(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")


def _damaged(where: str, key: str, expected: str) -> UserError:
    return UserError(
        f"{where}: expected {key} to be {expected}. It is damaged or not an evaluation; "
        "make it again with: igsp evaluate MODEL --json > FILE"
    )


def _is_percent(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def _row(values: Any, key: str, total: int, where: str) -> Row:
    if not isinstance(values, list) or len(values) != total or not all(_is_percent(value) for value in values):
        raise _damaged(where, key, f"{total} percentages")
    return values


def _matrix(values: dict[str, Any], key: str, total: int, where: str) -> list[Row]:
    rows = values.get(key)
    if not isinstance(rows, list) or len(rows) != total:
        raise _damaged(where, key, f"{total} rows of {total} percentages")
    return [_row(row, key, total, where) for row in rows]


def _counts(values: Any, key: str, total: int, where: str) -> list[int]:
    whole = isinstance(values, list) and all(map(_is_count, values))
    if not whole or len(values) != total:
        raise _damaged(where, key, f"{total} counts")
    return values


def _confusion(values: Any, total: int, where: str) -> list[list[int]]:
    if not isinstance(values, list) or len(values) != total:
        raise _damaged(where, "confusion", f"{total} rows of {total + 1} counts")
    return [_counts(row, "confusion", total + 1, where) for row in values]


def _metrics(values: dict[str, Any], kind: str, names: tuple[str, ...], where: str) -> dict[str, float | None]:
    metrics = values.get("metrics")
    found = metrics.get(kind) if isinstance(metrics, dict) else None
    if not isinstance(found, dict) or not all(_is_percent(found.get(name)) for name in names):
        raise _damaged(where, f"metrics.{kind}", f"{', '.join(names)} in percent")
    return {name: found.get(name) for name in names}


def _per_class(values: dict[str, Any], records: list[TaskRecord], where: str) -> list[list[dict[str, Any]]]:
    if "per_class" not in values:
        return []
    found = values["per_class"]
    if not isinstance(found, list) or len(found) != len(records):
        raise _damaged(where, "per_class", f"{len(records)} lists of classes")
    for record, rows in zip(records, found, strict=True):
        names = [row.get("class") if isinstance(row, dict) else None for row in rows] if isinstance(rows, list) else []
        if names != record.classes or not all(map(_is_class, rows)):
            raise _damaged(where, "per_class", f"a row for each class of {record.name!r}")
        for row in rows:
            if not {name for name, _ in row["taken_for"]} <= set(names):
                raise _damaged(where, "per_class", f"mistakes among the classes of {record.name!r}")
    return found


def _is_class(row: dict[str, Any]) -> bool:
    taken = row.get("taken_for")
    shares = all(_is_percent(row.get(key)) for key in ("recall", "precision", "f1"))
    pairs = isinstance(taken, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _is_count(pair[1]) for pair in taken
    )
    return shares and pairs and _is_count(row.get("images"))


def _calibration(values: dict[str, Any], total: int, where: str) -> list[dict[str, Any]]:
    if "calibration" not in values:
        return []
    found = values["calibration"]
    good = isinstance(found, list) and len(found) == total and all(isinstance(one, dict) for one in found)
    if not good or not all(_is_number(one.get("ece")) and _are_bins(one.get("bins")) for one in found):
        raise _damaged(where, "calibration", f"{total} calibration errors with their bins")
    return found


def _worst(values: dict[str, Any], records: list[TaskRecord], where: str) -> list[dict[str, Any]] | None:
    if "worst" not in values:
        return None
    classes = {record.name: record.classes for record in records}
    found = values["worst"]
    if not isinstance(found, list) or not all(isinstance(row, dict) and _is_mistake(row, classes) for row in found):
        raise _damaged(where, "worst", "mistakes, each with task, file, label, predicted and score")
    return found[:WORST]


def _is_mistake(row: dict[str, Any], classes: dict[str, list[str]]) -> bool:
    known = classes.get(row["task"], []) if isinstance(row.get("task"), str) else []
    named = all(isinstance(row.get(key), str) and row[key] in known for key in ("label", "predicted"))
    return named and isinstance(row.get("file"), str) and _is_number(row.get("score"))


def _skipped(values: dict[str, Any], total: int, where: str) -> list[dict[str, Any]]:
    if "skipped" not in values:
        return []
    found = values["skipped"]
    good = isinstance(found, list) and len(found) == total and all(isinstance(one, dict) for one in found)
    if not good or not all(_is_count(one.get("count")) and _are_files(one.get("first")) for one in found):
        raise _damaged(where, "skipped", f"{total} counts with the first of the files")
    return found


def _are_files(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) for text in row) for row in rows
    )


def _are_bins(bins: Any) -> bool:
    return isinstance(bins, list) and all(
        isinstance(one, list) and len(one) == 3 and _is_count(one[0]) and all(map(_is_number, one[1:])) for one in bins
    )


def _is_number(value: Any) -> bool:
    return value is not None and _is_percent(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

"""The evaluation a report is about: what `igsp evaluate MODEL --json` prints, checked."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from igsp_deploy.checked import Count, build, stored
from igsp_deploy.data.counts import SkippedFiles
from igsp_deploy.errors import UserError
from igsp_deploy.files import read_json
from igsp_deploy.model.record import TaskRecord
from igsp_train.answers import WORST

Percent = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
Row = list[Percent | None]
"""One value a task; None where there was nothing to measure."""


@stored
class Kept:
    """Numbers that a task added to the model."""

    kept: Count


@stored
class Summary:
    """Of the accuracies after every task; there is no Transfer over classes that are still to come."""

    average: Percent | None
    last: Percent | None
    transfer: Percent | None = None


@stored
class Summaries:
    """Each with the task given, with the task chosen, and over the classes learned by then."""

    given: Summary
    auto: Summary
    class_incremental: Summary


@stored
class ClassAnswers:
    """A row of `igsp_train.answers.of_classes`."""

    label: Annotated[str, Field(alias="class")]
    images: Count
    recall: Percent | None
    precision: Percent | None
    f1: Percent | None
    taken_for: list[tuple[str, Count]]


@stored
class Calibration:
    """As of `igsp_train.answers.calibration`."""

    ece: Percent
    bins: list[tuple[Count, Percent, Percent]]


@stored
class NamedMistake:
    """As of `igsp_train.answers.worst_mistakes`."""

    task: str
    file: str
    label: str
    predicted: str
    score: Percent


@stored
class Evaluation:
    """Accuracies in percent; T tasks, indexed as in the model. Names are those of the file."""

    tasks: list[str]
    """Their names."""
    parameters: list[Kept]
    """`[T]`."""
    given: list[Row]
    """A[j][i], accuracy on task i after task j with the task given, `[T][T]`."""
    auto: list[Row]
    """The same with the task chosen by the selector."""
    class_incremental: list[Row]
    """The same, nothing given, over the classes learned by then; None for i > j."""
    zero_shot: Row
    """Plain CLIP before anything is learned, `[T]`."""
    open_last: Row
    """After the last task, nothing given, over the classes of all tasks, `[T]`."""
    selector_accuracy: Row
    """Share of a task's images that the selector gave to it, `[T]`."""
    left_to_plain: Row
    """Share that it left to plain CLIP, `[T]`."""
    confusion: list[list[Count]]
    """Images of each task given to each task, and last to plain CLIP, `[T][T + 1]`."""
    metrics: Summaries
    """Transfer, Average, Last."""
    test_images: list[Count]
    """Images measured, `[T]`."""
    per_class: list[list[ClassAnswers]] = Field(default_factory=list)
    """A row for each class of each task; empty in evaluations from before it was kept."""
    calibration: list[Calibration] = Field(default_factory=list)
    """Of each task; empty as well."""
    worst: list[NamedMistake] | None = None
    """The worst mistakes; None in evaluations from before they were named."""
    skipped: list[SkippedFiles] = Field(default_factory=list)
    """Of each task, the test images that could not be read; empty as well."""


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
    if isinstance(values.get("worst"), list):  # of a damaged file it may hold anything
        values = {**values, "worst": values["worst"][:WORST]}
    try:
        found = build(Evaluation, values, where, kind=UserError)
    except UserError as error:
        raise _damaged(str(error)) from error
    _check_sizes(found, len(names), where)
    _check_classes(found, records, where)
    for record, one in zip(records, found.parameters, strict=True):
        if one.kept != record.kept_parameters:  # tasks of the same names that were learned again have another size
            raise UserError(
                f"{where}: task {record.name!r} kept {one.kept} parameters there and {record.kept_parameters} in the "
                "model, so it is of another model. Evaluate this one: igsp evaluate MODEL --json > FILE"
            )
    return found


def _check_sizes(found: Evaluation, total: int, where: str) -> None:
    for key in ("given", "auto", "class_incremental", "confusion"):
        width = total + (key == "confusion")
        if [len(row) for row in getattr(found, key)] != [width] * total:
            raise _damaged(f"{where}: {key} must be {total} rows of {width} values")
    rows = ("parameters", "zero_shot", "open_last", "selector_accuracy", "left_to_plain", "test_images")
    later = [key for key in ("per_class", "calibration", "skipped") if getattr(found, key)]
    for key in (*rows, *later):
        if len(getattr(found, key)) != total:
            raise _damaged(f"{where}: {key} must have one entry for each of {total} tasks")


def _check_classes(found: Evaluation, records: list[TaskRecord], where: str) -> None:
    """Every class that is named is one of its task."""
    classes = {record.name: record.classes for record in records}
    for record, rows in zip(records, found.per_class, strict=False):
        if [row.label for row in rows] != record.classes:
            raise _damaged(f"{where}: per_class must be a row for each class of {record.name!r}")
        if not {name for row in rows for name, _ in row.taken_for} <= set(record.classes):
            raise _damaged(f"{where}: per_class must name mistakes among the classes of {record.name!r}")
    for row in found.worst or []:
        if not {row.label, row.predicted} <= set(classes.get(row.task, [])):
            raise _damaged(f"{where}: worst must name classes of the tasks, got {row.label!r} of {row.task!r}")


def _list(names: list[Any]) -> str:
    return ", ".join(str(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")


def _damaged(what: str) -> UserError:
    return UserError(
        f"{what}. It is damaged or not an evaluation; make it again with: igsp evaluate MODEL --json > FILE"
    )

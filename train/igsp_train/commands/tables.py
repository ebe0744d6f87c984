"""Tables of an evaluation, for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_CORNER, _COLUMN = 30, 9
"""Characters of a table's first column, and of one with the figures of a task."""
_SUMMARY = ("Transfer", "Average", "Last", "Backward transfer", "Forgetting")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _table(title: str, corner: str, tasks: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(corner, no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right", overflow="fold")
    return table


def _matrix(title: str, tasks: list[str], matrix: Sequence[Sequence[float | None]]) -> Table:
    table = _table(title, "accuracy % on", tasks)
    for learned, row in zip(tasks, matrix, strict=True):
        table.add_row(f"after {learned}", *(_percent(value) for value in row))
    return table


def _figures(result: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Title and a value a task, of what was measured."""
    ece = [one["ece"] for one in result["calibration"]] if "calibration" in result else None
    accuracies = [
        ("zero-shot %", result.get("zero_shot")),
        ("task given %", result["given"][-1]),
        ("task chosen %", result["auto"][-1]),
        ("task chosen, all classes %", result["open_last"]),
        ("right task chosen %", result["selector_accuracy"]),
        ("calibration error, points", ece),
    ]
    found = [(title, [_percent(value) for value in values]) for title, values in accuracies if values is not None]
    for title, key in (
        ("parameters trained", "trained"),
        ("parameters kept", "kept"),
        ("experts new", "experts_new"),
        ("experts reused", "reused"),
    ):
        numbers = [task.get(key) for task in result["parameters"]]
        if any(number is not None for number in numbers):
            found.append((title, [_number(number) for number in numbers]))
    return found


def _tasks(result: dict[str, Any]) -> Table:
    table = _table("After the last task", "", result["tasks"])
    for title, values in _figures(result):
        table.add_row(title, *values)
    return table


def _task_a_row(result: dict[str, Any]) -> Table:
    """The same with a task a row, for more tasks than a line has room for."""
    figures = _figures(result)
    table = Table(title="After the last task", title_justify="left")
    table.add_column("task", overflow="fold", min_width=8)
    for title, values in figures:
        table.add_column(title, justify="right", min_width=max(map(len, values)))
    for name, *values in zip(result["tasks"], *(values for _, values in figures), strict=True):
        table.add_row(escape(name), *values)
    return table


def _summary(result: dict[str, Any]) -> Table:
    table = Table(title="Summary", title_justify="left")
    table.add_column("%")
    for name in _SUMMARY:
        table.add_column(name, justify="right")
    rows = [("task given", "given"), ("task chosen", "auto"), ("all classes so far", "class_incremental")]
    for title, key in rows:
        metrics = result["metrics"].get(key)
        if metrics is None:
            continue
        table.add_row(title, *(_percent(metrics.get(name.lower().replace(" ", "_"))) for name in _SUMMARY))
    return table


def table_console(num_tasks: int) -> Console:
    """Console on stdout: as wide as the terminal, or as the tables need where the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=max(80, 34 + 16 * num_tasks))


def print_evaluation(result: dict[str, Any], console: Console) -> None:
    """Print what `igsp_train.evaluate.evaluate_model` returned as tables, as far as the console has room for them."""
    tasks = result["tasks"]
    if console.width < _CORNER + _COLUMN * len(tasks):
        console.print(_task_a_row(result))
        console.print(
            f"The matrices of {len(tasks)} tasks do not fit into {console.width} columns: --json has them, and "
            "`igsp report` shows them.",
            highlight=False,
        )
    else:
        console.print(_matrix("Task given", tasks, result["given"]))
        console.print(_matrix("Task chosen by the selector", tasks, result["auto"]))
        if "class_incremental" in result:
            console.print(_matrix("Nothing given, all classes learned so far", tasks, result["class_incremental"]))
        console.print(_tasks(result))
    console.print(_summary(result))


def print_classes(result: dict[str, Any], console: Console) -> None:
    """Print a table of its classes for each task, with the task given: those it gets wrong most often first."""
    for task, rows in zip(result["tasks"], result["per_class"], strict=True):
        table = Table(title=f"Classes of {escape(task)}, task given", title_justify="left")
        table.add_column("class", overflow="fold")
        for name in ("images", "recall %", "precision %", "F1 %"):
            table.add_column(name, justify="right")
        table.add_column("taken for", overflow="fold")
        for row in sorted(rows, key=lambda row: 101 if row["recall"] is None else row["recall"]):
            mistakes = ", ".join(f"{name} {count}" for name, count in row["taken_for"][:3])
            figures = (_percent(row[key]) for key in ("recall", "precision", "f1"))
            table.add_row(escape(row["class"]), _number(row["images"]), *figures, escape(mistakes))
        console.print(table)

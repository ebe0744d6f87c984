"""Tables of an evaluation, for people."""

from typing import Any

from rich.console import Console
from rich.table import Table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _matrix(title: str, tasks: list[str], matrix: list[list[float]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("accuracy % on")
    for task in tasks:
        table.add_column(task, justify="right")
    for learned, row in zip(tasks, matrix, strict=True):
        table.add_row(f"after {learned}", *(_percent(value) for value in row))
    return table


def _tasks(result: dict[str, Any]) -> Table:
    table = Table(title="After the last task", title_justify="left")
    columns: list[tuple[str, list[str]]] = [("task", list(result["tasks"]))]
    for title, key in (("zero-shot %", "zero_shot"), ("task given %", "given"), ("task chosen %", "auto")):
        if key in result:
            values = result[key] if key == "zero_shot" else result[key][-1]
            columns.append((title, [_percent(value) for value in values]))
    columns.append(("all classes %", [_percent(value) for value in result["open_last"]]))
    columns.append(("right task chosen %", [_percent(value) for value in result["selector_accuracy"]]))
    for title, key in (
        ("parameters trained", "trained"),
        ("kept", "kept"),
        ("experts new", "experts_new"),
        ("reused", "reused"),
    ):
        numbers = [task.get(key) for task in result["parameters"]]
        if any(number is not None for number in numbers):
            columns.append((title, ["-" if number is None else f"{number:,}" for number in numbers]))
    for title, _ in columns:
        table.add_column(title, justify="left" if title == "task" else "right")
    for row in zip(*(values for _, values in columns), strict=True):
        table.add_row(*row)
    return table


def _summary(result: dict[str, Any]) -> Table:
    table = Table(title="Summary", title_justify="left")
    table.add_column("%")
    for name in ("Transfer", "Average", "Last"):
        table.add_column(name, justify="right")
    for title, key in (("task given", "given"), ("task chosen", "auto")):
        metrics = result["metrics"][key]
        table.add_row(title, *(_percent(metrics.get(name)) for name in ("transfer", "average", "last")))
    return table


def print_evaluation(result: dict[str, Any], console: Console) -> None:
    """Print what `igsp_train.evaluate.evaluate_model` returned as tables."""
    console.print(_matrix("Task given", result["tasks"], result["given"]))
    console.print(_matrix("Task chosen by the selector", result["tasks"], result["auto"]))
    console.print(_tasks(result))
    console.print(_summary(result))

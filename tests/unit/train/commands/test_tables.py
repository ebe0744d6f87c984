"""Tables of an evaluation."""

import io
from typing import Any

from rich.console import Console

from igsp_train.commands.tables import print_evaluation

RESULT: dict[str, Any] = {
    "tasks": ["digits", "letters"],
    "given": [[91.0, 12.5], [91.0, 88.25]],
    "auto": [[90.0, 11.5], [89.0, 87.25]],
    "open_last": [81.0, 82.0],
    "selector_accuracy": [99.0, 98.0],
    "metrics": {
        "given": {"transfer": 12.5, "average": 70.7, "last": 89.6},
        "auto": {"transfer": 11.5, "average": 69.4, "last": 88.1},
    },
    "parameters": [{"trained": 12345, "kept": 678, "reused": 0}, {"trained": 23456, "kept": 789, "reused": 3}],
}


def _text(result: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_evaluation(result, Console(file=stream, width=160))
    return stream.getvalue()


def test_every_number_of_the_matrices_is_shown() -> None:
    text = _text(RESULT)
    for number in ("91.0", "12.5", "88.2", "90.0", "11.5", "87.2", "81.0", "98.0", "70.7", "88.1", "12,345", "789"):
        assert number in text, number
    assert text.index("after digits") < text.index("after letters")


def test_a_single_task_has_no_transfer() -> None:
    single = {
        **RESULT,
        "tasks": ["digits"],
        "given": [[91.0]],
        "auto": [[90.0]],
        "open_last": [81.0],
        "selector_accuracy": [99.0],
        "metrics": {key: {"transfer": None, "average": 91.0, "last": 91.0} for key in ("given", "auto")},
        "parameters": RESULT["parameters"][:1],
    }
    assert "-" in _text(single)


def test_many_tasks_stand_one_a_row_where_a_line_has_no_room() -> None:
    tasks = [f"a-task-of-number-{i}" for i in range(31)]
    matrix = [[50.0 + i + j / 100 for i in range(31)] for j in range(31)]
    many = {
        **RESULT,
        "tasks": tasks,
        "given": matrix,
        "auto": matrix,
        "open_last": matrix[-1],
        "selector_accuracy": matrix[0],
        "parameters": [{"trained": 188000 + i, "kept": 83000 + i, "reused": i} for i in range(31)],
    }
    stream = io.StringIO()
    print_evaluation(many, Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "do not fit into 80 columns" in stream.getvalue()
    for i in range(31):
        assert any(f"{50.0 + i + 0.3:.1f}" in line and f"{83000 + i:,}" in line for line in lines), i
    wide = io.StringIO()
    print_evaluation(many, Console(file=wide, width=30 + 9 * 31))
    assert "after a-task-of-number-30" in wide.getvalue()

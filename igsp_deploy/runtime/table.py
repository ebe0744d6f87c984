"""Predictions as rows of a table, for a CSV file. No torch."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from igsp_deploy.runtime.classifier import Prediction

COLUMNS = ("file", "label", "score", "task", "zero_shot", "unsure", "second_label", "second_score", "error")


def row_of(file: str, found: Prediction) -> dict[str, Any]:
    """What was found for an image; an empty `task` is plain CLIP."""
    second = len(found.labels) > 1
    return {
        "file": file,
        "label": found.labels[0],
        "score": round(found.scores[0], 4),
        "task": found.task or "",
        "zero_shot": found.zero_shot,
        "unsure": found.unsure,
        "second_label": found.labels[1] if second else "",
        "second_score": round(found.scores[1], 4) if second else "",
        "error": "",
    }


def row_of_problem(file: str, problem: str) -> dict[str, Any]:
    """An image that cannot be used."""
    return {**dict.fromkeys(COLUMNS, ""), "file": file, "error": problem}


def to_csv(rows: Iterable[dict[str, Any]]) -> bytes:
    """The table, in UTF-8; a file's name that is no text has question marks."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")

"""What a finished model answers on every test image of a task, and what follows: classes, mistakes, calibration."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.data.items import ImageRef, place_in_source
from igsp_deploy.files import write_bytes_atomic
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.names import PLAIN

BINS = 15
"""Of the calibration error, as in "On Calibration of Modern Neural Networks" (arXiv 1706.04599, section 2)."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers on the test images of one task, N images. Labels are indices into the classes of a task.

    Attributes:
        images: where they are.
        labels: true ones, `[N]`.
        given: best label with the task given, `[N]`.
        score: its probability, `[N]`.
        chosen: task that the selector chose, or `PLAIN`, `[N]`.
        answer_task: task of the best label with nothing given, `[N]`; differs from `chosen` only where that is plain.
        answer: that label, `[N]`.
        answer_score: its probability, `[N]`.
    """

    images: Sequence[ImageRef]
    labels: NDArray[np.int64]
    given: NDArray[np.int64]
    score: NDArray[np.float64]
    chosen: NDArray[np.int64]
    answer_task: NDArray[np.int64]
    answer: NDArray[np.int64]
    answer_score: NDArray[np.float64]

    @classmethod
    def blank(cls, images: Sequence[ImageRef], labels: NDArray[np.int64]) -> "Answers":
        """With room for the answers on `images`."""
        whole, share = (lambda: np.full(len(labels), PLAIN, np.int64)), (lambda: np.zeros(len(labels)))
        return cls(
            images=images,
            labels=labels,
            given=whole(),
            score=share(),
            chosen=whole(),
            answer_task=whole(),
            answer=whole(),
            answer_score=share(),
        )

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """One after another."""
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in cls.__dataclass_fields__
            if name != "images"
        }
        return cls(images=[image for part in parts for image in part.images], **arrays)


def of_classes(answers: Answers, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A class a row, the task given: `class`, `images`, `recall`, `precision`, `f1` in percent, `taken_for`.

    `recall` is the share of its images that were right, None without images; `precision` is the share of the images
    called so that are right, None where none was; `taken_for` lists `[class, images]`, the most frequent mistake first.
    """
    confusion = class_confusion(answers, len(classes))
    rows = []
    for index, name in enumerate(classes):
        right, images, called = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
        wrong = confusion[index].copy()
        wrong[index] = 0
        order = [int(i) for i in np.argsort(-wrong, kind="stable") if wrong[i]]
        rows.append(
            {
                "class": name,
                "images": int(images),
                "recall": _percent(right, images),
                "precision": _percent(right, called),
                "f1": _percent(2 * right, images + called),
                "taken_for": [[classes[i], int(wrong[i])] for i in order],
            }
        )
    return rows


def class_confusion(answers: Answers, num_classes: int) -> NDArray[np.int64]:
    """Images of each class (row) that were given each label (column), the task given, `[C, C]`."""
    pairs = answers.labels * num_classes + answers.given
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def calibration(answers: Answers) -> dict[str, Any]:
    """How far probabilities are from shares, the task given.

    Returns:
        `ece`, the expected calibration error in points; `bins`, a row for each bin of probabilities that has images:
        `[images, mean probability, share that was right]`, the last two in percent.
    """
    right = answers.given == answers.labels
    number = np.clip((answers.score * BINS).astype(np.int64), 0, BINS - 1)
    bins, error = [], 0.0
    for index in range(BINS):
        inside = number == index
        if inside.any():
            mean, share = 100.0 * float(answers.score[inside].mean()), 100.0 * float(right[inside].mean())
            error += inside.mean() * abs(mean - share)
            bins.append([int(inside.sum()), round(mean, 2), round(share, 2)])
    return {"ece": round(float(error), 2), "bins": bins}


WORST = 20
"""Mistakes that an evaluation names."""


def worst_mistakes(
    records: Sequence[TaskRecord], answers: Sequence[Answers], roots: Sequence[Path | None]
) -> list[dict[str, Any]]:
    """The `WORST` test images that are wrong with the highest probability, the task given; the worst first.

    Args:
        records: the tasks.
        answers: one entry a task.
        roots: folder of each task's images.

    Returns:
        Of each: `task`, `file` (its place in the source), `label` and `predicted` (classes of the task), and `score`,
        the probability of the latter in percent.
    """
    wrong = [
        (-float(found.score[i]), task, i)
        for task, found in enumerate(answers)
        for i in np.flatnonzero(found.given != found.labels).tolist()
    ]
    return [
        {
            "task": records[task].name,
            "file": place_in_source(answers[task].images[i], roots[task]),
            "label": records[task].classes[answers[task].labels[i]],
            "predicted": records[task].classes[answers[task].given[i]],
            "score": round(-100.0 * score, 2),
        }
        for score, task, i in sorted(wrong)[:WORST]
    ]


MISTAKES = ("file", "task", "label", "predicted", "score", "task_chosen", "answer_task", "answer", "answer_score")
"""Columns of the table of mistakes."""


def write_mistakes(path: Path, records: Sequence[TaskRecord], answers: Sequence[Answers]) -> int:
    """Write a CSV with a row for each test image that is wrong with the task given, or with nothing given.

    `label` and `predicted` are classes of `task`, `score` the probability of `predicted`; `task_chosen` is empty where
    the image was left to plain CLIP; the last three say what was answered with nothing given.

    Args:
        path: the file; replaced whole.
        records: the tasks.
        answers: one entry a task.

    Returns:
        The number of rows.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(MISTAKES)
    rows = 0
    for task, (record, found) in enumerate(zip(records, answers, strict=True)):
        wrong = (found.given != found.labels) | (found.answer_task != task) | (found.answer != found.labels)
        for i in np.flatnonzero(wrong).tolist():
            chosen, other = int(found.chosen[i]), int(found.answer_task[i])
            table.writerow(
                [
                    found.images[i],
                    record.name,
                    record.classes[found.labels[i]],
                    record.classes[found.given[i]],
                    f"{found.score[i]:.4f}",
                    "" if chosen == PLAIN else records[chosen].name,
                    records[other].name,
                    records[other].classes[found.answer[i]],
                    f"{found.answer_score[i]:.4f}",
                ]
            )
            rows += 1
    write_bytes_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return rows


def _percent(part: int, whole: int) -> float | None:
    return round(100.0 * float(part) / float(whole), 2) if whole else None

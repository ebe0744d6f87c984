"""Classes, mistakes and calibration against scikit-learn and the definitions."""

import csv
import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from igsp_deploy.errors import UserError
from igsp_deploy.names import PLAIN
from igsp_train.answers import (
    MISTAKES,
    Answers,
    calibration,
    class_confusion,
    of_classes,
    worst_mistakes,
    write_mistakes,
)
from tests.unit.train.report.made_up import make_records

CLASSES = ["boot", "sandal", "clog", "never seen", "never said"]


def made_up(count: int = 200, seed: int = 0) -> Answers:
    """Of 5 classes, of which one has no image and one is never answered."""
    generator = np.random.default_rng(seed)
    answers = Answers.blank([Path(f"{i}.jpg") for i in range(count)], generator.choice([0, 1, 2, 4], count))
    answers.given[:] = generator.choice([0, 1, 2, 3], count)
    answers.given[:80] = np.where(answers.labels[:80] == 4, 0, answers.labels[:80])
    answers.score[:] = generator.uniform(0.2, 1, count)
    answers.chosen[:] = 0
    answers.answer_task[:], answers.answer[:], answers.answer_score[:] = 0, answers.given, answers.score
    return answers


def test_classes_are_those_of_scikit_learn() -> None:
    answers, every = made_up(), range(len(CLASSES))
    rows = of_classes(answers, CLASSES)
    expected = precision_recall_fscore_support(answers.labels, answers.given, labels=every, zero_division=np.nan)
    for number, key in enumerate(("precision", "recall", "f1")):
        measured = [np.nan if row[key] is None else row[key] for row in rows]
        np.testing.assert_allclose(measured, 100 * expected[number], atol=0.006)
    assert [row["images"] for row in rows] == expected[3].tolist()
    confusion = confusion_matrix(answers.labels, answers.given, labels=every)
    assert class_confusion(answers, len(CLASSES)).tolist() == confusion.tolist()
    for i, row in enumerate(rows):
        taken = dict(row["taken_for"])
        assert taken == {CLASSES[j]: int(confusion[i, j]) for j in every if j != i and confusion[i, j]}
        assert list(taken.values()) == sorted(taken.values(), reverse=True)


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    answers = made_up()
    error = 0.0
    edges = np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        inside = (answers.score >= low) & ((answers.score < high) | (high == 1))
        if inside.any():
            right = (answers.given == answers.labels)[inside]
            error += inside.mean() * abs(answers.score[inside].mean() - right.mean())
    found = calibration(answers)
    assert found["ece"] == pytest.approx(100 * error, abs=0.006)
    assert sum(images for images, _, _ in found["bins"]) == len(answers.labels)


def test_sure_and_right_is_calibrated() -> None:
    answers = made_up()
    answers.given[:] = answers.labels
    answers.score[:] = 1.0
    assert calibration(answers) == {"ece": 0.0, "bins": [[200, 100.0, 100.0]]}


def test_every_mistake_has_a_row(tmp_path: Path) -> None:
    records = make_records(2)
    first = Answers.blank(
        [Path("right.jpg"), Path('a, "b".jpg'), Path(os.fsdecode(b"\xff.jpg")), Path("other task.jpg")],
        np.array([0, 1, 2, 0]),
    )
    first.given[:], first.score[:] = [0, 2, 2, 0], [0.9, 0.6, 0.7, 0.8]
    first.chosen[:] = [0, 0, PLAIN, 1]
    first.answer_task[:], first.answer[:], first.answer_score[:] = [0, 0, 0, 1], [0, 2, 1, 0], [0.9, 0.6, 0.3, 0.5]
    none = Answers.blank([], np.zeros(0, np.int64))
    assert write_mistakes(tmp_path / "e.csv", records, [first, none]) == 3
    with (tmp_path / "e.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == MISTAKES
    assert [row["file"] for row in rows] == ['a, "b".jpg', os.fsdecode(b"\xff.jpg"), "other task.jpg"]
    assert [(row["label"], row["predicted"], row["score"]) for row in rows] == [
        ("c1", "c2", "0.6000"),
        ("c2", "c2", "0.7000"),
        ("c0", "c0", "0.8000"),
    ]
    assert [(row["task_chosen"], row["answer_task"], row["answer"]) for row in rows] == [
        ("task-0", "task-0", "c2"),
        ("", "task-0", "c1"),
        ("task-1", "task-1", "c0"),
    ]


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_mistakes(tmp_path / "file" / "e.csv", [], [])


def test_the_worst_mistakes_are_those_of_the_highest_probability_over_all_tasks() -> None:
    records = [dataclasses.replace(record, classes=CLASSES) for record in make_records(2)]
    answers = [made_up(seed=0), made_up(seed=1)]
    rows = worst_mistakes(records, answers, [None, None])
    everything = [
        (round(100 * float(found.score[i]), 2), record.name, CLASSES[found.labels[i]], CLASSES[found.given[i]])
        for record, found in zip(records, answers, strict=True)
        for i in range(len(found.labels))
        if found.given[i] != found.labels[i]
    ]
    assert len(rows) == 20 < len(everything)
    assert [row["score"] for row in rows] == sorted((score for score, *_ in everything), reverse=True)[:20]
    assert {(row["score"], row["task"], row["label"], row["predicted"]) for row in rows} <= set(everything)
    assert worst_mistakes(records[:1], [Answers.blank([], np.zeros(0, np.int64))], [None]) == []

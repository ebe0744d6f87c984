"""Reports of any size without training: made-up records, and an evaluation to go with them."""

from pathlib import Path
from typing import Any

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.model.record import TaskRecord
from igsp_train.report.evaluation import check_evaluation
from igsp_train.report.examples import Example, Examples, name_mistakes
from igsp_train.report.gather import ReportData, gather


def make_records(count: int, classes: int = 3, name: str = "task") -> list[TaskRecord]:
    """Tasks with one vision block and one text block; each brings one expert and uses all of the vision block."""
    return [
        TaskRecord(
            index=t,
            name=f"{name}-{t}",
            classes=[f"c{c}" for c in range(classes)],
            display_names=[f"class {c}" for c in range(classes)],
            templates=["a photo of a {}."],
            ids={("vision", 0): list(range(t + 1)), ("text", 0): [t]},
            trained_parameters=100,
            kept_parameters=50 + t,
            selector_parameters=10,
            source=f"data/{t}",
        )
        for t in range(count)
    ]


def make_evaluation(records: list[TaskRecord]) -> dict[str, Any]:
    """What `evaluate_model` returns for these tasks, with numbers that tell the entries apart."""
    total = len(records)
    given = [[90.0 - i if i <= j else 10.0 + i * 0.1 for i in range(total)] for j in range(total)]
    auto = [[value - j * 0.25 for value in row] for j, row in enumerate(given)]
    incremental = [[70 - 0.2 * i - 0.5 * j if i <= j else None for i in range(total)] for j in range(total)]
    return {
        "tasks": [record.name for record in records],
        "test_images": [20] * total,
        "given": given,
        "auto": auto,
        "zero_shot": [10.0 + i * 0.1 for i in range(total)],
        "class_incremental": incremental,
        "open_last": incremental[-1],
        "selector_accuracy": [75.0] * total,
        "left_to_plain": [25.0] * total,
        "confusion": [[15 if i == j else 0 for i in range(total)] + [5] for j in range(total)],
        "per_class": [
            [
                {
                    "class": name,
                    "images": 10,
                    "recall": 100.0 - 10 * (c % 3),
                    "precision": None if c else 77.75,
                    "f1": 88.5,
                    "taken_for": [[record.classes[c - 1], c % 3]] if c % 3 else [],
                }
                for c, name in enumerate(record.classes)
            ]
            for record in records
        ],
        "worst": [
            {"task": record.name, "file": f"test/c0/{t}.jpg", "label": "c0", "predicted": "c1", "score": 99.5 - t}
            for t, record in enumerate(records)
        ],
        "skipped": [{"count": 22, "first": [[f"test/c0/{i}.heic", "HEIC"] for i in range(22)]} for _ in records],
        "calibration": [{"ece": 6.25, "bins": [[5, 55.5, 60.0], [15, 95.5, 80.0]]} for _ in records],
        "metrics": {
            kind: {"transfer": None if total == 1 else 12.5, "average": 50.5, "last": 80.25}
            for kind in ("given", "auto")
        }
        | {"class_incremental": {"average": 69.25, "last": 55.5}},
        "parameters": [{"kept": record.kept_parameters} for record in records],
    }


class Folder:
    """What `gather` reads of a model folder."""

    def __init__(self, tasks: list[Any]) -> None:
        self.tasks = tasks
        self.path = Path("models/toy")
        self.config = ModelConfig(backbone="debug", rank=4)
        self.selector_config = SelectorConfig()
        self.identity = {
            "name": "debug",
            "pretrained": None,
            "weight_hash": "abc123",
            "vision_depth": 2,
            "text_depth": 2,
            "vision_width": 8,
            "text_width": 6,
        }


def make_data(
    count: int,
    title: str = "Report",
    shown: list[Example] | None = None,
    steps: int = 0,
    picture: str = "",
    **sizes: Any,
) -> ReportData:
    """Everything on a page; with curves of `steps` steps, and `picture` of every mistake."""
    records = make_records(count, **sizes)
    for record in records if steps else []:
        movement = [1.0 if step % (steps // 3) < 5 else 1 / (step + 2) for step in range(steps)]
        record.metrics.update(
            phase1_steps=steps // 3, curves={"movement": movement, "mass": [0.5 / (step + 1) for step in range(steps)]}
        )
    evaluation = check_evaluation(make_evaluation(records), records, "e.json")
    folder: Any = Folder(records)
    examples = [Examples(shown=shown or [], looked_at=20, wrong=3) for _ in records]
    rows = evaluation.worst or []
    worst = name_mistakes(rows, records, {(row.task, row.file): picture for row in rows} if picture else {})
    return gather(folder, evaluation, examples, worst, title=title, made="today", version="0")

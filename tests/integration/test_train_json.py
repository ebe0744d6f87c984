"""`igsp train --json`: what a program reads of learning."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 4


def test_every_step_and_every_task_is_a_line(igsp: Callable[..., Any], task_data: Path, tmp_path: Path) -> None:
    tasks = [word for name in ("colors", "stripes") for word in ("--task", f"{name}={task_data / name}")]
    settings = ["--set", "model.backbone=debug", "--set", f"learn.steps={STEPS}"]
    done = igsp("train", tmp_path / "model", *tasks, *settings, "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["event"], event["task"]) for event in events] == [
        (event, name) for name in ("colors", "stripes") for event in ["step"] * STEPS + ["learned"]
    ]
    steps = [event for event in events if event["event"] == "step"]
    assert all({"step", "steps", "phase", "loss"} <= set(event) for event in steps)
    assert [event["step"] for event in steps[:STEPS]] == list(range(1, STEPS + 1))
    for event in events:
        if event["event"] == "learned":
            assert event["parameters"] > 0
            assert {"val_accuracy", "val_zero_shot", "experts_new", "experts_reused", "seconds"} <= set(event)


def test_it_goes_with_one_process(igsp: Callable[..., Any], task_data: Path, tmp_path: Path) -> None:
    done = igsp("train", tmp_path / "model", "--task", f"colors={task_data / 'colors'}", "--json", "--num-processes", 2)
    assert done.returncode == 2
    assert "--json goes with one process" in done.stderr

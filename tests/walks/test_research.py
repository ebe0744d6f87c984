"""A researcher: the matrix behind the numbers, and the same numbers from a study as from the model itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Igsp = Callable[..., Any]
SMALL = [
    *("--set", "model.backbone=debug", "--set", "model.rank=2", "--set", "model.vision_blocks=2"),
    *("--set", "learn.steps=6", "--set", "learn.batch_size=8", "--set", "learn.cached_views=2"),
]


def test_the_published_measures_follow_from_the_matrix_and_a_study_gives_the_same(
    igsp: Igsp, task_data: Path, tmp_path: Path
) -> None:
    tasks = [word for name in ("colors", "stripes") for word in ("--task", f"{name}={task_data / name}")]
    done = igsp("train", tmp_path / "model", *tasks, *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    steps = [event for line in done.stdout.splitlines() if (event := json.loads(line))["event"] == "step"]
    assert {event["phase"] for event in steps} == {1, 2}
    assert all(np.isfinite(event["loss"]) for event in steps)

    result = json.loads(igsp("evaluate", tmp_path / "model", "--json").stdout)
    for kind in ("given", "auto"):
        matrix, found = np.array(result[kind]), result["metrics"][kind]
        assert found["transfer"] == pytest.approx(matrix[0, 1], abs=0.011)
        assert found["average"] == pytest.approx(matrix.mean(0).mean(), abs=0.011)
        assert found["last"] == pytest.approx(matrix[-1].mean(), abs=0.011)
        assert found["backward_transfer"] == pytest.approx(matrix[-1, 0] - matrix[0, 0], abs=0.011)

    files = ["--csv", tmp_path / "rows.csv", "--latex", tmp_path / "rows.tex", "--json"]
    done = igsp("compare", tmp_path / "study", *tasks, *SMALL, "--method", "igsp", "--method", "zero-shot", *files)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)["rows"]}
    for name in ("transfer", "average", "last"):
        assert rows["igsp"][name][0] == pytest.approx(result["metrics"]["given"][name], abs=0.011)
    assert rows["zero-shot"]["last"][0] == pytest.approx(np.mean(result["zero_shot"]), abs=0.011)
    assert (tmp_path / "rows.csv").is_file()
    assert "zero-shot" in (tmp_path / "rows.tex").read_text()

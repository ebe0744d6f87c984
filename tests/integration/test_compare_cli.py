"""`igsp compare` from the command line: tables, JSON, resuming, and what bad input gets."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igsp_train.research.study import table

Igsp = Callable[..., Any]
SMALL = [
    *("--set", "model.backbone=debug", "--set", "model.rank=2", "--set", "model.vision_blocks=2"),
    *("--set", "learn.steps=6", "--set", "learn.batch_size=8", "--set", "learn.cached_views=2"),
]


def tasks(task_data: Path) -> list[str]:
    return [f"--task={name}={task_data / name}" for name in ("colors", "stripes")]


def test_methods_are_compared_and_finished_runs_are_not_made_again(igsp: Igsp, task_data: Path, tmp_path: Path) -> None:
    methods = ["--method", "igsp", "--method", "isolated", "--orders", "2"]
    command = ["compare", tmp_path / "study", *tasks(task_data), *SMALL, *methods]
    partly = igsp(*command, "--max-runs", "1")
    assert partly.returncode == 0, partly.stderr
    assert "are missing" in partly.stdout
    whole = igsp(*command, "--json")
    assert whole.returncode == 0, whole.stderr
    result = json.loads(whole.stdout)
    assert result["missing"] == 0
    assert [(row["method"], row["runs"], row["orders"]) for row in result["rows"]] == [
        ("igsp", 2, 2),
        ("isolated", 2, 2),
    ]
    # Isolated experts do not read the order: one run serves both.
    assert len(list((tmp_path / "study" / "runs").glob("isolated-*.json"))) == 1
    again = igsp(*command)
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert "Task given" in again.stdout
    assert "What the selector costs" in again.stdout
    assert "missing" not in again.stdout
    shutil.copytree(task_data, tmp_path / "moved")
    moved = igsp("compare", tmp_path / "study", *tasks(tmp_path / "moved"), *SMALL, *methods, "--json")
    assert (json.loads(moved.stdout), moved.stderr) == (result, "")
    gone = igsp("compare", tmp_path / "study", *tasks(tmp_path / "gone"), *SMALL, *methods)
    assert gone.stderr.startswith(f"error: task 'colors': {tmp_path / 'gone' / 'colors'} does not exist.")


def test_figures_go_into_files_for_programs_and_papers(igsp: Igsp, task_data: Path, tmp_path: Path) -> None:
    files = ["--csv", tmp_path / "out" / "rows.csv", "--latex", tmp_path / "rows.tex"]
    methods = ["--method", "zero-shot", "--method", "ridge"]
    done = igsp("compare", tmp_path / "study", *tasks(task_data), *SMALL, *methods, *files, "--json")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "rows.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    rows = json.loads(done.stdout)["rows"]
    assert [row["method"] for row in written] == ["zero-shot", "ridge"]
    for row, expected in zip(written, rows, strict=True):
        for name in ("transfer", "last", "forgetting", "kept", "backward_transfer"):
            assert [float(row[name]), float(row[f"{name}_std"])] == expected[name], name
        assert row["phase1_steps"] == ""
    lines = (tmp_path / "rows.tex").read_text().splitlines()
    assert lines[1] == r"\begin{tabular}{llr" + "r" * len(table.MAIN) + "}"
    assert lines[5].startswith("default & zero-shot & 1 & ")
    assert lines[5].count("&") == lines[3].count("&") == 2 + len(table.MAIN)
    assert f"{rows[1]['last'][0]:.1f} $\\pm$ 0.0" in lines[6]
    for outputs, text in (
        (["--csv", tmp_path], "is a folder"),
        (["--csv", tmp_path / "x", "--latex", tmp_path / "x"], "two outputs"),
    ):
        refused = igsp("compare", tmp_path / "study", *tasks(task_data), *SMALL, *outputs)
        assert refused.returncode == 1
        assert text in refused.stderr


def test_names_are_safe_in_latex() -> None:
    rows = table.collect([])
    assert table.latex_text(rows).endswith("\\end{tabular}\n")
    assert table._latex(r"50%_a&b\c~^{}#$") == (
        r"50\%\_a\&b\textbackslash{}c\textasciitilde{}\textasciicircum{}\{\}\#\$"
    )


def test_variants_of_a_preset_are_compared(igsp: Igsp, task_data: Path, tmp_path: Path) -> None:
    preset = tmp_path / "rules.yaml"
    preset.write_text("variants:\n  all: {learn: {keep_ratio: 1.0}}\n  half: {learn: {keep_ratio: 0.5}}\n")
    rule = ["--set", "learn.prune_rule=cumulative"]
    done = igsp("compare", tmp_path / "study", *tasks(task_data), *SMALL, *rule, "--ablation", preset, "--json")
    assert done.returncode == 0, done.stderr
    everything, half = json.loads(done.stdout)["rows"]
    assert (everything["setting"], half["setting"]) == ("all", "half")
    assert half["kept"][0] < everything["kept"][0]


def test_selectors_are_compared_without_learning(igsp: Igsp, task_data: Path, tmp_path: Path) -> None:
    done = igsp("compare", tmp_path / "study", *tasks(task_data), *SMALL, "--selectors", "--orders", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == (3 + 3) * 6  # places, and pairs of them
    assert all(0 <= row["right_task"] <= 100 for row in rows)
    assert not list((tmp_path / "study").glob("runs/*.json"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method", "magic"], "--method magic: expected one of"),
        (["--order", "colors"], "every task once"),
        (["--orders", "3"], "2 tasks have 2 orders"),
        (["--ablation", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_gets_one_line(igsp: Igsp, task_data: Path, tmp_path: Path, extra: list[str], message: str) -> None:
    done = igsp("compare", tmp_path / "study", *tasks(task_data), *SMALL, *extra)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr

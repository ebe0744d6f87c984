"""Curves and commands as the page needs them."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, SelectorConfig
from igsp_train.report.charts import convergence_chart, growth_chart, learning_chart
from igsp_train.report.command import commands_to_repeat, learn_settings
from igsp_train.report.gather import _curves
from tests.unit.train.report.made_up import make_records


def test_movement_counts_only_where_a_window_was_full() -> None:
    record = make_records(1)[0]
    record.metrics.update(
        phase1_steps=4,
        curves={"movement": [1.0, 1.0, 0.5, 0.2, 1.0, 1.0, 0.01], "mass": [0.5] * 7},
        learn={"convergence_threshold": 0.3},
    )
    curves = _curves(record)
    assert curves.movement == [None, None, 0.5, 0.2, None, None, 0.01]
    assert curves.movement_at_pruning == 0.2
    assert curves.converged is True
    assert dataclasses.replace(curves, threshold=0.1).converged is False
    assert dataclasses.replace(curves, threshold=None).converged is None


def test_what_was_seen_of_held_out_images_is_drawn_at_its_steps() -> None:
    record = make_records(1)[0]
    record.metrics.update(
        curves={"movement": [1.0] * 50, "mass": [0.5] * 50, "accuracy": [0.0] * 25 + [1.0] * 25},
        looks=[{"step": 25, "loss": 1.0, "accuracy": 0.25}, {"step": 50, "loss": 0.5, "accuracy": 0.75}],
    )
    curves = _curves(record)
    assert curves.looks == [(25, 0.25), (50, 0.75)]
    svg = str(learning_chart("a<b", curves.accuracy, curves.looks))
    lines = {kind: points.split() for kind, points in re.findall(r'class="line (.)" points="([^"]*)"', svg)}
    (x25, y25), (x50, y50) = ([float(v) for v in point.split(",")] for point in lines["a"])
    batches = [[float(v) for v in point.split(",")] for point in lines["b"]]
    bottom, top = batches[0][1], batches[-1][1]
    assert (bottom - y25) / (bottom - top) == pytest.approx(0.25, abs=0.01)
    assert (bottom - y50) / (bottom - top) == pytest.approx(0.75, abs=0.01)
    assert batches[-1][0] == x50 > x25 > batches[0][0]
    assert [round((bottom - y) / (bottom - top), 1) for _, y in batches[24:27]] == [0.0, 0.1, 0.2]
    assert "a&lt;b: 75% of the held-out images were right after 50 steps" in svg


def test_a_record_of_an_older_version_has_no_curves() -> None:
    curves = _curves(make_records(1)[0])
    assert (curves.steps, curves.movement_at_pruning, curves.converged) == (0, None, None)


class Folder:
    """What `commands_to_repeat` reads of a model folder."""

    def __init__(self, tasks: list[Any]) -> None:
        self.tasks, self.path = tasks, Path("m")
        self.config, self.selector_config = ModelConfig(), SelectorConfig(false_alarm=0.02)


def test_tasks_of_other_settings_get_a_command_of_their_own() -> None:
    records = make_records(3)
    for record in records:
        record.data.update(dataclasses.asdict(DataConfig()))
        record.metrics["learn"] = dataclasses.asdict(LearnConfig(steps=100 if record.index < 2 else 50))
    records[2] = dataclasses.replace(records[2], source="my data/2")
    folder: Any = Folder(records)
    first, second = commands_to_repeat(folder)
    assert first == (
        "igsp train m --set selector.false_alarm=0.02 --set learn.steps=100 \\\n    --task task-0=data/0 \\\n"
        "    --task task-1=data/1"
    )
    assert second.replace("\\\n    ", "") == "igsp train m --set learn.steps=50 --task 'task-2=my data/2'"
    settings = learn_settings(records)
    assert settings is not None
    assert (settings["steps"], settings["batch_size"]) == ("varies", 32)
    del records[0].metrics["learn"]
    assert learn_settings(records) is None


def test_a_curve_ends_where_the_numbers_end() -> None:
    svg = str(growth_chart([100, 20, 40], [100, 100, 100]))
    lines = re.findall(r'class="line (.)" points="([^"]*)"', svg)
    assert [kind for kind, _ in lines] == ["b", "a"]
    height = {kind: float(points.split()[-1].split(",")[1]) for kind, points in lines}
    bottom = float(lines[0][1].split()[0].split(",")[1])
    assert abs((bottom - height["a"]) / (bottom - height["b"]) - 160 / 300) < 0.005
    assert "160 parameters after 3 tasks, against 300" in svg
    assert 'class="line b"' not in str(growth_chart([100], None))


def test_long_curves_are_thinned_to_their_ends() -> None:
    svg = str(convergence_chart("a<b", [None] * 9 + [0.5] * 5000 + [0.125], [0.25] * 5010, 5010, 1.0, 0.01))
    points = re.findall(r'class="line a" points="([^"]*)"', svg)
    assert len(points) == 1
    assert len(points[0].split()) < 300
    assert "routers moved 0.125" in svg
    assert "a<b" not in svg
    assert "a&lt;b" in svg

"""Settings that are misspelt, of the wrong kind or out of range, wherever they are made."""

import dataclasses
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igsp_deploy.checked import build
from igsp_deploy.config import (
    DataConfig,
    LearnConfig,
    ModelConfig,
    RunConfig,
    SelectorConfig,
    apply_overrides,
    load_yaml,
)
from igsp_deploy.errors import UsageError, UserError


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"learn": {"step": 30}}, "learn.step is not an option; did you mean learn.steps?"),
        ({"lern": {"steps": 30}}, "lern is not an option; did you mean learn?"),
        ({"steps": 30}, "steps is not an option; did you mean learn.steps?"),
        ({"learn": {"zzz": 1}}, "learn.zzz is not an option; known here: batch_size,"),
        ({"learn": 3}, "learn must be a mapping, got 3"),
        ([1], "it must be a mapping, got [1]"),
        ({"learn": {"steps": True}}, "learn.steps must be a whole number, got True"),
        ({"learn": {"steps": 2.0}}, "learn.steps must be a whole number, got 2.0"),
        ({"learn": {"steps": "9" * 200}}, "999..."),
        ({"learn": {"learning_rate": float("nan")}}, "learn.learning_rate must be a finite number, got nan"),
        ({"learn": {"learning_rate": 0}}, "learn.learning_rate must be more than 0, got 0"),
        ({"learn": {"phase1_min_share": 0.5}}, "learn.phase1_max_share must be at least learn.phase1_min_share (0.5)"),
        (
            {"learn": {"epochs": 3, "steps": 50}},
            "learn.epochs and learn.steps both say how long to learn (3 and 50): leave one of them out",
        ),
        ({"learn": {"epochs": -1}}, "learn.epochs must be at least 0, got -1"),
        ({"data": {"augment": "strong"}}, "data.augment must be one of 'crops' or 'trivial', got 'strong'"),
        ({"data": {"balance": "images"}}, "data.balance must be one of 'none' or 'classes', got 'images'"),
        ({"learn": {"penalty": "nothing"}}, "learn.penalty must be one of 'candidate_mass', 'function_residual',"),
        ({"model": {"rank": 513}}, "model.rank must be at most 512, got 513"),
        ({"model": {"text_blocks": -2}}, "model.text_blocks must be at least -1, got -2"),
        ({"model": {"pretrained": 3}}, "model.pretrained must be text, got 3"),
        ({"data": {"horizontal_flip": 1}}, "data.horizontal_flip must be true or false, got 1"),
        ({"tasks": {"shoes": 3}}, "tasks.shoes must be text, got 3"),
        ({"tasks": {3: "data"}}, "tasks.3 must be text, got 3"),
        ({"tasks": ["data"]}, "tasks must be a mapping, got ['data']"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected_and_what_came(values: Any, text: str) -> None:
    with pytest.raises(UsageError) as told:
        build(RunConfig, values, "run.yaml")
    assert str(told.value).startswith("run.yaml: ")
    assert text in str(told.value)
    assert len(str(told.value)) < 1200


def test_all_mistakes_are_told_at_once() -> None:
    values = {"learn": {"stepz": 3, "batch_size": "many", "seed": None}, "modle": {}, "data": {"shots": -1}}
    with pytest.raises(UsageError) as told:
        build(RunConfig, values, "run.yaml")
    for place in ("learn.stepz", "learn.batch_size", "learn.seed", "modle", "data.shots"):
        assert place in str(told.value)
    assert str(told.value).count(";") == 6  # five mistakes, two of them with a hint


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LearnConfig(steps=0), "LearnConfig: steps must be at least 1, got 0"),
        (lambda: LearnConfig(stepz=3), "LearnConfig: stepz is not an option; did you mean steps?"),  # type: ignore[call-arg]
        (lambda: dataclasses.replace(LearnConfig(), steps=-1, seed="x"), "steps must be at least 1, got -1; seed must"),  # type: ignore[arg-type]
        (lambda: SelectorConfig(shrinkage=0), "SelectorConfig: shrinkage must be more than 0"),
        (lambda: DataConfig(val_share=0.95), "DataConfig: val_share must be at most 0.9"),
        (lambda: RunConfig(learn={"steps": 0}), "RunConfig: learn.steps must be at least 1"),  # type: ignore[arg-type]
        (lambda: RunConfig(learn=ModelConfig()), "RunConfig: learn must be a mapping, got ModelConfig("),  # type: ignore[arg-type]
    ],
)
def test_settings_are_checked_where_they_are_made(make: Callable[[], object], text: str) -> None:
    with pytest.raises(UsageError) as told:
        make()
    assert text in str(told.value)


def test_paths_and_texts_are_the_same() -> None:
    made = RunConfig(
        model=ModelConfig(pretrained=Path("w/clip.pt")),  # type: ignore[arg-type]
        tasks={"shoes": Path("data/shoes")},  # type: ignore[dict-item]
    )
    assert made == build(RunConfig, {"model": {"pretrained": "w/clip.pt"}, "tasks": {"shoes": "data/shoes"}}, "x")


def test_a_whole_number_is_kept_as_a_float_where_a_float_is_wanted() -> None:
    scale = build(ModelConfig, {"scale": 2}, "x").scale
    assert (scale, type(scale)) == (2.0, float)


def test_settings_are_frozen_and_travel_to_other_processes() -> None:
    made = RunConfig(learn=LearnConfig(steps=7))
    here, there = multiprocessing.Pipe()
    with here, there:
        here.send(made)
        assert there.recv() == made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.learn.steps = 8  # type: ignore[misc]


def test_a_file_may_ask_for_an_error_of_its_own() -> None:
    with pytest.raises(UserError) as told:
        build(ModelConfig, {"rank": 0}, "model/config.json", kind=UserError)
    assert type(told.value) is UserError


@pytest.mark.parametrize("section", ["learn", "data"])
@pytest.mark.parametrize("seed", [1 << 63, -(1 << 53) - 1, 10**40])
def test_a_seed_that_no_generator_takes_is_refused(section: str, seed: int) -> None:
    with pytest.raises(UsageError, match=rf"{section}\.seed must be"):
        build(RunConfig, {section: {"seed": seed}}, "x")
    assert build(RunConfig, {section: {"seed": 1 << 53}}, "x")


def test_keys_of_yaml_are_what_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "all: &all\n  no: data/no\ntasks:\n  <<: *all\n  on: data/on\n  1: data/1\n  2024-01-02: data/day\n"
    )
    values = load_yaml(path)
    assert values["tasks"] == {"no": "data/no", "on": "data/on", "1": "data/1", "2024-01-02": "data/day"}


@pytest.mark.parametrize("text", ["{a: &x {b: *x}}", "{a: 2024-13-45}"])
def test_yaml_whose_values_cannot_be_made_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"run\.yaml is not valid YAML"):
        load_yaml(path)
    with pytest.raises(UsageError, match="cannot be read as a value"):
        apply_overrides({}, [f"learn={text}"])

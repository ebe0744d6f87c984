"""A model folder, read without torch."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from igsp_deploy.bundle.manifest import read_manifest
from igsp_deploy.errors import UserError
from igsp_serve.demo.learned import read_evaluation, shared_experts
from igsp_serve.demo.model_files import check_same_model, read_model_tasks, take_back_last
from igsp_serve.demo.pictures import card_pictures, example_files
from igsp_serve.demo.space import write_space

if TYPE_CHECKING:
    from tests.conftest import Bundled


@pytest.fixture
def model(bundled: "Bundled", tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled.model, tmp_path / "model"))


def test_fingerprints_are_those_of_the_bundle(bundled: "Bundled") -> None:
    tasks = read_model_tasks(bundled.model)
    assert [t.fingerprint for t in tasks] == [t.fingerprint for t in read_manifest(bundled.bundle).tasks]
    check_same_model(bundled.model, tasks, read_manifest(bundled.bundle))


def test_another_model_is_refused(bundled: "Bundled") -> None:
    with pytest.raises(UserError, match="it lacks stripes"):
        check_same_model(bundled.model, read_model_tasks(bundled.model)[:1], read_manifest(bundled.bundle))


def test_only_the_last_task_is_taken_back(model: Path, bundled: "Bundled", tmp_path: Path) -> None:
    from igsp_deploy.model.folder import ModelFolder

    colors, stripes = (Path(task.source) for task in read_model_tasks(bundled.model))
    assert not take_back_last(model, "colors", colors)
    assert not take_back_last(model, "tripes", stripes)
    assert not take_back_last(model, "stripes", tmp_path)
    assert take_back_last(model, "stripes", stripes)
    assert [task.name for task in ModelFolder.open(model).tasks] == ["colors"]


def test_nothing_is_taken_back_while_somebody_learns(model: Path, bundled: "Bundled") -> None:
    from igsp_deploy.model_path import locked_model

    stripes = Path(read_model_tasks(bundled.model)[1].source)
    with ThreadPoolExecutor(1) as somebody, locked_model(model):
        assert not somebody.submit(take_back_last, model, "stripes", stripes).result()
    assert len(read_model_tasks(model)) == 2


def test_experts_are_counted_by_who_brought_them(bundled: "Bundled") -> None:
    assert shared_experts(bundled.bundle) == {"colors": {"colors": 4}, "stripes": {"colors": 4, "stripes": 4}}


def test_pictures_are_of_different_classes_and_may_be_gone(bundled: "Bundled", tmp_path: Path) -> None:
    task = read_model_tasks(bundled.model)[0]
    assert [label for label, _ in card_pictures(task)] == ["blue", "red"]
    assert all("test" in path.parts for _, path in example_files(task.source, task.classes, 2))
    assert example_files(tmp_path / "gone", ["a"], 2) == []


def test_an_evaluation_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    assert read_evaluation(path) is None
    for wrong in ("[]", "{}", '{"tasks": ["a"], "given": [[1, 2]], "auto": [[1]]}'):
        path.write_text(wrong)
        with pytest.raises(UserError, match="igsp evaluate MODEL --json"):
            read_evaluation(path)


def test_strangers_see_no_names_of_files(bundled: "Bundled", tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    worst = [{"task": "a", "file": "mr-smith.jpg", "label": "x", "predicted": "y", "score": 99.0}]
    skipped = [{"count": 1, "first": [["mrs-smith.heic", "HEIC"]]}]
    path.write_text(json.dumps({"tasks": ["a"], "given": [[1]], "auto": [[1]], "worst": worst, "skipped": skipped}))
    assert read_evaluation(path) == {"tasks": ["a"], "given": [[1]], "auto": [[1]]}
    write_space(bundled.bundle, tmp_path / "space", evaluation=path)
    assert "smith" not in (tmp_path / "space" / "evaluation.json").read_text()

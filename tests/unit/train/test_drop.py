"""Dropping the last task: as if it had never been learned, or not at all."""

import hashlib
import shutil
from pathlib import Path

import pytest

import igsp_deploy
from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, RunConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model_path import locked_model
from igsp_train.checkpoint import FOLDER, load_checkpoint
from igsp_train.drop import drop_task
from igsp_train.sequence import train_sequence
from tests.cli import igsp


def _learn(model: Path, task_data: Path, *names: str, stop_after: int | None = None) -> None:
    config = RunConfig(
        model=ModelConfig(backbone="debug", rank=2, vision_blocks=2),
        learn=LearnConfig(steps=6, batch_size=4, num_candidates=2, warmup_steps=1, phase1_max_share=0.5),
        data=DataConfig(num_workers=0),
        tasks={name: str(task_data / name.rstrip("2")) for name in names},
    )
    steps = iter(range(100))
    train_sequence(model, config, stop=None if stop_after is None else lambda: next(steps) + 1 >= stop_after)


def _numbers(model: Path) -> dict[str, str]:
    """File of numbers -> SHA-256; what was measured (seconds) is left out."""
    files = sorted(path for path in model.rglob("*") if path.suffix == ".safetensors" or path.name == "split.json")
    return {str(path.relative_to(model)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def two(task_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("drop") / "model"
    _learn(model, task_data, "colors", "stripes")
    return model


@pytest.fixture
def model(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "model"))


def test_a_task_that_was_dropped_was_never_learned(model: Path, task_data: Path, tmp_path: Path) -> None:
    _learn(tmp_path / "never", task_data, "colors")
    before = _numbers(model)
    assert drop_task(model, "stripes").name == "stripes"
    assert _numbers(model) == _numbers(tmp_path / "never")
    assert [path.name for path in (model / "tasks").iterdir()] == ["00-colors"]
    _learn(model, task_data, "colors", "stripes")
    assert _numbers(model) == before


def test_the_folder_in_memory_is_the_one_on_disk(model: Path) -> None:
    folder = ModelFolder.open(model)
    folder.remove_last()
    again = ModelFolder.open(model)
    assert [task.name for task in folder.tasks] == ["colors"]
    assert folder.pool.num_parameters() == again.pool.num_parameters() > 0


def test_one_that_others_were_learned_upon_is_refused_with_their_names(model: Path, task_data: Path) -> None:
    _learn(model, task_data, "colors2")
    before = _numbers(model)
    with pytest.raises(UserError, match=r"not the last task.*Drop colors2, then stripes first\.$") as refused:
        drop_task(model, "colors")
    for index, later in enumerate(ModelFolder.open(model).tasks[1:], start=1):
        folder = ModelFolder.open(model)
        first = {(site, i) for site, ids in folder.tasks[0].ids.items() for i in ids}
        shared = sum((site, i) in first for site, ids in folder.tasks[index].ids.items() for i in ids)
        assert (f"{later.name} uses {shared} of its experts" in str(refused.value)) == (shared > 0)
    with pytest.raises(UserError, match="Did you mean 'stripes'"):
        drop_task(model, "stripe")
    assert _numbers(model) == before


def test_a_task_that_is_being_learned_upon_it_is_not_lost_unasked(model: Path, task_data: Path) -> None:
    with pytest.raises(InterruptedError):
        _learn(model, task_data, "colors2", stop_after=3)
    before = _numbers(model)
    with pytest.raises(UserError, match=r"unfinished task that is being learned upon 'stripes'.*--discard"):
        drop_task(model, "stripes")
    assert _numbers(model) == before
    drop_task(model, "stripes", discard=True)
    assert load_checkpoint(model) is None


def test_what_was_left_of_learning_it_goes_with_it(model: Path, two: Path, task_data: Path, tmp_path: Path) -> None:
    """The process ended after the task was committed, and before its checkpoint was removed."""
    before = _numbers(two)
    drop_task(model, "stripes")
    with pytest.raises(InterruptedError):
        _learn(model, task_data, "stripes", stop_after=3)
    left = shutil.copytree(model / FOLDER, tmp_path / "left")
    _learn(model, task_data, "stripes")
    shutil.copytree(left, model / FOLDER)
    drop_task(model, "stripes")
    assert load_checkpoint(model) is None
    _learn(model, task_data, "stripes")
    assert _numbers(model) == before


def test_nothing_goes_where_the_folder_cannot_be_renamed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _numbers(model)

    def full(self: Path, target: Path) -> Path:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(UserError, match=r"cannot write .*01-stripes: Permission denied"):
        drop_task(model, "stripes")
    assert _numbers(model) == before


def test_it_waits_for_nobody_who_is_learning(model: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with locked_model(model), ThreadPoolExecutor(1) as pool:
        refused = pool.submit(drop_task, model, "stripes").exception()
    assert "another process is learning into" in str(refused)
    assert len(ModelFolder.open(model).tasks) == 2


def test_the_command_and_the_method(model: Path) -> None:
    told = igsp("drop", model, "stripes")
    assert (told.returncode, told.stdout) == (0, f"{model}\n")
    assert told.stderr.startswith("stripes: dropped, with ")
    igsp_deploy.Model.open(model).drop("colors")
    assert igsp_deploy.Model.open(model).tasks == []
    told = igsp("drop", model, "colors")
    assert told.returncode == 1
    assert "there is no task 'colors'" in told.stderr
    told = igsp("drop", model.parent / "none", "colors")
    assert told.returncode == 1
    assert "is not a model folder: it does not exist" in told.stderr

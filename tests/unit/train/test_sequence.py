"""Sequences of tasks: two runs into one model at once, and what is said before a task is learned."""

import dataclasses
import io
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, RunConfig
from igsp_deploy.data import load_task_data, read_eval_images
from igsp_deploy.data.counts import SkippedFiles
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.loading import load_backbone
from igsp_train import learn_task, sequence
from igsp_train.features import TrunkViews
from igsp_train.sequence import train_sequence


def _config(task_data: Path, *names: str) -> RunConfig:
    return RunConfig(
        model=ModelConfig(backbone="debug", rank=2, vision_blocks=1, text_blocks=1),
        learn=LearnConfig(steps=2, batch_size=4, num_candidates=1, warmup_steps=1),
        data=DataConfig(num_workers=0),
        tasks={name: str(task_data / name) for name in names},
    )


def _names(model: Path) -> list[str]:
    return [task.name for task in ModelFolder.open(model).tasks]


def test_a_second_run_in_the_middle_of_a_first_is_refused(
    task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment that ruined models: the first has opened the folder, and the second learns from start to end."""
    model = tmp_path / "model"
    refused: list[BaseException | None] = []
    load = ModelFolder.load_backbone

    def slow_load(self: ModelFolder) -> Any:
        monkeypatch.setattr(ModelFolder, "load_backbone", load)
        with ThreadPoolExecutor(1) as pool:
            refused.append(pool.submit(train_sequence, model, _config(task_data, "stripes")).exception())
        return load(self)

    ModelFolder.create(model, load_backbone("debug"), _config(task_data).model, RunConfig().selector)
    monkeypatch.setattr(ModelFolder, "load_backbone", slow_load)
    train_sequence(model, _config(task_data, "colors"))
    assert isinstance(refused[0], UserError)
    assert "another process is learning into" in str(refused[0])
    assert _names(model) == ["colors"]


def test_two_runs_that_both_find_no_model_end_in_one_model(
    task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    load = load_backbone

    def slow_load(*arguments: Any) -> Any:
        monkeypatch.setattr(sequence, "load_backbone", load)
        train_sequence(model, _config(task_data, "stripes"))
        return load(*arguments)

    monkeypatch.setattr(sequence, "load_backbone", slow_load)
    train_sequence(model, _config(task_data, "colors"))
    assert _names(model) == ["stripes", "colors"]


def test_a_run_that_fails_before_its_first_task_leaves_no_folder(task_data: Path, tmp_path: Path) -> None:
    config = _config(task_data, "colors")
    wrong = RunConfig(model=ModelConfig(backbone="debug", vision_blocks=9), tasks=config.tasks)
    with pytest.raises(UserError, match="vision_blocks must be at most"):
        train_sequence(tmp_path / "model", wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_classes_are_counted_before_learning_and_in_the_record(task_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "data" / "colors"
    shutil.copytree(task_data / "colors", source)
    (source / "train" / "red" / "notes.txt").write_text("x")
    console = Console(file=io.StringIO(), width=100)
    folder = train_sequence(tmp_path / "model", _config(tmp_path / "data", "colors"), console=console)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Images of colors" in said.partition("colors: learned;")[0]
    assert re.search(r"red +│ +9 │ +1 │ +4 │ 1 TXT", said), said
    record = ModelFolder.open(folder.path).tasks[0]
    assert record.images["red"] == {"learned": 9, "held_out": 1, "tested": 4, "skipped": {"TXT": 1}}
    assert record.skipped == SkippedFiles(count=1, first=[("train/red/notes.txt", "TXT")])


def test_a_class_with_hardly_an_image_is_warned_of_on_the_terminal_and_in_the_record(
    task_data: Path, tmp_path: Path
) -> None:
    source = tmp_path / "data" / "colors"
    shutil.copytree(task_data / "colors", source)
    for file in sorted((source / "train" / "red").iterdir())[3:]:
        file.unlink()
    console = Console(file=io.StringIO(), width=100)
    folder = train_sequence(tmp_path / "model", _config(tmp_path / "data", "colors"), console=console)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    kept = ModelFolder.open(folder.path).tasks[0].metrics
    assert kept["warnings"][0] == "fewer than 5 training images in red"
    assert all(f"colors: warning: {text}." in said for text in kept["warnings"])
    assert len(kept["curves"]["accuracy"]) == len(kept["curves"]["loss"])


def test_a_program_that_follows_the_steps_gets_no_table(task_data: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    train_sequence(tmp_path / "model", _config(task_data, "colors"), console=console, report=lambda report: None)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Images of colors" not in said
    assert "blue 14 images, red 14" in said


def _moved(task_data: Path, place: Path) -> Path:
    shutil.copytree(task_data / "colors", place)
    return place


def test_a_learned_task_is_passed_over_wherever_its_images_are_now(task_data: Path, tmp_path: Path) -> None:
    place, model = _moved(task_data, tmp_path / "data" / "colors"), tmp_path / "model"
    train_sequence(model, _config(tmp_path / "data", "colors"))
    place.rename(tmp_path / "elsewhere")
    both = dataclasses.replace(
        _config(task_data, "stripes"), tasks={"colors": str(place), "stripes": str(task_data / "stripes")}
    )
    train_sequence(model, both)  # gone: its images are not asked for
    assert _names(model) == ["colors", "stripes"]
    (next((tmp_path / "elsewhere" / "train" / "red").iterdir())).unlink()
    console = Console(file=io.StringIO(), width=100)
    moved = dataclasses.replace(both, tasks={"colors": str(tmp_path / "elsewhere")})
    train_sequence(model, moved, console=console)
    assert "colors: already learned, passed over" in console.file.getvalue()  # type: ignore[attr-defined]
    assert _names(model) == ["colors", "stripes"]


@pytest.mark.parametrize(
    ("place", "text"), [("stripes", "holds other images"), ("gone", "gone does not exist")], ids=["others", "gone"]
)
def test_another_source_under_the_name_of_a_learned_task_is_refused(
    task_data: Path, tmp_path: Path, place: str, text: str
) -> None:
    train_sequence(tmp_path / "model", _config(task_data, "colors"))
    other = dataclasses.replace(_config(task_data), tasks={"colors": str(task_data / place)})
    with pytest.raises(UserError, match=text) as refused:
        train_sequence(tmp_path / "model", other)
    assert "Leave --task colors=... out" in str(refused.value)
    assert "already has a task 'colors'" in str(refused.value)
    assert _names(tmp_path / "model") == ["colors"]


def test_an_interrupted_task_goes_on_from_images_that_moved(task_data: Path, tmp_path: Path) -> None:
    place, model = _moved(task_data, tmp_path / "data" / "colors"), tmp_path / "model"
    learn = LearnConfig(steps=6, batch_size=4, num_candidates=1, warmup_steps=1, checkpoint_every=2)

    def numbers(path: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in path.rglob("*.safetensors")}

    config = dataclasses.replace(_config(tmp_path / "data", "colors"), learn=learn)
    whole = train_sequence(tmp_path / "whole", config)
    asked: list[None] = []
    with pytest.raises(InterruptedError):
        train_sequence(model, config, stop=lambda: asked.append(None) or len(asked) == 3)  # type: ignore[func-returns-value]
    assert _names(model) == []
    place.rename(tmp_path / "elsewhere")
    console = Console(file=io.StringIO(), width=100)
    train_sequence(model, dataclasses.replace(config, tasks={"colors": str(tmp_path / "elsewhere")}), console=console)
    assert "continuing after step 3" in console.file.getvalue()  # type: ignore[attr-defined]
    assert numbers(model) == numbers(whole.path)


@pytest.mark.parametrize("few", [4, 5])
def test_enough_held_out_images_give_a_task_its_temperature(
    task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(logits: torch.Tensor, labels: torch.Tensor) -> float:
        seen.append((logits, labels))
        return 2.0

    monkeypatch.setattr(learn_task, "FEW", few)
    monkeypatch.setattr(learn_task, "temperature", watch)
    config = dataclasses.replace(_config(task_data, "colors"), data=DataConfig(num_workers=0, val_share=0.25))
    folder = train_sequence(tmp_path / "model", config)
    head, metrics = folder.head(0), folder.tasks[0].metrics
    assert head is not None
    if few > 4:
        assert (metrics["temperature"], seen) == (1.0, [])
        assert head.text_share == pytest.approx(1.0 - metrics["head_weight"])
        return
    ((logits, labels),) = seen
    assert metrics["temperature"] == 2.0
    assert head.text_share == pytest.approx((1.0 - metrics["head_weight"]) / 2.0)
    task = load_task_data("colors", config.tasks["colors"], val_share=0.25)
    assert labels.tolist() == task.val.labels.tolist()
    learned = LearnedClip.open(folder)
    images, _, _ = read_eval_images(task.val, learned.backbone.preprocess)
    torch.testing.assert_close(
        learned.predict(learned.trunk(torch.from_numpy(images)), 0), logits / 2, rtol=1e-3, atol=1e-3
    )


def _experts(model: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in model.rglob("*.safetensors")}


def test_epochs_are_the_steps_that_take_them_also_after_an_interruption(task_data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(_config(task_data, "colors"), data=DataConfig(num_workers=0, val_share=0))
    learn = LearnConfig(batch_size=6, num_candidates=1, checkpoint_every=3)
    console = Console(file=io.StringIO(), width=100)
    epochs = dataclasses.replace(config, learn=dataclasses.replace(learn, epochs=5, warmup_steps=9))
    asked: list[None] = []
    with pytest.raises(InterruptedError):
        train_sequence(tmp_path / "epochs", epochs, stop=lambda: asked.append(None) or len(asked) == 4)  # type: ignore[func-returns-value]
    folder = train_sequence(tmp_path / "epochs", epochs, console=console)
    assert "colors: 5 epochs of 20 images: 17 steps\n" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "colors: continuing after step 4\n" in console.file.getvalue()  # type: ignore[attr-defined]
    steps = dataclasses.replace(config, learn=dataclasses.replace(learn, steps=17, warmup_steps=1))
    told = folder.tasks[0].metrics
    assert told["learn"] == dataclasses.asdict(steps.learn)
    assert len(told["curves"]["loss"]) == 17
    train_sequence(tmp_path / "steps", steps)
    assert _experts(tmp_path / "epochs") == _experts(tmp_path / "steps")


@pytest.mark.parametrize("cached_views", [0, 4])
def test_augmented_images_and_balanced_classes_give_the_same_task_whoever_makes_them(
    task_data: Path, tmp_path: Path, cached_views: int
) -> None:
    """Twice alike; and the first steps without processes that read images, the others with two."""
    data = DataConfig(num_workers=0, augment="trivial", balance="classes")
    learn = LearnConfig(steps=5, batch_size=6, num_candidates=1, warmup_steps=1, cached_views=cached_views)
    config = dataclasses.replace(_config(task_data, "colors"), data=data, learn=learn)
    for name in ("one", "again"):
        train_sequence(tmp_path / name, config)
    asked: list[None] = []
    with pytest.raises(InterruptedError):
        train_sequence(tmp_path / "two", config, stop=lambda: asked.append(None) or len(asked) == 3)  # type: ignore[func-returns-value]
    train_sequence(tmp_path / "two", dataclasses.replace(config, data=dataclasses.replace(data, num_workers=2)))
    assert _experts(tmp_path / "one") == _experts(tmp_path / "again") == _experts(tmp_path / "two")
    plain = dataclasses.replace(config, data=dataclasses.replace(data, augment="crops"))
    train_sequence(tmp_path / "plain", plain)
    assert _experts(tmp_path / "plain")["experts.safetensors"] != _experts(tmp_path / "one")["experts.safetensors"]


def test_a_class_of_one_image_needs_no_view_of_the_others_that_no_epoch_asks_for(
    task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("red", 10), ("blue", 1)):
        (tmp_path / "data" / "colors" / "train" / name).mkdir(parents=True)
        for file in sorted((task_data / "colors" / "train" / name).iterdir())[:count]:
            shutil.copy(file, tmp_path / "data" / "colors" / "train" / name)
    made: list[TrunkViews] = []

    def watch(*values: Any, **named: Any) -> TrunkViews:
        made.append(TrunkViews(*values, **named))
        return made[-1]

    monkeypatch.setattr(learn_task, "TrunkViews", watch)
    config = dataclasses.replace(
        _config(tmp_path / "data", "colors"),
        data=DataConfig(num_workers=0, val_share=0, test_share=0, balance="classes"),
        learn=LearnConfig(steps=4, batch_size=4, num_candidates=1, warmup_steps=1),
    )
    train_sequence(tmp_path / "model", config)
    assert sorted(made[0]._cache) == [0, 1]  # 16 draws of 11 images, half of them of the one blue one
    train_sequence(
        tmp_path / "none", dataclasses.replace(config, data=dataclasses.replace(config.data, balance="none"))
    )
    assert _experts(tmp_path / "model")["experts.safetensors"] != _experts(tmp_path / "none")["experts.safetensors"]


def test_a_task_that_an_older_version_began_goes_on() -> None:
    """What is hashed for settings that later versions added, at their defaults, is what was hashed before."""
    task: Any = SimpleNamespace(
        name="a",
        split=None,
        train=SimpleNamespace(images=["x/1.png", "y/2.png"], labels=np.array([0, 1])),
        display_names=["x", "y"],
        templates=["a {}."],
    )
    folder: Any = SimpleNamespace(tasks=[])
    plain = RunConfig(learn=LearnConfig(prune_tolerance=0.05))  # the default of then
    found = learn_task._fingerprint(folder, task, plain)
    assert found == "9509a0bf9f063ac3efe48e0501c72166f4f3a703024a2f45ef925f39c90bcdaa"
    for data in (DataConfig(balance="classes"), DataConfig(augment="trivial")):
        assert learn_task._fingerprint(folder, task, dataclasses.replace(plain, data=data)) != found

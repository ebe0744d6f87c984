"""What `igsp train` says to bad input: one line, its exit code, and a model folder that is as it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igsp_deploy import Model
from igsp_deploy.config import SelectorConfig
from tests.cli import igsp

QUICK = [
    *("--set", "model.backbone=debug", "--set", "model.rank=2", "--set", "learn.steps=6"),
    *("--set", "learn.batch_size=4", "--set", "learn.num_candidates=1", "--set", "learn.warmup_steps=1"),
]


def write_task(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), test_classes: tuple[str, ...] | None = None
) -> Path:
    for split, names in (("train", classes), ("test", test_classes or classes)):
        for number, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for image in range(5):
                pixels = np.full((32, 32, 3), 40 * number + image, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{image}.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_task(root / "pets")
    assert igsp("train", root / "model", "--task", f"pets={root / 'pets'}", *QUICK).returncode == 0
    return root / "model"


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, text: str) -> None:
    assert result.returncode == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, result.stderr
    assert text in errors[0]
    assert "Traceback" not in result.stderr


def snapshot(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.name.startswith(".lock"))


def test_the_same_command_again_changes_nothing(model: Path) -> None:
    before = snapshot(model)
    result = igsp("train", model, "--task", f"pets={model.parent / 'pets'}", *QUICK)
    assert result.returncode == 0
    assert "pets: already learned" in result.stderr
    assert snapshot(model) == before


def test_a_task_name_that_is_taken(model: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "other", ("cat", "dog", "cow"))
    for image in (tmp_path / "other").rglob("c*/*.png"):  # the dogs alone are those it was learned from
        image.write_bytes(image.read_bytes() + b"x")
    result = igsp("train", model, "--task", f"pets={tmp_path / 'other'}", *QUICK)
    assert_one_line(result, 1, "already has a task 'pets'")


def test_another_backbone_for_an_existing_model(model: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "new")
    result = igsp("train", model, "--task", f"new={tmp_path / 'new'}", "--set", "model.backbone=ViT-B-32")
    assert_one_line(result, 1, "was made with model.backbone = 'debug', got 'ViT-B-32'")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--backbone", "nano"], "was made with model.backbone = 'debug', got 'nano'"),
        (["--set", "model.rank=16"], "was made with model.rank = 4, got 16"),
        (["--set", "selector.background=0.4"], "was made with selector.background = 0.2, got 0.4"),
    ],
)
def test_a_default_that_was_given_is_no_less_refused(options: list[str], told: str, tmp_path: Path) -> None:
    settings = ["--set", "model.backbone=debug", "--set", "model.rank=4", "--set", "selector.background=0.2"]
    Model.create(tmp_path / "m", backbone="debug", rank=4, selector=SelectorConfig(background=0.2))
    write_task(tmp_path / "new")
    result = igsp("train", tmp_path / "m", "--task", f"new={tmp_path / 'new'}", *options)
    assert_one_line(result, 1, told)
    assert Model.open(tmp_path / "m").tasks == []
    same = ["--set", "learn.steps=2", "--set", "learn.warmup_steps=1"]
    assert igsp("train", tmp_path / "m", "--task", f"new={tmp_path / 'new'}", *settings, *same).returncode == 0


def test_test_classes_that_differ_from_training_classes(tmp_path: Path) -> None:
    write_task(tmp_path / "t", ("cat", "dog"), ("cat", "cow"))
    result = igsp("train", tmp_path / "m", "--task", f"t={tmp_path / 't'}", *QUICK)
    assert_one_line(result, 1, "cow")
    assert not (tmp_path / "m").exists()


def test_one_class_only(tmp_path: Path) -> None:
    write_task(tmp_path / "t", ("cat",))
    assert_one_line(igsp("train", tmp_path / "m", "--task", f"t={tmp_path / 't'}", *QUICK), 1, "class")
    assert not (tmp_path / "m").exists()


def test_a_bad_last_task_is_found_before_the_first_is_learned(tmp_path: Path) -> None:
    write_task(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    result = igsp(
        "train", tmp_path / "m", "--task", f"a={tmp_path / 'good'}", "--task", f"b={tmp_path / 'empty'}", *QUICK
    )
    assert_one_line(result, 1, "empty")
    assert not (tmp_path / "m").exists()


def test_an_unknown_option_in_yaml_lists_all_mistakes_at_once(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("learn: {stepz: 3, batch_size: many}\nmodle: {}\n")
    result = igsp("train", tmp_path / "m", "--config", tmp_path / "run.yaml", "--task", "a=x")
    assert_one_line(result, 2, "learn.stepz is not an option")
    assert "learn.batch_size must be a whole number, got 'many'" in result.stderr
    assert "modle is not an option" in result.stderr


def test_broken_images_are_skipped_with_a_count(tmp_path: Path) -> None:
    task = write_task(tmp_path / "t")
    (task / "train" / "cat" / "broken.png").write_bytes(b"not an image")
    whole = (task / "train" / "dog" / "0.png").read_bytes()
    (task / "train" / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (1, 1)).save(task / "train" / "cat" / "one_pixel.png")
    Image.new("P", (40, 30)).save(task / "train" / "cat" / "palette.png")
    Image.new("RGBA", (40, 30)).save(task / "train" / "cat" / "alpha.png")
    result = igsp("train", tmp_path / "m", "--task", f"t={task}", *QUICK)
    assert result.returncode == 0, result.stderr
    assert "2" in result.stderr
    assert "broken.png" in result.stderr or "cut.png" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_folder_with_a_damaged_task_is_not_trained_on(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    path = copy / "tasks" / "00-pets" / "experts.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    write_task(tmp_path / "new")
    result = igsp("train", copy, "--task", f"new={tmp_path / 'new'}", *QUICK)
    assert_one_line(result, 1, "experts.safetensors is damaged")


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    write_task(tmp_path / "t")
    (tmp_path / "file").write_text("")
    result = igsp("train", tmp_path / "file" / "model", "--task", f"t={tmp_path / 't'}", *QUICK)
    assert_one_line(result, 1, "cannot write")


def test_a_full_disk_while_saving_leaves_the_model_as_it_was(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    before = snapshot(copy)
    write_task(tmp_path / "new")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); "
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "sys.argv = ['igsp', *sys.argv[1:]]; from igsp_deploy.cli.main import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "train", str(copy), "--task", f"new={tmp_path / 'new'}", *QUICK],
        capture_output=True,
        text=True,
    )
    assert_one_line(result, 1, "disk is not full")
    assert snapshot(copy) == before


def test_steps_beside_epochs_are_refused_at_their_default_too(tmp_path: Path) -> None:
    settings = ["--set", "learn.epochs=3", "--set", "learn.steps=200"]
    result = igsp("train", tmp_path / "model", "--task", f"new={tmp_path}", *settings)
    assert result.returncode == 2
    assert "learn.epochs and learn.steps both say how long to learn" in result.stderr

"""The benchmark from the command line, on replicas of its sets: check, learn, be killed, go on, evaluate."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torchvision.datasets

from tests.cli import igsp
from tests.mtil_replicas import BUILDERS, build_replicas, igsp_on_replicas, replica_checksums

QUICK = [
    *("--set", "model.backbone=debug", "--set", "model.pretrained=null", "--set", "model.rank=2"),
    *("--set", "learn.steps=12", "--set", "learn.batch_size=8", "--set", "learn.warmup_steps=2"),
    *("--set", "learn.checkpoint_every=3", "--set", "learn.num_candidates=1", "--set", "model.text_blocks=-1"),
]
WORKERS = ("--set", "data.num_workers=2")
NONE = ("--set", "data.num_workers=0")


def numbers(model: Path) -> dict[str, bytes]:
    return {p.relative_to(model).as_posix(): p.read_bytes() for p in sorted(model.rglob("*.safetensors"))}


def learned(model: Path) -> list[str]:
    tasks = model / "tasks"
    return sorted(p.name for p in tasks.iterdir() if not p.name.startswith(".")) if tasks.is_dir() else []


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_replicas(tmp_path_factory.mktemp("mtil") / "data")


def command(root: Path, *arguments: object) -> list[str]:
    return [*igsp_on_replicas(root), *map(str, arguments)]


def on_replicas(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In this process; `command` is for one that is killed."""
    with contextlib.ExitStack() as patched:
        for name, values in replica_checksums(root).items():
            for key, value in values.items():
                patched.enter_context(mock.patch.object(getattr(torchvision.datasets, name), key, value))
        return igsp(*arguments)


def benchmark(root: Path, model: Path) -> list[object]:
    return [
        *("train", model, "--benchmark", "mtil", "--order", 2, "--data-root", root, "--shots", 5),
        *("--accept-differences", *QUICK),
    ]


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    result = on_replicas(root, *benchmark(root, root.parent / "model"), *NONE)
    assert result.returncode == 0, result.stderr
    return root.parent / "model"


def test_the_benchmark_is_learned_in_its_order_with_its_words(model: Path) -> None:
    assert [name.partition("-")[2] for name in learned(model)][:3] == ["stanfordcars", "food101", "mnist"]
    assert len(learned(model)) == 11
    record = json.loads((model / "tasks" / "09-eurosat" / "task.json").read_text())
    assert record["display_names"] == ["annual crop land", "river", "lake or sea"]
    assert len(record["templates"]) == 3
    assert record["data"]["shots"] == 5
    config = json.loads((model / "config.json").read_text())
    assert config["backbone"]["name"] == "debug", "--set goes over the benchmark's settings"


def test_it_is_evaluated_with_the_task_given_chosen_and_class_incrementally(root: Path, model: Path) -> None:
    result = on_replicas(root, "evaluate", model, "--json")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["tasks"][:2] == ["stanfordcars", "food101"]
    assert values["test_images"] == [9, 9, 9, 9, 9, 6, 9, 6, 9, 6, 9]
    for key in ("given", "auto"):
        assert set(values["metrics"][key]) == {"transfer", "average", "last", "backward_transfer", "forgetting"}
    assert set(values["metrics"]["class_incremental"]) == {"average", "last", "backward_transfer", "forgetting"}
    assert values["class_incremental"][0][1:] == [None] * 10
    assert None not in values["class_incremental"][10]


def test_a_killed_benchmark_goes_on_at_its_task_and_step_whatever_the_number_of_workers(
    root: Path, model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    process = subprocess.Popen(
        command(root, *benchmark(root, copy), *WORKERS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(learned(copy)) >= 2 and list(copy.glob(".inprogress/step-*")) and children(process.pid):
            break
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = learned(copy)
    assert 2 <= len(before) < 11
    again = on_replicas(root, *benchmark(root, copy), *NONE)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("already learned, passed over") == len(before)
    assert "continuing after step" in again.stderr
    assert numbers(copy) == numbers(model)
    while time.monotonic() < deadline and any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers), "a worker outlived its parent"


def test_without_the_published_sets_nothing_is_learned(root: Path, tmp_path: Path) -> None:
    result = on_replicas(root, "train", tmp_path / "m", "--benchmark", "mtil", "--data-root", root, *QUICK)
    assert result.returncode == 1
    assert "expected 3,334 train images, found 21" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--benchmark", "mtil"), "needs --data-root"),
        (("--benchmark", "imagenet", "--data-root", "."), "--benchmark must be mtil"),
        (("--benchmark", "mtil", "--data-root", ".", "--order", "3"), "--order must be 1 or 2"),
        (("--benchmark", "mtil", "--data-root", ".", "--task", "a=b"), "Leave out --task"),
        (("--task", "a=b", "--order", "2"), "belong to --benchmark"),
        (("--benchmark", "mtil", "--data-root", ".", "--shots", "-1"), "data.shots must be at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    igsp: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = igsp("train", tmp_path / "m", *arguments)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr


def test_data_check_counts_every_set_and_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    some = build_replicas(tmp_path / "data", ("dtd", "mnist"))
    (some / "dtd/dtd/labels/train1.txt").unlink()
    result = on_replicas(some, "data", "check", "--benchmark", "mtil", "--data-root", some, "--json")
    assert result.returncode == 1
    rows = {row["set"]: row for row in json.loads(result.stdout)}
    assert list(rows) == list(BUILDERS)
    assert rows["mnist"]["train"] == [21, 60_000]
    assert rows["mnist"]["status"] == "different"
    assert rows["dtd"]["status"] == "not usable"
    assert "lacks labels/train1.txt" in rows["dtd"]["problems"][0]
    assert "https://www.robots.ox.ac.uk" in rows["aircraft"]["problems"][0]
    assert "11 of 11 sets are missing or not as published" in result.stderr


def test_data_check_with_zero_shot_names_the_sets_that_are_off(root: Path) -> None:
    arguments = ("data", "check", "--data-root", root, "--zero-shot", *QUICK[:4])
    result = on_replicas(root, *arguments)
    assert result.returncode == 1
    assert "33.3 / 24.3" in result.stdout or "/ 24.3" in result.stdout
    assert "zero-shot CLIP is off by more than 1 points on" in result.stderr
    assert "expected figures are those of ViT-B-16-quickgelu" in " ".join(result.stderr.split())

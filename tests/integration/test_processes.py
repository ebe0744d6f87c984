"""Two processes learn what one learns: the same structure, the same accuracy; and they end together, whoever fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from igsp_deploy.errors import UserError
from igsp_train.checkpoint import load_checkpoint
from igsp_train.ranks import Ranks
from tests.load.process import free_port

SETTINGS = [
    *("--set", "model.backbone=debug", "--set", "model.rank=2", "--set", "learn.num_candidates=2"),
    *("--set", "learn.steps=24", "--set", "learn.batch_size=9", "--set", "learn.checkpoint_every=4"),
    *("--set", "learn.warmup_steps=4", "--set", "data.val_share=0.25"),
]

FAULTY = [sys.executable, str(Path(__file__).with_name("faulty_rank.py"))]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    for name, shade in (("bright", 180), ("dark", 90)):
        generator = np.random.default_rng(shade)
        for channel, colour in enumerate(("red", "green", "blue")):
            folder = root / name / colour
            folder.mkdir(parents=True)
            for number in range(16):
                pixels = generator.integers(0, 70, (32, 32, 3), dtype=np.uint8)
                pixels[..., channel] += np.uint8(shade)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def command(model: Path, tasks: Path, *more: str) -> list[str]:
    given = [part for name in ("bright", "dark") for part in ("--task", f"{name}={tasks / name}")]
    return [sys.executable, "-m", "igsp_deploy.cli.main", "train", str(model), *given, *SETTINGS, *more]


def learned(model: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        (json.loads((path / "task.json").read_text()), load_file(path / "experts.safetensors"))
        for path in sorted((model / "tasks").iterdir())
    ]


def ranks_started_by(launcher: int) -> list[int]:
    """Processes that `igsp train --num-processes` started, in the order of their ranks."""
    started = []
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                started.append(int(child))
    return started


def tasks_before_checkpoint(model: Path) -> set[int]:
    """For each checkpoint, the number of tasks that were learned when its task began."""
    found = set()
    for path in model.glob(".inprogress/step-*/state.json"):
        with contextlib.suppress(OSError, json.JSONDecodeError):  # it may be replaced while it is read
            found.add(int(json.loads(path.read_text())["learned"]))
    return found


def accelerate(*arguments: str) -> list[str]:
    """`accelerate launch` as its users start it, with what `command` gives for a Python module."""
    return [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *arguments]


def test_two_processes_learn_what_one_learns_even_if_one_is_killed_and_accelerate_goes_on(
    tasks: Path, tmp_path: Path
) -> None:
    subprocess.run(command(tmp_path / "one", tasks), check=True, capture_output=True)
    model = tmp_path / "two"
    together = command(model, tasks, "--num-processes", "2")
    process = subprocess.Popen(together, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while tasks_before_checkpoint(model) != {1} and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    ranks = ranks_started_by(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "error: process 1 of 2 ended without a word (exit code -9)" in errors
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert [path.name for path in (model / "tasks").iterdir()] == ["00-bright"]
    reached = load_checkpoint(model)
    assert reached is not None

    # The same run, started by the other launcher, from where the first one stopped.
    module = command(model, tasks)[1:]
    launcher = accelerate("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    again = subprocess.run([*launcher, *module], capture_output=True, text=True, timeout=180)
    assert again.returncode == 0, again.stderr
    assert "bright: already learned" in again.stderr
    assert f"dark: continuing after step {reached[0]['step']}\n" in again.stderr
    assert again.stdout.splitlines() == [str(model)]
    pairs = list(zip(learned(tmp_path / "one"), learned(model), strict=True))
    assert len(pairs) == 2
    for (alone, experts), (shared, others) in pairs:
        assert shared["metrics"]["kept"] == alone["metrics"]["kept"]
        assert shared["metrics"]["phase1_steps"] == alone["metrics"]["phase1_steps"]
        assert shared["vision_ids"] == alone["vision_ids"]
        assert shared["metrics"]["val_accuracy"] == pytest.approx(alone["metrics"]["val_accuracy"], abs=9)
        np.testing.assert_allclose(shared["metrics"]["curves"]["loss"], alone["metrics"]["curves"]["loss"], atol=5e-3)
        assert experts.keys() == others.keys()
        for name in experts:
            np.testing.assert_allclose(others[name], experts[name], atol=5e-2)


@pytest.mark.parametrize(
    ("fault", "first", "second"),
    [
        ("raise", "another process of this run ended", "the disk of this machine went away"),
        ("drift", "the processes do not agree on which experts", "the processes do not agree on which experts"),
    ],
)
def test_a_process_whose_partner_fails_ends_by_itself_and_says_so(
    tasks: Path, tmp_path: Path, fault: str, first: str, second: str
) -> None:
    model = tmp_path / "model"
    module = command(model, tasks)[3:]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [*FAULTY, *module],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "FAULT": fault},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 1]
    for text, expected in zip(errors, (first, second), strict=True):
        assert f"error: {expected}" in text
        assert "Traceback" not in text
    assert list((model / "tasks").iterdir()) == []
    assert ("Give the same command again" in errors[0]) == (fault == "raise")
    reached = load_checkpoint(model)  # whole, or this raises
    assert reached is not None
    assert reached[0]["step"] == 4 if fault == "raise" else reached[0]["step"] >= 4


def test_accelerate_that_starts_one_process_instead_of_two_is_told_how(tasks: Path, tmp_path: Path) -> None:
    module = command(tmp_path / "model", tasks)[1:]
    launched = accelerate("--cpu", "--num_processes", "2")
    one = subprocess.run([*launched, *module], capture_output=True, text=True, timeout=180)
    assert one.returncode == 1
    assert "error: accelerate was asked for several processes and started one" in one.stderr
    assert "--multi_gpu" in one.stderr
    assert not (tmp_path / "model").exists()


def test_a_process_that_fails_ends_all_and_its_cause_is_told_not_that_the_others_missed_it(
    tasks: Path, tmp_path: Path
) -> None:
    module = command(tmp_path / "model", tasks, "--num-processes", "2")[3:]
    failed = subprocess.run(
        [*FAULTY, *module], env={**os.environ, "FAULT": "raise"}, capture_output=True, text=True, timeout=180
    )
    assert failed.returncode == 1
    assert "error: process 1: the disk of this machine went away\n" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "another process" not in failed.stderr
    assert "SIGTERM" not in failed.stderr  # torch's own report


def test_a_batch_smaller_than_the_number_of_processes_is_refused() -> None:
    Ranks(count=2).check_batch(2)
    with pytest.raises(UserError, match="fewer processes"):
        Ranks(count=3).check_batch(2)


def test_the_parts_of_all_processes_are_the_whole_once() -> None:
    for count in (1, 2, 3, 5):
        parts = [list(Ranks(rank=rank, count=count).part(range(8))) for rank in range(count)]
        assert [item for part in parts for item in part] == list(range(8))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

"""Two processes learn what one learns: the same structure, the same accuracy, the same model on both of them."""

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
from igsp_train.ranks import Ranks

SETTINGS = [
    *("--set", "model.backbone=debug", "--set", "model.rank=2", "--set", "learn.num_candidates=2"),
    *("--set", "learn.steps=24", "--set", "learn.batch_size=9", "--set", "learn.checkpoint_every=4"),
    *("--set", "learn.warmup_steps=4", "--set", "data.val_share=0.25"),
]


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


def test_two_processes_learn_what_one_learns_and_go_on_after_a_kill(tasks: Path, tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "one", tasks), check=True, capture_output=True)
    together = command(tmp_path / "two", tasks, "--num-processes", "2")
    process = subprocess.Popen(together, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "two").glob(".inprogress/step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(together, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stderr
    assert "continuing after step" in again.stderr
    pairs = list(zip(learned(tmp_path / "one"), learned(tmp_path / "two"), strict=True))
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


def test_a_process_that_fails_ends_all_and_says_why(tasks: Path, tmp_path: Path) -> None:
    more = ("--set", "learn.learning_rate=1e30", "--num-processes", "2")
    failed = subprocess.run(command(tmp_path / "model", tasks, *more), capture_output=True, text=True, timeout=100)
    assert failed.returncode == 1
    assert "the loss became" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_batch_smaller_than_the_number_of_processes_is_refused() -> None:
    Ranks(count=2).check_batch(2)
    with pytest.raises(UserError, match="fewer processes"):
        Ranks(count=3).check_batch(2)


def test_the_parts_of_all_processes_are_the_whole_once() -> None:
    for count in (1, 2, 3, 5):
        parts = [list(Ranks(rank=rank, count=count).part(range(8))) for rank in range(count)]
        assert [item for part in parts for item in part] == list(range(8))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

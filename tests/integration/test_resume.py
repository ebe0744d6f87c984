"""`kill -9` at any moment, then the same command: no learned task is lost and the result is the uninterrupted one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SETTINGS = [
    *("--set", "model.backbone=debug", "--set", "model.rank=2", "--set", "learn.steps=60"),
    *("--set", "learn.batch_size=8", "--set", "learn.checkpoint_every=5", "--set", "learn.num_candidates=2"),
]


def write_task(root: Path, name: str, shade: int) -> None:
    """Three classes of noisy images, one colour each."""
    generator = np.random.default_rng(shade)
    for split, count in (("train", 8), ("test", 3)):
        for channel, colour in enumerate(("red", "green", "blue")):
            folder = root / name / split / colour
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 70, (32, 32, 3), dtype=np.uint8)
                pixels[..., channel] += np.uint8(shade)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def command(root: Path, model: Path) -> list[str]:
    tasks = [part for name in ("bright", "dark") for part in ("--task", f"{name}={root / name}")]
    return [sys.executable, "-m", "igsp_deploy.cli.main", "train", str(model), *tasks, *SETTINGS]


def numbers(model: Path) -> dict[str, bytes]:
    return {p.relative_to(model).as_posix(): p.read_bytes() for p in sorted(model.rglob("*.safetensors"))}


def learned_before_checkpoint(model: Path) -> set[int]:
    """For each checkpoint, the number of tasks that were learned when its task began."""
    found = set()
    for path in model.glob(".inprogress/step-*/state.json"):
        with contextlib.suppress(OSError, json.JSONDecodeError):  # it may be replaced while it is read
            found.add(int(json.loads(path.read_text())["learned"]))
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("tasks")
    write_task(root, "bright", 180)
    write_task(root, "dark", 90)
    subprocess.run(command(root, root / "model"), check=True, capture_output=True)
    return root, numbers(root / "model")


@pytest.mark.parametrize("moment", ["00-bright checkpoint", "01-dark checkpoint"])
def test_a_killed_run_ends_like_an_uninterrupted_one(
    uninterrupted: tuple[Path, dict[str, bytes]], tmp_path: Path, moment: str
) -> None:
    root, expected = uninterrupted
    model = tmp_path / "model"
    task = moment.split()[0]
    process = subprocess.Popen(
        command(root, model), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if int(task[:2]) in learned_before_checkpoint(model):
            break
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    learned = [p.name for p in (model / "tasks").iterdir() if not p.name.startswith(".")]
    assert learned == (["00-bright"] if task.startswith("01") else [])
    again = subprocess.run(command(root, model), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    if task.startswith("01"):
        assert "bright: already learned" in again.stderr
    assert "continuing after step" in again.stderr
    result = numbers(model)
    assert result.keys() == expected.keys()
    assert [name for name in expected if result[name] != expected[name]] == []

"""Where learning computes: what a word names, what is refused, and that nothing needs what a Mac's GPU has not."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import igsp_deploy as igsp_api
from igsp_deploy.errors import UsageError, UserError
from igsp_train.device import find_device
from igsp_train.precision import autocast
from igsp_train.ranks import ranks_of_this_process
from tests import pretend_device

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with so many GPUs, and one of a Mac or none."""

    def make(gpus: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU{number}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("word", "gpus", "mps", "device"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 2, False, "cuda"),
        ("auto", 0, True, "cpu"),  # nobody has run it: a Mac computes where it did, unless it is asked
        ("cpu", 2, True, "cpu"),
        ("cuda", 1, False, "cuda"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps"),
    ],
)
def test_a_word_names_a_device(machine: Machine, word: str, gpus: int, mps: bool, device: str) -> None:
    machine(gpus, mps)
    assert find_device(word) == torch.device(device)


@pytest.mark.parametrize(
    ("word", "gpus", "told"),
    [
        ("cuda", 0, "cuda: PyTorch sees no GPU here; .* Take --device cpu, or leave it out."),
        ("cuda:2", 2, r"cuda:2: this machine has 2 GPUs: cuda:0 \(GPU0\), cuda:1 \(GPU1\)"),
        ("mps", 1, "mps: needs a Mac with Apple silicon"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_what_is(machine: Machine, word: str, gpus: int, told: str) -> None:
    machine(gpus)
    with pytest.raises(UserError, match=told):
        find_device(word)


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "mps:0", "CPU", ""])
def test_another_word_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="the device must be auto, cpu, cuda, cuda:N or mps, got"):
        find_device(word)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "MODEL", "--task", "colors=DATA"],
        ["train", "MODEL", "--task", "colors=DATA", "--json"],
        ["train", "LEARNED", "--extend", "colors=DATA"],
        ["evaluate", "LEARNED"],
        ["report", "LEARNED", "--out", "OUT"],
        ["import", "MODEL", "colors", "ABSENT", "--data", "DATA"],
        ["data", "check", "--data-root", "DATA", "--zero-shot"],
    ],
    ids=lambda command: " ".join(command[:1]),
)
def test_every_command_that_computes_says_so_before_anything_else(
    igsp: Callable[..., Any],
    machine: Machine,
    bundled: Any,
    tmp_path: Path,
    command: list[str],
) -> None:
    machine()
    places = {"MODEL": tmp_path / "model", "LEARNED": bundled.model, "OUT": tmp_path / "report.html"}
    places |= {"ABSENT": tmp_path / "absent"}
    words = [str(places.get(word, word.replace("DATA", str(bundled.data / "colors")))) for word in command]
    done = igsp(*words, "--device", "cuda")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cuda: PyTorch sees no GPU here"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_python_api_takes_a_device(machine: Machine, bundled: Any) -> None:
    machine()
    model = igsp_api.Model.open(bundled.model)
    for call in (
        lambda: model.learn("x", bundled.data / "colors", device="mps"),
        lambda: model.extend("colors", bundled.data / "colors", device="mps"),
        lambda: model.evaluate(device="mps"),
    ):
        with pytest.raises(UserError, match="mps: needs a Mac"):
            call()


def test_a_device_where_nothing_computes_is_refused(igsp: Callable[..., Any], tmp_path: Path) -> None:
    done = igsp("data", "check", "--data-root", tmp_path, "--device", "cpu")
    assert done.returncode == 2
    assert "--device belongs to --zero-shot" in done.stderr


def test_several_processes_take_no_one_device(
    igsp: Callable[..., Any], task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", tmp_path / "model", "--task", f"colors={task_data / 'colors'}", "--num-processes", 2]
    done = igsp(*words, "--device", "cuda:1")
    assert done.returncode == 2
    assert "--device cuda:1 is one device, and 2 processes take a GPU each" in done.stderr
    monkeypatch.setenv("WORLD_SIZE", "3")  # as `accelerate launch` sets it
    with pytest.raises(UsageError, match="and 3 processes take a GPU each"), ranks_of_this_process("mps"):
        pass


def test_several_processes_share_the_cpu_where_they_are_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate  # type: ignore[import-untyped]

    asked = []

    class Seen(Exception):
        pass

    def state(*, cpu: bool, timeout: object) -> None:
        asked.append(cpu)
        raise Seen

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(accelerate, "PartialState", state)
    for gpus, word in ((2, "auto"), (2, "cpu"), (0, "auto")):
        machine(gpus)
        with contextlib.suppress(Seen), ranks_of_this_process(word):
            pass
    assert asked == [False, True, True]


def test_bf16_is_refused_where_pytorch_would_only_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    with autocast(torch.device("cpu"), "bf16"):
        assert torch.is_autocast_enabled("cpu")
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: contextlib.nullcontext())  # as where it has no bfloat16
    told = "learn.precision is bf16, and PyTorch has no bfloat16 for this cpu"
    with pytest.raises(UserError, match=told), autocast(torch.device("cpu"), "bf16"):
        pass


@pytest.fixture(scope="module")
def walks(task_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Path]]:
    """Operations of a walk through all that computes on the CPU and on the pretended device, and what it left."""
    import shutil

    done = {}
    for place in ("cpu", pretend_device.NAME):
        out = tmp_path_factory.mktemp(place)
        shutil.copytree(task_data, out / "data")
        command = [sys.executable, "-m", "tests.pretend_device", place, str(out / "data"), str(out)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        done[place] = int(run.stdout.split()[-1]), out
    return done


def test_all_that_computes_runs_on_a_device_without_float64(walks: dict[str, tuple[int, Path]]) -> None:
    """Learning, going on after a stop, pruning, penalties, a shortlist, a probe, extending, measuring, the report."""
    operations, out = walks[pretend_device.NAME]
    assert operations > 10_000, "it was computed elsewhere"
    assert walks["cpu"][0] == 0
    assert (out / "report.html").stat().st_size > 10_000


def test_it_learns_there_what_it_learns_on_the_cpu(walks: dict[str, tuple[int, Path]]) -> None:
    records = [
        [json.loads(path.read_text()) for path in sorted((out / "model" / "tasks").glob("*/task.json"))]
        for _, out in walks.values()
    ]
    assert len(records[0]) == len(records[1]) == 5
    for ours, theirs in zip(*records, strict=True):
        assert ours["name"] == theirs["name"]
        if "curves" in ours["metrics"]:
            here, there = (record["metrics"]["curves"]["loss"] for record in (ours, theirs))
            np.testing.assert_allclose(here, there, atol=1e-3)
            assert ours["metrics"]["kept"] == theirs["metrics"]["kept"]

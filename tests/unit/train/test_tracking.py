"""What a tracker is told: every step once, the task's figures, the settings; and nothing of it changes learning."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.tracking  # type: ignore[import-untyped]
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from igsp_deploy import Model
from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, RunConfig
from igsp_deploy.errors import UserError
from igsp_train import tracking
from igsp_train.ranks import Ranks
from igsp_train.sequence import train_sequence
from igsp_train.steps import StepReport
from igsp_train.tracking import Follower, followed

STEPS = 27


def config(task_data: Path, steps: int = STEPS) -> RunConfig:
    return RunConfig(
        model=ModelConfig(backbone="debug", rank=2, vision_blocks=1, text_blocks=1),
        learn=LearnConfig(steps=steps, batch_size=4, num_candidates=1, warmup_steps=1, checkpoint_every=3),
        data=DataConfig(val_share=0.4),
        tasks={"colors": str(task_data / "colors")},
    )


def told(model: Path, name: str, task: str = "colors") -> dict[int, float]:
    """Step -> value of a curve, as TensorBoard reads it."""
    events = EventAccumulator(str(model.with_name(f"{model.name}.tracking") / "tensorboard" / task))
    events.Reload()
    points = events.Scalars(name)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def numbers(model: Path) -> dict[str, bytes]:
    return {p.relative_to(model).as_posix(): p.read_bytes() for p in sorted(model.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def tracked(task_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("tracked") / "model"
    train_sequence(model, config(task_data), track=["tensorboard"])
    return model


def test_every_step_and_the_figures_of_the_task_are_told(tracked: Path) -> None:
    record = json.loads((tracked / "tasks" / "00-colors" / "task.json").read_text())
    curves = record["metrics"]["curves"]
    for name, curve in (("loss", "loss"), ("accuracy", "accuracy"), ("candidate_share", "mass")):
        points = told(tracked, name)
        assert list(points) == list(range(1, STEPS + 1))
        assert list(points.values()) == pytest.approx(curves[curve], abs=1e-4)
    looks = {look["step"]: look["accuracy"] for look in record["metrics"]["looks"]}
    assert told(tracked, "held_out_accuracy") == pytest.approx(looks)
    assert told(tracked, "final/val_accuracy") == {STEPS: record["metrics"]["val_accuracy"]}
    assert told(tracked, "final/kept_parameters") == {STEPS: record["kept_parameters"]}


def test_the_settings_are_told(tracked: Path) -> None:
    (settings,) = tracked.parent.rglob("hparams.yml")
    text = settings.read_text()
    assert f"learn.steps: {STEPS}" in text
    assert "model.backbone: debug" in text
    assert "task: colors" in text


def test_the_python_interface_tells_as_well(tracked: Path, task_data: Path, tmp_path: Path) -> None:
    settings = config(task_data)
    model = Model.create(tmp_path / "model", backbone="debug", rank=2, vision_blocks=1, text_blocks=1)
    learn: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": 4,
        "num_candidates": 1,
        "warmup_steps": 1,
        "checkpoint_every": 3,
    }
    model.learn("colors", settings.tasks["colors"], data={"val_share": 0.4}, track=["tensorboard"], **learn)
    assert told(tmp_path / "model", "loss") == told(tracked, "loss")


def test_nothing_of_it_is_in_the_model_and_learning_is_the_same_to_the_bit(
    tracked: Path, task_data: Path, tmp_path: Path
) -> None:
    train_sequence(tmp_path / "model", config(task_data))
    assert numbers(tmp_path / "model") == numbers(tracked)
    files = [{p.relative_to(m) for p in m.rglob("*")} for m in (tracked, tmp_path / "model")]
    assert files[0] == files[1]
    assert not (tmp_path / "model.tracking").exists()


def test_a_run_that_goes_on_goes_on_with_its_steps(tracked: Path, task_data: Path, tmp_path: Path) -> None:
    model, asked = tmp_path / "model", iter(range(100))

    def stop() -> bool:
        if next(asked) == 7:  # as if killed: after step 8, the last checkpoint is of step 6
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train_sequence(model, config(task_data), track=["tensorboard"], stop=stop)
    assert max(told(model, "loss")) == 8
    train_sequence(model, config(task_data), track=["tensorboard"])
    assert told(model, "loss") == told(tracked, "loss")


def test_only_the_first_process_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task_data: Path) -> None:
    class Reached(Exception):
        pass

    def stop_there(kinds: Any, *_: Any) -> None:
        raise Reached(list(kinds))

    monkeypatch.setattr("igsp_train.sequence.check_trackers", stop_there)
    for rank, kinds in ((0, "['wandb']"), (1, r"\[\]")):
        with pytest.raises(Reached, match=kinds.replace("['", r"\['").replace("']", r"'\]")):
            train_sequence(tmp_path / "m", config(task_data), track=["wandb"], ranks=Ranks(rank=rank, count=2))


def test_a_missing_package_is_said_before_anything_is_learned(
    igsp: Callable[..., Any], task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name in ("wandb", "mlflow") else there(name))
    words = ["train", tmp_path / "model", "--task", f"colors={task_data / 'colors'}"]
    for kind in ("wandb", "mlflow"):
        for more in ([], ["--json"], ["--num-processes", "2"]):
            done = igsp(*words, "--track", "tensorboard", "--track", kind, *more)
            assert done.returncode == 1
            assert done.stderr.strip() == (
                f"error: --track {kind} needs a package that is not installed: pip install {kind}"
            )
    assert list(tmp_path.iterdir()) == []
    done = igsp(*words, "--track", "paper")
    assert done.returncode == 2
    assert "--track must be one of tensorboard, wandb, mlflow, got 'paper'" in done.stderr


def test_a_tracker_that_cannot_begin_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.tracking").write_text("in the way")
    settings = RunConfig(tasks={"colors": "x"})
    report = StepReport(step=1, steps=2, phase=1, loss=1.0, accuracy=0.5, new_share=1.0, frozen_in_use=0, candidates=1)
    with (
        pytest.raises(UserError, match=r"--track tensorboard could not begin \(.*Set that right, or leave --track out"),
        followed(["tensorboard"], tmp_path / "model", "colors", settings) as follower,
    ):
        follower.step(report)


def test_a_tracker_that_fails_on_the_way_is_told_and_learning_goes_on_without_it(
    tracked: Path, task_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, model = accelerate.tracking.TensorBoardTracker.log, tmp_path / "model"

    def failing(self: Any, values: dict[str, Any], step: int) -> None:
        if step == 10:
            raise OSError("no space left")
        log(self, values, step=step)

    monkeypatch.setattr(accelerate.tracking.TensorBoardTracker, "log", failing)
    with pytest.raises(UserError, match=r"--track tensorboard failed after step 10 \(no space left\)\. .*same command"):
        train_sequence(model, config(task_data), track=["tensorboard"])
    train_sequence(model, config(task_data))
    assert numbers(model) == numbers(tracked)


@pytest.mark.parametrize(("kind", "name"), [("wandb", "WandBTracker"), ("mlflow", "MLflowTracker")])
def test_the_others_get_the_model_and_the_task_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, name: str
) -> None:
    """With a stand-in for accelerate's class: neither package is among those of the tests."""
    seen: list[tuple[Any, ...]] = []

    class StandIn:
        def __init__(self, project: str, **options: Any) -> None:
            seen.append((project, options))

        def start(self) -> None:
            pass

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            seen.append((values["task"], values["learn.steps"]))

        def log(self, values: dict[str, Any], step: int) -> None:
            seen.append((values["loss"], step))

        def finish(self) -> None:
            seen.append(("end",))

    monkeypatch.setattr(accelerate.tracking, name, StandIn)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://nowhere")
    follower = Follower([kind, kind], tmp_path / "model", "colors", RunConfig(tasks={"colors": "x"}))
    report = StepReport(step=4, steps=9, phase=1, loss=1.5, accuracy=0.5, new_share=1.0, frozen_in_use=0, candidates=1)
    follower.step(report)
    follower.end()
    assert seen[0][0] == "model"
    assert "colors" in seen[0][1].values()
    assert seen[1:] == [("colors", 200), (1.5, 4), ("end",)]

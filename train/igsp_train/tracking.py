"""Following learning elsewhere: TensorBoard, Weights & Biases or MLflow, through the trackers of accelerate.

A task is a run, its steps are numbered from 1. What is written lies beside the model folder, in `MODEL.tracking`.
"""

import dataclasses
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from igsp_deploy.config import RunConfig
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.installed import install_command
from igsp_deploy.model.record import TaskRecord
from igsp_train.steps import LOOK_EVERY, StepReport

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
"""Tracker -> packages one of which it needs; the first is what to install."""
FIGURES = ("val_accuracy", "val_zero_shot", "head_weight", "temperature", "experts_new", "experts_reused", "seconds")
"""What is told of a learned task, from its metrics."""


def check_trackers(kinds: Sequence[str]) -> None:
    """Refuse what cannot be tracked with, before anything is learned.

    Raises:
        UsageError: another word than those of `PACKAGES`.
        UserError: a package is missing; says what to type.
    """
    for kind in kinds:
        if kind not in PACKAGES:
            raise UsageError(f"--track must be one of {', '.join(PACKAGES)}, got {kind!r}.")
        if find_spec("accelerate") is None:
            raise UserError(f"--track needs accelerate: {install_command('train')}")
        if all(find_spec(package) is None for package in PACKAGES[kind]):
            raise UserError(f"--track {kind} needs a package that is not installed: pip install {PACKAGES[kind][0]}")


class Follower:
    """Tells trackers of one task. They begin at its first step."""

    def __init__(self, kinds: Sequence[str], model_path: Path, task: str, config: RunConfig) -> None:
        """Nothing is written yet.

        Args:
            kinds: words of `PACKAGES`; none of them is told nothing.
            model_path: the model folder.
            task: name of the task, and of its runs.
            config: settings of the run, which trackers show beside it.
        """
        self._kinds = tuple(dict.fromkeys(kinds))
        self._place = model_path.resolve().with_name(f"{model_path.resolve().name}.tracking")
        self._task, self._config = task, config
        self._trackers: list[Any] = []
        self._step = 0

    def step(self, report: StepReport) -> None:
        """Tell of a step.

        Raises:
            UserError: a tracker could not begin, or takes no more.
        """
        if not self._step:
            self._begin(report.step)
        self._step = report.step
        values = {"loss": report.loss, "accuracy": report.accuracy, "candidate_share": report.new_share}
        if report.held_out is not None and (report.step % LOOK_EVERY == 0 or report.step == report.steps):
            values["held_out_accuracy"] = report.held_out
        self._log({**values, "phase": report.phase})

    def learned(self, record: TaskRecord) -> None:
        """Tell of the task when it is learned."""
        figures = {name: record.metrics.get(name) for name in FIGURES} | {"kept_parameters": record.kept_parameters}
        self._log({f"final/{name}": value for name, value in figures.items() if value is not None})

    def end(self) -> None:
        """Let the trackers write what they hold."""
        for tracker in self._trackers:
            tracker.finish()

    def _log(self, values: dict[str, Any]) -> None:
        for tracker in self._trackers:
            try:
                tracker.log(values, step=self._step)
            except Exception as error:  # the network is gone, the disk is full
                raise UserError(
                    f"--track {tracker.name} failed after step {self._step} ({error}). Set that right, or leave "
                    "--track out, and give the same command again: learning goes on from the last checkpoint."
                ) from error

    def _begin(self, first_step: int) -> None:
        sections = dataclasses.asdict(self._config)
        sources = sections.pop("tasks")
        settings = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
        for kind in self._kinds:
            try:
                self._place.mkdir(parents=True, exist_ok=True)
                tracker = _tracker(kind, self._place, self._task, first_step)
                tracker.start()
                tracker.store_init_configuration({**settings, "task": self._task, "source": sources[self._task]})
            except Exception as error:  # whatever a service says: no key, no network, no place on the disk
                raise UserError(
                    f"--track {kind} could not begin ({error}). Set that right, or leave --track out."
                ) from error
            self._trackers.append(tracker)


def _tracker(kind: str, place: Path, task: str, first_step: int) -> Any:
    """One of accelerate's trackers, not begun."""
    from accelerate import PartialState, tracking  # type: ignore[import-untyped]

    PartialState(cpu=True)  # its logger asks for one; that of several processes is there already
    model = place.name.removesuffix(".tracking")
    if kind == "tensorboard":
        # Steps that an interrupted run had told of and that are taken again count once.
        return tracking.TensorBoardTracker(task, place / "tensorboard", purge_step=first_step)
    if kind == "wandb":
        return tracking.WandBTracker(model, name=task, dir=str(place))
    if "MLFLOW_TRACKING_URI" not in os.environ:
        importlib.import_module("mlflow").set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")
    return tracking.MLflowTracker(model, logging_dir=(place / "mlruns").as_uri(), run_name=task)


@contextmanager
def followed(kinds: Sequence[str], model_path: Path, task: str, config: RunConfig) -> Iterator[Follower]:
    """A `Follower` that ends however learning does."""
    follower = Follower(kinds, model_path, task, config)
    try:
        yield follower
    finally:
        follower.end()

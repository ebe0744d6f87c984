"""From a model folder and its evaluation to the values on the page."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.record import TaskRecord, count_experts
from igsp_train.convergence import THRESHOLD
from igsp_train.report.command import commands_to_repeat, learn_settings
from igsp_train.report.evaluation import Evaluation
from igsp_train.report.examples import Examples, Mistake
from igsp_train.report.places import without_folders
from igsp_train.report.sharing import TowerSharing, isolated_parameters, share_of_experts


@dataclass(frozen=True, kw_only=True)
class Curves:
    """How phase 1 and phase 2 of one task went, a value a step; empty where nothing was recorded.

    Attributes:
        movement: total variation of the mean gates over a window; None where the window was not full.
        mass: share of the gates that the candidates held.
        phase1_steps: steps of phase 1.
        steps: steps of both.
        threshold: movement under which phase 1 may end; None where it was not recorded.
        accuracy: share of right answers in each batch, by the words alone.
        looks: step, and the same on held-out images.
    """

    movement: list[float | None]
    mass: list[float]
    phase1_steps: int
    steps: int
    threshold: float | None
    accuracy: list[float] = dataclasses.field(default_factory=list)
    looks: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    @property
    def movement_at_pruning(self) -> float | None:
        """Movement of the routers at the last step of phase 1."""
        measured = [value for value in self.movement[: self.phase1_steps] if value is not None]
        return measured[-1] if measured else None

    @property
    def converged(self) -> bool | None:
        """Whether phase 1 ended because the routers had converged; None where that was not recorded."""
        moved = self.movement_at_pruning
        if self.threshold is None or not self.phase1_steps:
            return None
        return moved is not None and moved < self.threshold


FILES = 20
"""Files that a page names, of those of a task that were not used at one time."""


@dataclass(frozen=True, kw_only=True)
class NotUsed:
    """Files of a task that were not used.

    Attributes:
        when: when that was.
        count: all of them.
        first: the first `FILES`, place in the source and reason.
    """

    when: str
    count: int
    first: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class LearnedFacts:
    """One task; percentages in percent, sizes in bytes, times in seconds, None where nothing was recorded."""

    name: str
    classes: list[str]
    templates: list[str]
    test_images: int
    zero_shot: float | None
    given: float | None
    chosen: float | None
    all_classes: float | None
    right_task: float | None
    trained: int
    kept: int
    selector: int
    isolated: int | None
    experts_used: int
    experts_new: int
    seconds: float | None
    peak_rss_bytes: int | None
    peak_rss_of_process: bool
    peak_cuda_bytes: int | None
    curves: Curves
    examples: Examples
    not_used: list[NotUsed]
    warnings: list[str]

    @property
    def experts_reused(self) -> int:
        """Experts of earlier tasks that it uses."""
        return self.experts_used - self.experts_new


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page."""

    title: str
    model: str
    made: str
    version: str
    tasks: list[LearnedFacts]
    evaluation: Evaluation
    sharing: list[TowerSharing]
    backbone: dict[str, Any]
    settings: dict[str, dict[str, Any] | None]
    commands: list[str]
    worst: list[Mistake] | None


def gather(
    folder: ModelFolder,
    evaluation: Evaluation,
    examples: list[Examples],
    worst: list[Mistake] | None,
    *,
    title: str,
    made: str,
    version: str,
) -> ReportData:
    """Collect the values.

    Args:
        folder: the model, with at least one task.
        evaluation: of this model.
        examples: one entry a task.
        worst: mistakes of the evaluation; None where it has none of them.
        title: heading of the page.
        made: when the page is made, for people.
        version: of this project.
    """
    widths = {"vision": int(folder.identity["vision_width"]), "text": int(folder.identity["text_width"])}
    isolated = isolated_parameters(folder.tasks, folder.config, widths)
    tasks = []
    for record, (used, new), shown in zip(folder.tasks, count_experts(folder.tasks), examples, strict=True):
        i, metrics = record.index, record.metrics
        tasks.append(
            LearnedFacts(
                name=record.name,
                classes=record.display_names,
                templates=record.templates,
                test_images=evaluation.test_images[i],
                zero_shot=evaluation.zero_shot[i],
                given=evaluation.given[-1][i],
                chosen=evaluation.auto[-1][i],
                all_classes=evaluation.open_last[i],
                right_task=evaluation.selector_accuracy[i],
                trained=record.trained_parameters,
                kept=record.kept_parameters,
                selector=record.selector_parameters,
                isolated=isolated[i] if isolated else None,
                experts_used=used,
                experts_new=new,
                seconds=metrics.get("seconds"),
                peak_rss_bytes=metrics.get("peak_rss_bytes"),
                peak_rss_of_process=bool(metrics.get("peak_rss_of_process")),
                peak_cuda_bytes=metrics.get("peak_cuda_bytes"),
                curves=_curves(record),
                examples=shown,
                not_used=_not_used(record, evaluation),
                warnings=list(metrics.get("warnings") or []),
            )
        )
    data = folder.tasks[0].data if all(r.data == folder.tasks[0].data for r in folder.tasks) else None
    return ReportData(
        title=title,
        model=folder.path.resolve().name,
        made=made,
        version=version,
        tasks=tasks,
        evaluation=evaluation,
        sharing=share_of_experts(folder.tasks),
        backbone=without_folders(folder.identity),
        settings={
            "model": without_folders(dataclasses.asdict(folder.config)),
            "selector": dataclasses.asdict(folder.selector_config),
            "learn": learn_settings(folder.tasks),
            "data": data,
        },
        commands=without_folders(commands_to_repeat(folder)),
        worst=worst,
    )


def _not_used(record: TaskRecord, evaluation: Evaluation) -> list[NotUsed]:
    kept = [("when it was learned", record.skipped)]
    kept += [("in the evaluation", evaluation.skipped[record.index])] if evaluation.skipped else []
    return [NotUsed(when=when, count=files.count, first=files.first[:FILES]) for when, files in kept if files.count]


def _curves(record: TaskRecord) -> Curves:
    metrics = record.metrics
    curves = metrics.get("curves") or {}
    phase1, learn = int(metrics.get("phase1_steps") or 0), metrics.get("learn") or {}
    movement = list(curves.get("movement", []))
    # The tracker gives exactly 1 until its window is full, at the start and again after pruning.
    measured: list[float | None] = []
    for start, end in ((0, phase1), (phase1, len(movement))):
        seen = False
        for value in movement[start:end]:
            seen = seen or value != 1.0
            measured.append(value if seen else None)
    return Curves(
        movement=measured,
        mass=list(curves.get("mass", [])),
        phase1_steps=phase1,
        steps=len(movement),
        threshold=learn.get("convergence_threshold", THRESHOLD) if learn else None,
        accuracy=list(curves.get("accuracy", [])),
        looks=[(int(look["step"]), float(look["accuracy"])) for look in metrics.get("looks", [])],
    )


def mean(values: list[float | None]) -> float | None:
    """Mean of what was measured; None if nothing was."""
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else None

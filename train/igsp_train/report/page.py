"""The page itself: a Jinja2 template with autoescape, its style inline, charts as SVG, pictures as `data:` texts."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from igsp_train.report.charts import calibration_chart, convergence_chart, growth_chart, learning_chart
from igsp_train.report.evaluation import ClassAnswers
from igsp_train.report.gather import LearnedFacts, ReportData, mean
from igsp_train.report.summary import about_phase1, in_short
from igsp_train.steps import LOOK_EVERY

_METRICS = (
    ("transfer", "Transfer", "on each task before it is learned: plain CLIP's ability for what is new"),
    ("average", "Average", "over all tasks at all times"),
    ("last", "Last", "over all tasks after the last one"),
)


_MOST_COLUMNS = 40
"""Classes of a task whose confusion is drawn as a table."""


def render(data: ReportData) -> str:
    """The HTML of the page. Names, classes and the title are data: whatever is in them is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, number=_number, size=_size, duration=_duration, value=_value)
    files = resources.files("igsp_train.report")
    template = environment.from_string((files / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        data=data,
        tasks=data.tasks,
        style=Markup((files / "style.css").read_text(encoding="utf-8")),
        in_short=in_short(data),
        cards=_cards(data),
        metrics=_METRICS,
        matrices=(
            ("given", "Task given", data.evaluation.given),
            ("auto", "Task chosen by the selector", data.evaluation.auto),
        ),
        seen=_seen(data),
        growth=growth_chart([t.kept for t in data.tasks], _isolated(data.tasks)),
        look_every=LOOK_EVERY,
        learning=[
            (task, learning_chart(task.name, task.curves.accuracy, task.curves.looks))
            for task in data.tasks
            if task.curves.looks
        ],
        convergence=_convergence(data.tasks),
        confusions=_confusions(data),
        calibrations=[
            (task, calibration_chart(task.name, one.bins, one.ece))
            for task, one in zip(data.tasks, data.evaluation.calibration, strict=False)
        ],
        about_phase1=about_phase1(data),
        longest=max([t.seconds or 0 for t in data.tasks]),
        largest=max([t.peak_rss_bytes or 0 for t in data.tasks]),
        any_cuda=any(t.peak_cuda_bytes is not None for t in data.tasks),
        any_memory=any(t.peak_rss_bytes is not None for t in data.tasks),
        of_process=any(t.peak_rss_of_process for t in data.tasks),
    )


def _cards(data: ReportData) -> list[tuple[str, str, str]]:
    """Figure, what it is, and what it stands beside."""
    tasks = data.tasks
    kept, isolated = sum(t.kept for t in tasks), _isolated(tasks)
    separate = f"{_number(sum(isolated))} as isolated experts" if isolated else "beside the frozen CLIP"
    return [
        (_percent(mean([t.given for t in tasks])), "right, task given (%)", _beside(tasks)),
        (_percent(mean([t.chosen for t in tasks])), "right, task chosen (%)", "the selector finds the task"),
        (_percent(mean([t.right_task for t in tasks])), "given to the right task (%)", "by the selector"),
        (_number(kept), "parameters added", separate),
    ]


def _seen(data: ReportData) -> list[tuple[str, int, float | None]]:
    """After each task: its name, the classes learned by then, and the mean accuracy of the tasks by then among them."""
    classes, rows = 0, []
    for j, task in enumerate(data.tasks):
        classes += len(task.classes)
        rows.append((task.name, classes, mean(data.evaluation.class_incremental[j][: j + 1])))
    return rows


Line = tuple[str, list[int]]
"""A class, and how many of its images were taken for each class."""


def _confusions(data: ReportData) -> list[tuple[LearnedFacts, list[ClassAnswers], list[Line]]]:
    """Of each task: its classes, the worst first, and a line for each; no lines where a page has no room for them."""
    result = []
    for task, rows in zip(data.tasks, data.evaluation.per_class, strict=False):
        place = {row.label: index for index, row in enumerate(rows)}
        matrix = [[0] * len(rows) for _ in rows]
        for i, row in enumerate(rows):
            for name, images in row.taken_for:
                matrix[i][place[name]] = images
            matrix[i][i] = row.images - sum(matrix[i])
        worst = sorted(rows, key=lambda row: 101 if row.recall is None else row.recall)
        lines = list(zip(place, matrix, strict=True)) if len(rows) <= _MOST_COLUMNS else []
        result.append((task, worst, lines))
    return result


def _beside(tasks: Sequence[LearnedFacts]) -> str:
    return f"{_percent(mean([t.zero_shot for t in tasks]))} by plain CLIP"


def _isolated(tasks: Sequence[LearnedFacts]) -> list[int] | None:
    values = [t.isolated for t in tasks if t.isolated is not None]
    return values if len(values) == len(tasks) else None


def _convergence(tasks: Sequence[LearnedFacts]) -> list[tuple[LearnedFacts, Markup]]:
    """A chart for each task with curves, all to the same scale."""
    drawn = [task for task in tasks if task.curves.steps]
    values = [v for task in drawn for v in (*task.curves.movement, *task.curves.mass) if v is not None]
    highest = next((step for step in (0.1, 0.2, 0.4, 0.6, 0.8) if max(values, default=0) <= step), 1.0)
    return [
        (
            task,
            convergence_chart(
                task.name,
                task.curves.movement,
                task.curves.mass,
                task.curves.phase1_steps,
                highest,
                task.curves.threshold,
            ),
        )
        for task in drawn
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "–"
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)

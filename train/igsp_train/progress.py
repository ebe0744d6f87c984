"""Progress on stderr: a bar with loss, gate mass and experts kept on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from igsp_train.steps import Reporter, StepReport

LINE_EVERY_S = 15.0
"""Seconds between lines when stderr is not a terminal."""


def _describe(name: str, report: StepReport) -> str:
    phase = "identify" if report.phase == 1 else "fine-tune"
    held_out = "" if report.held_out is None else f"held out {report.held_out:.2f} "
    return (
        f"{name} {phase}: loss {report.loss:.3f} acc {report.accuracy:.2f} {held_out}"
        f"new experts' share {report.new_share:.2f} experts {report.frozen_in_use} reused + {report.candidates} new"
    )


@contextmanager
def step_progress(console: Console, name: str, steps: int, done: int) -> Iterator[Reporter]:
    """Yield a reporter for one task's steps, of which `done` were taken before."""
    if not console.is_terminal:
        last = time.monotonic()

        def line(report: StepReport) -> None:
            nonlocal last
            if report.step == steps or time.monotonic() - last > LINE_EVERY_S:
                last = time.monotonic()
                console.print(
                    f"[{report.step}/{steps}] {_describe(name, report)}", markup=False, highlight=False, soft_wrap=True
                )

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(name, total=steps, completed=done)

        def advance(report: StepReport) -> None:
            bars.update(bar, completed=report.step, description=_describe(name, report))

        yield advance

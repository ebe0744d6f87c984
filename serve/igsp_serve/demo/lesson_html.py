"""How far a lesson is, as HTML."""

from collections.abc import Sequence
from html import escape

from igsp_serve.demo.curves import curve_svg
from igsp_serve.demo.lesson import Lesson

PARTS = (
    ("starting", "Read images"),
    ("learning", "Learn"),
    ("exporting", "Export and check"),
    ("adding", "Add to the model"),
    ("measuring", "Measure all tasks"),
)
OLD_SHOWN = 4
"""Lessons that are over and still shown."""


def lessons_html(lessons: Sequence[Lesson]) -> str:
    """The lesson that runs, those that wait, and the last ones that are over."""
    running = [lesson for lesson in lessons if not lesson.over and lesson.stage != "waiting"]
    waiting = [lesson for lesson in lessons if lesson.stage == "waiting"]
    over = [lesson for lesson in lessons if lesson.over][-OLD_SHOWN:][::-1]
    parts = [_running(lesson) for lesson in running]
    if waiting:
        names = ", ".join(escape(lesson.task) for lesson in waiting)
        parts.append(f'<p class="igsp-note">Waiting: {names}. One task is learned at a time.</p>')
    parts += [_over(lesson) for lesson in over]
    if not parts:
        return '<p class="igsp-hint">Nothing is being learned. What you start here goes on if you close the page.</p>'
    return f'<div class="igsp-lessons">{"".join(parts)}</div>'


def _running(lesson: Lesson) -> str:
    names = [name for name, _ in PARTS]
    now = names.index(lesson.stage) if lesson.stage in names else 0
    steps = []
    for number, (_, text) in enumerate(PARTS):
        state = "done" if number < now else "now" if number == now else "later"
        current = ' aria-current="step"' if number == now else ""
        steps.append(f'<li class="igsp-{state}"{current}>{text}</li>')
    last = lesson.reports[-1] if lesson.reports else {}
    step = int(last.get("step", 0))
    share = 100 * step / lesson.steps
    body = ""
    if lesson.reports:
        border = next((int(r["step"]) - 1 for r in lesson.reports if r["phase"] == 2), None)
        phase = (
            "Phase 1, identify: which experts of earlier tasks help here?"
            if last["phase"] == 1
            else "Phase 2, fine-tune: the new experts learn what the old ones cannot say."
        )
        experts = f"{last['frozen_in_use']} experts reused, {last['candidates']} new"
        curves = [
            curve_svg("Loss", [r["loss"] for r in lesson.reports], lesson.steps, border=border),
            curve_svg("Right answers", [r["accuracy"] for r in lesson.reports], lesson.steps, top=1.0, border=border),
            curve_svg(
                "Share of new experts",
                [r["new_share"] for r in lesson.reports],
                lesson.steps,
                top=1.0,
                border=border,
            ),
        ]
        body = f'<p class="igsp-note">{phase} {experts}.</p><div class="igsp-curves">{"".join(curves)}</div>'
    return (
        f'<section class="igsp-lesson" aria-label="Lesson {escape(lesson.task)}">'
        f"<h3>Learning <b>{escape(lesson.task)}</b>: {len(lesson.classes)} classes, {lesson.images} images</h3>"
        f'<ol class="igsp-stages">{"".join(steps)}</ol>'
        f'<div class="igsp-progress" role="progressbar" aria-label="Steps" aria-valuemin="0" '
        f'aria-valuemax="{lesson.steps}" aria-valuenow="{step}"><i style="--share:{share:.1f}%"></i></div>'
        f'<p class="igsp-note">step {step} of {lesson.steps}</p>{body}</section>'
    )


def _over(lesson: Lesson) -> str:
    name = f"<b>{escape(lesson.task)}</b>"
    if lesson.stage == "cancelled":
        return f'<p class="igsp-over">{name} was cancelled; nothing of it is left.</p>'
    if lesson.stage == "failed":
        text = f"was not learned: {escape(lesson.message)} The model is as it was."
        return f'<p class="igsp-problem" role="alert">{name} {text}</p>'
    result = lesson.result
    before, after = result.get("val_zero_shot"), result.get("val_accuracy")
    if before is None or after is None:
        gain = ""
    else:
        gain = f" Held-out images right: {before:.0f} % before, {after:.0f} % now."
    experts = f" {result.get('experts_reused', 0)} experts reused, {result.get('experts_new', 0)} new."
    kept = (
        f" To have it after a restart, start with the bundle {escape(result['bundle'])}." if "bundle" in result else ""
    )
    note = f" {escape(lesson.message)}" if lesson.message else ""
    return f'<p class="igsp-good" role="status">{name} is learned and can be asked for.{gain}{experts}{kept}{note}</p>'

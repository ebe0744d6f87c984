"""What the model has learned, as HTML."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from igsp_deploy.bundle.manifest import BundleTask

CLASSES_SHOWN = 30
COLORS = 8
"""Colours of tasks in the style sheet; they repeat."""


def timeline_html(tasks: Sequence[BundleTask]) -> str:
    """The tasks in the order they were learned, in one line."""
    items = "".join(
        f'<li><span class="igsp-number igsp-color-{number % COLORS}">{number + 1}</span> {escape(task.name)} '
        f"<small>{len(task.classes)} classes</small></li>"
        for number, task in enumerate(tasks)
    )
    return f'<ol class="igsp-timeline" aria-label="Tasks in the order they were learned">{items}</ol>'


def tasks_html(
    tasks: Sequence[BundleTask], pictures: Mapping[str, Sequence[tuple[str, str]]], evaluation: dict[str, Any] | None
) -> str:
    """A card a task: classes, example images, accuracy after learning and now."""
    cards = []
    known = evaluation["tasks"] if evaluation else []
    for number, task in enumerate(tasks):
        shown = pictures.get(task.name, ())
        images = "".join(
            f'<img src="{url}" alt="{escape(label)}" title="{escape(label)}" width="56" height="56">'
            for label, url in shown
        )
        classes = ", ".join(escape(name) for name in task.classes[:CLASSES_SHOWN])
        if len(task.classes) > CLASSES_SHOWN:
            classes += f" and {len(task.classes) - CLASSES_SHOWN} more"
        accuracy = ""
        if evaluation and task.name in known:
            i = known.index(task.name)
            accuracy = _accuracy(evaluation, i)
        cards.append(
            f'<li class="igsp-card"><h3><span class="igsp-number igsp-color-{number % COLORS}">{number + 1}</span> '
            f"{escape(task.name)} <small>{len(task.classes)} classes</small></h3>"
            + (f'<div class="igsp-pictures">{images}</div>' if images else "")
            + f'<p class="igsp-classes">{classes}</p>{accuracy}</li>'
        )
    return f'<ol class="igsp-cards">{"".join(cards)}</ol>'


def _accuracy(evaluation: dict[str, Any], i: int) -> str:
    zero = evaluation.get("zero_shot")
    after, now = evaluation["given"][i][i], evaluation["given"][-1][i]
    lost = after - now
    verdict = "nothing forgotten" if lost <= 0 else f"{lost:.1f} points lost"
    before = f"<div><dt>plain CLIP</dt><dd>{zero[i]:.0f} %</dd></div>" if zero else ""
    return (
        f'<dl class="igsp-figures">{before}<div><dt>when learned</dt><dd>{after:.0f} %</dd></div>'
        f'<div><dt>now</dt><dd>{now:.0f} %</dd></div></dl><p class="igsp-verdict">{verdict}</p>'
    )


def matrix_html(evaluation: dict[str, Any] | None, how: str) -> str:
    """Accuracy on every task after every task, with the task given; below it what choosing costs."""
    if evaluation is None:
        return f'<p class="igsp-hint">{escape(how)}</p>'
    names = evaluation["tasks"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for j, learned in enumerate(names):
        cells = []
        for i, value in enumerate(evaluation["given"][j]):
            kind = "igsp-known" if i <= j else "igsp-unseen"
            cells.append(f'<td class="{kind}" style="--share:{value:.0f}%">{value:.0f}</td>')
        rows.append(f'<tr><th scope="row">after {escape(learned)}</th>{"".join(cells)}</tr>')
    auto = "".join(f"<td>{value:.0f}</td>" for value in evaluation["auto"][-1])
    rows.append(f'<tr class="igsp-auto"><th scope="row">now, task chosen by the model</th>{auto}</tr>')
    return (
        '<div class="igsp-scroll" tabindex="0" role="region" aria-label="Accuracy of each task after each task">'
        '<table class="igsp-matrix"><caption>Percent of test images right, the task given. Grey: not yet learned, '
        "plain CLIP answers. A column stays what it is once its task is learned: nothing is forgotten.</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def sharing_html(tasks: Sequence[BundleTask], shared: Mapping[str, Mapping[str, int]]) -> str:
    """Whose experts each task uses."""
    order = {task.name: number for number, task in enumerate(tasks)}
    largest = max((sum(shared.get(task.name, {}).values()) for task in tasks), default=1) or 1
    rows = []
    for task in tasks:
        counts = shared.get(task.name, {})
        total, own = sum(counts.values()), counts.get(task.name, 0)
        parts = "".join(
            f'<i class="igsp-color-{order.get(of, COLORS - 1) % COLORS}" style="--share:{100 * n / largest:.1f}%" '
            f'title="{n} of {escape(of)}"></i>'
            for of, n in counts.items()
        )
        others = ", ".join(f"{n} of {escape(of)}" for of, n in counts.items() if of != task.name)
        reused = f"; reused: {others}" if others else ""
        rows.append(
            f"<li><span>{escape(task.name)}</span><span>{total} experts, {own} new{reused}</span>"
            f'<div class="igsp-stack" aria-hidden="true">{parts}</div></li>'
        )
    return f'<ol class="igsp-sharing">{"".join(rows)}</ol>'


def sizes_html(sizes: Mapping[str, int], count: int) -> str:
    """This model beside one network for each task."""
    ours, theirs = sizes["network"] + sizes["tasks"], sizes["one_network_a_task"]
    rows = []
    for text, size in (
        (f"This model: one network and {count} tasks", ours),
        (f"One network for each of {count} tasks", theirs),
    ):
        share = 100 * size / max(ours, theirs, 1)
        rows.append(
            f'<li><span>{text}</span><span>{size / 1e6:,.1f} MB</span><i style="--share:{share:.1f}%"></i></li>'
        )
    added = sizes["tasks"] / 1e6
    return (
        f'<ol class="igsp-bars">{"".join(rows)}</ol><p class="igsp-note">All {count} tasks together add '
        f"{added:,.2f} MB to the network, which is never changed.</p>"
    )

"""An answer as HTML: the label, what it was compared with, and why this task."""

import base64
from html import escape

from igsp_deploy.runtime.classifier import Prediction
from igsp_deploy.runtime.explain import Explanation
from igsp_serve.demo.ask import Answer, Question
from igsp_serve.failures import without_paths

NO_THRESHOLD = 1e29
"""Beyond it a task's evidence is infinite: it has no threshold."""


def answer_html(answer: Answer, question: Question) -> str:
    """The result of one image."""
    found = answer.found
    names = {"auto": "chosen by the model", "none": "not used"}
    how = names.get(question.task, "given by you")
    if found.task is not None:
        task = f"task <b>{escape(found.task)}</b>, {how}"
    elif question.task == "none":
        task = "plain CLIP, as you asked"
    else:
        task = "<b>no task</b> took the image, so plain CLIP answers"
    parts = [
        '<section class="igsp-answer" aria-label="Answer">',
        f'<p class="igsp-top"><strong>{escape(found.labels[0])}</strong> <span>{_percent(found.scores[0])}</span></p>',
        f'<p class="igsp-note">{task} · {answer.milliseconds:.0f} ms</p>',
        '<div class="igsp-columns">',
        bars_html("This model" if not found.zero_shot else "Plain CLIP", found),
    ]
    if not found.zero_shot:
        parts.append(bars_html("Plain CLIP, same labels", answer.plain, quiet=True))
    parts.append("</div>")
    if found.task_scores:
        parts.append(evidence_html(found))
    parts.append("</section>")
    return "".join(parts)


def bars_html(title: str, prediction: Prediction, *, quiet: bool = False) -> str:
    """Labels with their probabilities as bars."""
    rows = []
    several = len(set(prediction.label_tasks)) > 1
    for label, score, task in zip(prediction.labels, prediction.scores, prediction.label_tasks, strict=True):
        of = f" <small>{escape(task)}</small>" if several and task is not None else ""
        rows.append(
            f"<li><span>{escape(label)}{of}</span><span>{_percent(score)}</span>"
            f'<i style="--share:{100 * score:.1f}%"></i></li>'
        )
    kind = "igsp-bars igsp-quiet" if quiet else "igsp-bars"
    return f'<div><h3>{escape(title)}</h3><ol class="{kind}">{"".join(rows)}</ol></div>'


def evidence_html(prediction: Prediction) -> str:
    """For each task, whether it would take the image, best first."""
    scores = prediction.task_scores
    largest = max((abs(score) for score in scores.values() if abs(score) < NO_THRESHOLD), default=1.0) or 1.0
    rows = []
    for task, score in sorted(scores.items(), key=lambda item: (item[0] != prediction.task, -item[1])):
        # The root keeps small differences near the border visible beside large ones far from it.
        share = 50 * min(1.0, (abs(score) / largest) ** 0.5)
        side = "igsp-for" if score >= 0 else "igsp-against"
        value = "no limit" if abs(score) > NO_THRESHOLD else f"{score:+.1f}"
        chosen = ' aria-current="true"' if task == prediction.task else ""
        says = "chosen" if task == prediction.task else "above" if score >= 0 else "below"
        rows.append(
            f'<li{chosen}><span>{escape(task)}</span><span>{value} · {says}</span><i class="{side}" '
            f'style="--share:{share:.1f}%"></i></li>'
        )
    return (
        '<h3>Evidence for each task</h3><p class="igsp-note">How far above or below its own limit each task finds '
        "the image. The task with the nearest images is chosen if it is above its limit; else plain CLIP answers.</p>"
        f'<ol class="igsp-evidence">{"".join(rows)}</ol>'
    )


def explanation_html(explanation: Explanation, picture: bytes) -> str:
    """The parts an answer hangs on: the picture, a PNG, in the page itself, and what it shows."""
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    label = escape(explanation.label)
    shown = f"The image in grey, red where covering it makes {label} less likely, blue where it makes it more likely"
    return (
        f'<figure class="igsp-parts"><img src="{url}" alt="{shown}">'
        f"<figcaption>{escape(str(explanation))}</figcaption></figure>"
    )


def problem_html(text: str) -> str:
    """Something that the user can fix, where the answer would be. Places of this machine are left out."""
    return f'<p class="igsp-problem" role="alert">{escape(without_paths(text))}</p>'


def hint_html(text: str) -> str:
    """What to do next."""
    return f'<p class="igsp-hint">{escape(text)}</p>'


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

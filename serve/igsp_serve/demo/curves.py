"""Curves of a lesson as SVG: no script, no library, drawn in the page's own colours."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 120, 34, 18, 8
MAX_POINTS = 200


def curve_svg(title: str, values: Sequence[float], steps: int, *, top: float | None = None, border: int | None) -> str:
    """One curve over the steps.

    Args:
        title: what it shows.
        values: one a step taken.
        steps: steps in all: the right end.
        top: value at the upper end; the largest value by default.
        border: step after which phase 2 began, marked by a line.
    """
    high = top if top is not None else max([*values, 1e-9])
    every = max(1, len(values) // MAX_POINTS)
    smooth = _smooth(values)
    points = " ".join(
        f"{_x(step + 1, steps):.1f},{_y(min(smooth[step], high), high):.1f}" for step in range(0, len(values), every)
    )
    line = ""
    if border is not None:
        x = _x(border, steps)
        line = (
            f'<line class="igsp-border" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{x + 3:.1f}" y="{TOP + 9}">phase 2</text>'
        )
    last = f"{values[-1]:.2f}" if values else "no value yet"
    return (
        f'<figure class="igsp-curve"><figcaption>{escape(title)} <b>{last}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}, now {last}">'
        f'<path class="igsp-axis" d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - 4}"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{HEIGHT - BOTTOM}" text-anchor="end">0</text>'
        f'<text x="{WIDTH - 4}" y="{HEIGHT - 4}" text-anchor="end">step {steps}</text>'
        f'{line}<polyline class="igsp-line" points="{points}"/></svg></figure>'
    )


def _x(step: int, steps: int) -> float:
    return LEFT + (WIDTH - 4 - LEFT) * step / max(1, steps)


def _y(value: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * max(0.0, value) / high


def _smooth(values: Sequence[float]) -> list[float]:
    """Single batches jump; a moving average shows where it goes."""
    smooth: list[float] = []
    for value in values:
        smooth.append(value if not smooth else 0.8 * smooth[-1] + 0.2 * value)
    return smooth

"""Charts as inline SVG. Colours are the page's CSS variables, so they follow its light and dark; lines differ in their
dashes and marks too. Sizes fit a phone at 1:1."""

from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

WIDTH = 360
MOST_POINTS = 240
"""Points of a curve that are drawn; more cannot be told apart at this size."""


def growth_chart(kept: Sequence[int], isolated: Sequence[int] | None) -> Markup:
    """Parameters held after each task, beside as many isolated sets.

    Args:
        kept: what each task added.
        isolated: what each task would hold by itself; None where it is not known.
    """
    height, left, right, top, bottom = 230, 46, 12, 14, 34
    ours = _cumulative(kept)
    theirs = _cumulative(isolated) if isolated else []
    highest = _round_up(max([*ours, *theirs, 1]))
    count = len(ours)

    def x(index: float) -> float:
        return left + (WIDTH - left - right) * index / max(count, 1)

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * value / highest

    parts = [_grid(highest, left, WIDTH - right, y, _amount)]
    for index in _ticks(count, 10):
        parts.append(_text(x(index), height - bottom + 14, str(index), "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 4, "tasks learned", "middle"))
    for kind, values in (("b", theirs), ("a", ours)):
        if not values:
            continue
        points = [(x(0), y(0)), *((x(index + 1), y(value)) for index, value in enumerate(values))]
        parts.append(_line(points, kind))
        if count <= 30:
            parts += [_mark(px, py, kind) for px, py in points[1:]]
    last = f"{ours[-1]:,} parameters after {count} {'task' if count == 1 else 'tasks'}"
    beside = f", against {theirs[-1]:,} of isolated experts" if theirs else ""
    return _svg(height, f"Growth of the pool: {last}{beside}.", parts)


def convergence_chart(
    name: str,
    movement: Sequence[float | None],
    mass: Sequence[float],
    phase1_steps: int,
    highest: float,
    threshold: float | None,
) -> Markup:
    """Movement of the routers and mass of the candidates over the steps of one task.

    Args:
        name: of the task.
        movement: one value a step, None where it was not measured.
        mass: one value a step.
        phase1_steps: where pruning came.
        highest: upper end of the vertical axis, the same for all tasks.
        threshold: movement under which phase 1 may end.
    """
    height, left, right, top, bottom = 150, 34, 10, 18, 30
    steps = max(len(movement), len(mass), 2)

    def x(step: float) -> float:
        return left + (WIDTH - left - right) * step / steps

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * min(value, highest) / highest

    parts = [_grid(highest, left, WIDTH - right, y, lambda value: f"{value:.2g}")]
    if phase1_steps:
        at = x(phase1_steps)
        parts.append(Markup('<line class="cut" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(at, 6, y(0)))
        side = "start" if phase1_steps < 0.7 * steps else "end"
        parts.append(_text(at + (4 if side == "start" else -4), 14, f"pruned at step {phase1_steps}", side))
    if threshold is not None and threshold < highest:
        parts.append(
            Markup('<line class="limit" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>').format(
                left, WIDTH - right, y(threshold)
            )
        )
    for kind, curve in (("b", list(mass)), ("a", list(movement))):
        for stretch in _stretches(curve):
            parts.append(_line([(x(step + 1), y(value)) for step, value in _thin(stretch)], kind))
    for step in (0, steps // 2, steps):
        parts.append(_text(x(step), height - bottom + 14, str(step), "end" if step == steps else "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 2, "steps", "middle"))
    measured = [value for value in movement[:phase1_steps] if value is not None]
    moved = f"routers moved {measured[-1]:.3f} at the end of phase 1" if measured else "no movement was recorded"
    held = f", candidates then held {mass[phase1_steps - 1]:.0%} of the gates" if 0 < phase1_steps <= len(mass) else ""
    return _svg(height, f"{name}: {moved}{held}.", parts)


def learning_chart(name: str, accuracy: Sequence[float], looks: Sequence[tuple[int, float]]) -> Markup:
    """Right answers while learning, on the batches and on the images that are not learned from.

    Args:
        name: of the task.
        accuracy: share of right answers in the batch of each step.
        looks: step, and share of right answers on held-out images.
    """
    height, left, right, top, bottom = 150, 34, 10, 12, 30
    steps = max(len(accuracy), *(step for step, _ in looks), 2)

    def x(step: float) -> float:
        return left + (WIDTH - left - right) * step / steps

    def y(share: float) -> float:
        return height - bottom - (height - top - bottom) * share

    parts = [_grid(1.0, left, WIDTH - right, y, lambda value: f"{100 * value:.0f}")]
    smooth = [sum(part) / len(part) for end in range(len(accuracy)) if (part := accuracy[max(0, end - 9) : end + 1])]
    if smooth:
        parts.append(_line([(x(step + 1), y(share)) for step, share in _thin(list(enumerate(smooth)))], "b"))
    points = [(x(step), y(share)) for step, share in looks]
    parts += [_line(points, "a"), *(_mark(px, py, "a") for px, py in points)]
    for step in (0, steps // 2, steps):
        parts.append(_text(x(step), height - bottom + 14, str(step), "end" if step == steps else "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 2, "steps", "middle"))
    return _svg(
        height, f"{name}: {looks[-1][1]:.0%} of the held-out images were right after {looks[-1][0]} steps.", parts
    )


def calibration_chart(name: str, bins: Sequence[Sequence[float]], error: float) -> Markup:
    """How often the answers of a probability are right, beside the line on which both are the same.

    Args:
        name: of the task.
        bins: `[images, mean probability, share that was right]`, the last two in percent.
        error: expected calibration error, in points.
    """
    height, left, right, top, bottom = 200, 34, 10, 12, 32

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * value / 100

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * value / 100

    parts = [_grid(100, left, WIDTH - right, y, lambda value: f"{value:.0f}")]
    parts.append(_line([(x(0), y(0)), (x(100), y(100))], "b"))
    points = [(x(probability), y(share)) for _, probability, share in bins]
    parts += [_line(points, "a"), *(_mark(px, py, "a") for px, py in points)]
    for value in (0, 50, 100):
        parts.append(_text(x(value), height - bottom + 14, str(value), "end" if value == 100 else "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 4, "probability of the answer (%)", "middle"))
    return _svg(height, f"{name}: probabilities are off by {error:.1f} points on average.", parts)


def _svg(height: int, what: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>')
    return head.format(WIDTH, height, what, what) + Markup("").join(parts) + Markup("</svg>")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))


def _line(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(kind, path)


def _mark(x: float, y: float, kind: str) -> Markup:
    if kind == "a":
        return Markup('<circle class="mark a" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(x, y)
    return Markup('<rect class="mark b" x="{:.1f}" y="{:.1f}" width="5" height="5"/>').format(x - 2.5, y - 2.5)


def _grid(
    highest: float, left: float, right: float, y: Callable[[float], float], label: Callable[[float], str]
) -> Markup:
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = y(share * highest)
        parts.append(Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>').format(left, right, at))
        parts.append(_text(left - 5, at + 3.5, label(share * highest), "end"))
    return Markup("").join(parts)


def _amount(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8, 10 times a power of ten: quarters of it are short numbers."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * power >= value)


def _cumulative(values: Sequence[int]) -> list[int]:
    total, result = 0, []
    for value in values:
        total += value
        result.append(total)
    return result


def _ticks(count: int, most: int) -> list[int]:
    stride = -(-count // most)
    return list(range(0, count + 1, max(stride, 1)))


def _stretches(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The measured stretches of a curve, as (step, value)."""
    result: list[list[tuple[int, float]]] = [[]]
    for step, value in enumerate(values):
        if value is None:
            result.append([])
        else:
            result[-1].append((step, value))
    return [stretch for stretch in result if stretch]


def _thin(stretch: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about `MOST_POINTS` points, with the last one."""
    stride = max(1, len(stretch) // MOST_POINTS)
    return [*stretch[:-1:stride], stretch[-1]]

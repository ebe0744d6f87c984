"""What the page says in plain words: only what its numbers say."""

from igsp_train.report.gather import ReportData, mean


def in_short(data: ReportData) -> list[str]:
    """A few sentences, the most important one first."""
    tasks = data.tasks
    count, classes = len(tasks), sum(len(task.classes) for task in tasks)
    learned = "one task" if count == 1 else f"{count} tasks, one after another"
    sentences = [f"This model learned {learned}: {classes} classes beside one frozen CLIP ({data.backbone['name']})."]
    given, before = mean([t.given for t in tasks]), mean([t.zero_shot for t in tasks])
    on_average = "" if count == 1 else "averaged over the tasks, "
    if given is not None:
        from_ = f", up from {before:.1f} % by plain CLIP" if before is not None else ""
        sentences.append(f"Told the task, it is right about {given:.1f} % of the test images{from_} ({on_average}now).")
    chosen, found = mean([t.chosen for t in tasks]), mean([t.right_task for t in tasks])
    if chosen is not None and found is not None:
        sentences.append(
            f"Left to find the task by itself, it is right about {chosen:.1f} %; "
            f"it gives {found:.1f} % of the images to the task they belong to."
        )
    among_all = mean([t.all_classes for t in tasks])
    if count > 1 and among_all is not None:
        sentences.append(f"With all {classes} classes as possible answers, it is right about {among_all:.1f} %.")
    if count > 1:
        sentences += [*_forgetting(data), *_growth(data)]
    return sentences


def _forgetting(data: ReportData) -> list[str]:
    """How far each task fell since it was learned, with the task given and with the task chosen."""
    result = []
    lost = _largest_loss(data.evaluation.given)
    if lost is not None:
        largest, _ = lost
        result.append(
            "Nothing was forgotten: with the task given, each is as accurate now as right after it was learned."
            if largest <= 0
            else f"With the task given, {data.tasks[lost[1]].name} lost most since it was learned: "
            f"{largest:.1f} points."
        )
    lost = _largest_loss(data.evaluation.auto)
    if lost is not None and lost[0] > 0:
        result.append(
            f"Where it must find the task, later tasks cost {data.tasks[lost[1]].name} {lost[0]:.1f} points, "
            "the most of all: with more tasks to choose from, the choice errs more."
        )
    return result


def _largest_loss(matrix: list[list[float | None]]) -> tuple[float, int] | None:
    losses = []
    for i, row in enumerate(matrix):
        then, now = row[i], matrix[-1][i]
        if then is not None and now is not None:
            losses.append((round(then - now, 2), i))
    return max(losses, key=lambda loss: loss[0]) if losses else None


def _growth(data: ReportData) -> list[str]:
    kept = sum(task.kept for task in data.tasks)
    isolated = [task.isolated for task in data.tasks if task.isolated is not None]
    separate = sum(isolated)
    first, last = data.tasks[0], data.tasks[-1]
    text = f"It added {kept:,} parameters to the CLIP"
    if len(isolated) == len(data.tasks) and separate:
        saved = 100 * (1 - kept / separate)
        than = f"{abs(saved):.0f} % {'less' if saved >= 0 else 'more'} than"
        text += f", {than} separate sets of experts of the same rank ({separate:,})"
    return [
        f"{text}: {first.name}, the first task, {first.kept:,}, and {last.name}, the last one, {last.kept:,}, "
        f"beside {last.experts_reused} experts that it reuses."
    ]


def about_phase1(data: ReportData) -> str:
    """How phase 1 ended, over all tasks."""
    ended = [task.curves.converged for task in data.tasks]
    moved = [task.curves.movement_at_pruning for task in data.tasks]
    if not any(value is not None for value in moved):
        return "The movement of the routers was not recorded for these tasks."
    average = mean(moved)
    text = f"At the end of phase 1 the routers still moved by {average:.3f} on average over one window."
    if None in ended:
        return f"{text} The threshold they had to fall under was not recorded when these tasks were learned."
    converged = ended.count(True)
    return (
        f"{text} In {converged} of {len(ended)} tasks phase 1 ended because they had fallen under the threshold; in "
        "the others it reached its greatest length first."
    )

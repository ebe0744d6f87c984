"""Mean and spread of finished runs, one row a method and setting."""

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table

from igsp_train.metrics import summary
from igsp_train.research.study.run import RunKey

Run = dict[str, Any]


def _metric(name: str, split: str = "test") -> Callable[[Run], float | None]:
    return lambda run: summary(np.array(run["accuracy"][split]))[name]


def _selector(way: str, name: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        report = run["details"][-1].get("selector")
        return None if report is None else float(report["metrics"][way][name])

    return read


def _selector_mean(key: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        report = run["details"][-1].get("selector")
        return None if report is None else float(np.mean(report[key]))

    return read


def _words_last(run: Run) -> float | None:
    found = run.get("words") or {}  # older runs lack it
    return float(np.mean(found["test"])) if found else None


def _bend(run: Run) -> float | None:
    kept = run["kept"]
    return sum(kept[-2:]) / max(sum(kept[:2]), 1) if len(kept) >= 4 else None


def _new_share(task: int, tower: str | None = None) -> Callable[[Run], float | None]:
    """Share of a task's candidates that stayed, in percent."""

    def read(run: Run) -> float | None:
        details = run["details"][task]
        towers = [details[t] for t in ("vision", "text") if t in details and tower in (None, t)]
        candidates = sum(t.get("candidates", 0) for t in towers)
        return 100 * sum(t["new"] for t in towers) / candidates if candidates else None

    return read


def _text_kept(run: Run) -> float | None:
    values = [_new_share(i, "text")(run) for i in range(1, len(run["order"]))]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _agreement(key: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        found = [details["agreement"][key] for details in run["details"] if "agreement" in details]
        return float(np.mean(found)) if found else None

    return read


def _phase1_steps(run: Run) -> float | None:
    found = [details["phase1_steps"] for details in run["details"] if "phase1_steps" in details]
    return float(np.mean(found)) if found else None


def _trained_mean(run: Run) -> float:
    """Numbers with gradient, mean over all steps of all tasks."""
    steps = run["learn"]["steps"]
    found = []
    for one, two, details in zip(run["trained_phase1"], run["trained_phase2"], run["details"], strict=True):
        share = details.get("phase1_steps", 0) / steps
        found.append(share * one + (1 - share) * two)
    return float(np.mean(found))


COLUMNS: dict[str, Callable[[Run], float | None]] = {
    "transfer": _metric("transfer"),
    "average": _metric("average"),
    "last": _metric("last"),
    "last_words": _words_last,
    "last_val": _metric("last", "val"),
    "backward_transfer": _metric("backward_transfer"),
    "forgetting": _metric("forgetting"),
    "trained_phase1": lambda run: float(np.mean(run["trained_phase1"])),
    "trained_phase2": lambda run: float(np.mean(run["trained_phase2"])),
    "trained_mean": _trained_mean,
    "kept": lambda run: float(sum(run["kept"])),
    "bend": _bend,
    "vocabulary_average": _selector("vocabulary", "average"),
    "vocabulary_last": _selector("vocabulary", "last"),
    "looks_average": _selector("looks", "average"),
    "looks_last": _selector("looks", "last"),
    "open_last": _selector_mean("open_last"),
    "right_task": _selector_mean("right_task"),
    "false_alarm": _selector_mean("false_alarm"),
    "unseen_left_to_plain": _selector_mean("unseen_left_to_plain"),
    "last_task_candidates_kept": _new_share(-1),
    "text_candidates_kept": _text_kept,
    "phase1_steps": _phase1_steps,
    "agreement": _agreement("at_end_of_phase1"),
    "agreement_by_chance": _agreement("by_chance"),
    "seconds": lambda run: float(sum(run["seconds"])),
}
"""Figure -> how it is read off one run; `LEGENDS` says what each is."""

LEGENDS = {
    "Task given": "Accuracies on the test images; last words: where tasks have a head, by the words alone; last val: "
    "on the held-out images. backward transfer: what a task is in the end less what it was when learned. forgetting: "
    "what a task was best at less what it is in the end. trained phase1, phase2, mean: numbers with gradient, a task "
    "on average, mean: over its steps too. kept: numbers in the end. bend: what the last two tasks added over what the "
    "first two did.",
    "Structure": "candidates kept: % of the new experts that stayed; text: of tasks after the first. agreement: "
    "overlap (Jaccard, %) of the set kept at the end of phase 1 with the one that routers trained to the end keep.",
    "Selector": "Accuracies as above, the task chosen: vocabulary: the label set is given and counts as evidence; "
    "looks: it is given, and the image alone decides; open: over all classes of all tasks. false alarm: learned images "
    "left to plain CLIP.",
}
"""What the columns of each table are, for those who read it."""

MAIN = (
    "transfer",
    "average",
    "last",
    "last_words",
    "last_val",
    "backward_transfer",
    "forgetting",
    "trained_phase1",
    "trained_phase2",
    "trained_mean",
    "kept",
    "bend",
    "seconds",
)
STRUCTURE = (
    "phase1_steps",
    "last_task_candidates_kept",
    "text_candidates_kept",
    "agreement",
    "agreement_by_chance",
)
SELECTOR = (
    "vocabulary_average",
    "vocabulary_last",
    "looks_average",
    "looks_last",
    "open_last",
    "right_task",
    "false_alarm",
    "unseen_left_to_plain",
)


def collect(runs: list[tuple[RunKey, Run]]) -> list[dict[str, Any]]:
    """One row a setting and method.

    Returns:
        Rows with `setting`, `method`, `runs`, `seeds`, `orders` and for each of `COLUMNS` `[mean, standard deviation]`
        over the runs (the deviation is 0 for a single one), or None where it was not measured.
    """
    groups: dict[tuple[str, str], list[tuple[RunKey, Run]]] = {}
    for key, run in runs:
        groups.setdefault((key.label, key.method), []).append((key, run))
    rows = []
    for (label, method), members in groups.items():
        row: dict[str, Any] = {
            "setting": label,
            "method": method,
            "runs": len(members),
            "seeds": len({key.seed for key, _ in members}),
            "orders": len({key.order for key, _ in members}),
        }
        for name, read in COLUMNS.items():
            values = [read(run) for _, run in members]
            known = [value for value in values if value is not None]
            spread = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
            row[name] = [round(float(np.mean(known)), 3), round(spread, 3)] if len(known) == len(values) else None
        rows.append(row)
    return rows


def make_table(rows: list[dict[str, Any]], columns: tuple[str, ...], title: str) -> Table:
    """A table for people: mean ± standard deviation over runs; parameters in thousands."""
    table = Table(title=title, title_justify="left")
    table.add_column("setting", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("seeds x orders", justify="right")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        cells = [_cell(name, row[name]) for name in columns]
        table.add_row(row["setting"], row["method"], f"{row['seeds']} x {row['orders']}", *cells)
    return table


def _cell(name: str, value: list[float] | None) -> str:
    if value is None:
        return "-"
    mean, spread = value
    if name.startswith("trained") or name == "kept":
        return f"{mean / 1000:,.0f}k ± {spread / 1000:,.0f}k"
    digits = 2 if name == "bend" else 0 if name == "seconds" else 1
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def csv_text(rows: list[dict[str, Any]]) -> str:
    """All figures, one row a setting and method: `NAME` the mean and `NAME_std` the deviation, empty where unknown."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*_IDENTITY, *(name for column in COLUMNS for name in (column, f"{column}_std"))])
    for row in rows:
        figures = [value for column in COLUMNS for value in (row[column] or ("", ""))]
        table.writerow([*(row[name] for name in _IDENTITY), *figures])
    return text.getvalue()


def latex_text(rows: list[dict[str, Any]], columns: tuple[str, ...] = MAIN) -> str:
    """The main table for a paper that uses the package booktabs; `runs` says how many the means are over."""
    head = ["setting", "method", "runs", *(name.replace("_", " ") for name in columns)]
    lines = [
        "% of igsp compare; mean $\\pm$ standard deviation over the runs",
        f"\\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
        "\\toprule",
        " & ".join(head) + " \\\\",
        "\\midrule",
    ]
    for row in rows:
        cells = [_cell(name, row[name]).replace("±", "$\\pm$") for name in columns]
        lines.append(" & ".join([_latex(row["setting"]), _latex(row["method"]), str(row["runs"]), *cells]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex(text: str) -> str:
    return re.sub(r"[\\{}&%$#_~^]", lambda found: _LATEX[found[0]], text)


_IDENTITY = ("setting", "method", "runs", "seeds", "orders")
_LATEX = {character: f"\\{character}" for character in "{}&%$#_"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
}


def make_task_table(runs: list[tuple[RunKey, Run]], title: str) -> Table:
    """Task by task, in the first order: accuracy in the end and share of the candidates kept, means over seeds."""
    order = runs[0][0].order
    table = Table(title=title, title_justify="left")
    table.add_column("setting", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in order:
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str], list[Run]] = {}
    for key, run in runs:
        if key.order == order:
            groups.setdefault((key.label, key.method), []).append(run)
    for (label, method), members in groups.items():
        last = np.array([run["accuracy"]["test"][-1] for run in members]).mean(0)
        table.add_row(label, method, "accuracy %", *(f"{value:.1f}" for value in last))
        kept = np.array([run["kept"] for run in members]).mean(0) / 1000
        table.add_row("", "", "numbers added", *(f"{value:,.0f}k" for value in kept))
        shares = [[_new_share(i)(run) for i in range(len(order))] for run in members]
        if all(value is not None for row in shares for value in row):
            means = np.array(shares, dtype=np.float64).mean(0)
            table.add_row("", "", "candidates kept %", *(f"{value:.0f}" for value in means))
    return table


def selector_table(rows: list[dict[str, Any]]) -> Table:
    """Places and kinds of selectors, in percent of the images."""
    table = Table(title="Task selectors, nothing learned; % of images", title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name in ("place", "kind") else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table

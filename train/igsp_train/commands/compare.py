"""`igsp compare`: iGSP beside other methods, or beside itself with other settings, on the same tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igsp_train.commands.tasks import parse_tasks

if TYPE_CHECKING:
    from igsp_train.research.study.run import RunKey

EXAMPLES = """Examples:

igsp compare study --task digits=data/digits --task letters=data/letters --method igsp --method isolated --seeds 3

igsp compare study --task digits=data/digits --task letters=data/letters --ablation pruning.yaml"""

METHODS = (
    *("zero-shot", "ridge", "sequential", "full", "isolated", "svd", "similarity", "fixed-pool", "igsp"),
    *("head-alone", "random-reuse", "convergence"),
)


def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder for finished runs and cached features.")],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOURCE", help="A task, as for `igsp train`. Repeat it for a sequence."),
    ] = None,
    planted: Annotated[
        bool,
        typer.Option("--planted", help="Add drawn tasks with a known answer: colour, count, and colour-again."),
    ] = False,
    selectors: Annotated[
        bool,
        typer.Option("--selectors", help="Compare places and kinds of the task selector instead; nothing is learned."),
    ] = False,
    per_task: Annotated[bool, typer.Option("--per-task", help="Print every task by itself too.")] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"One of {', '.join(METHODS)}, or of an installed package. May be repeated; igsp by default.",
        ),
    ] = None,
    ablation: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Compare the variants of this preset, e.g. of train/presets/ablations."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of learning: 0 to N - 1.")] = 1,
    orders: Annotated[int, typer.Option(min=1, help="Orders: the one given, and N - 1 shuffled ones.")] = 1,
    order: Annotated[
        list[str] | None, typer.Option(metavar="A,B,C", help="An order by name, in place of --orders. May be repeated.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting for all runs. May be repeated.")
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(min=0, help="Make at most N of the missing runs, then print; 0 only prints.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write all figures as CSV.")] = None,
    latex: Annotated[
        Path | None, typer.Option("--latex", metavar="FILE", help="Also write the main table for LaTeX (booktabs).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Learn the tasks with every method, seed and order, and print Transfer, Average, Last and parameters of each.

    A finished run is one file in STUDY/runs and is not made again; several processes may work on one STUDY.
    """
    from igsp_deploy.checked import build
    from igsp_deploy.config import RunConfig, apply_overrides
    from igsp_deploy.entry import installed_names
    from igsp_deploy.errors import UsageError
    from igsp_deploy.files import check_places, write_bytes_atomic

    check_places(csv, latex)
    sources = parse_tasks(task or [])
    chosen = method or ["igsp"]
    known = (*METHODS, *installed_names("igsp.methods"))
    for name in chosen:
        if name not in known:
            raise UsageError(f"--method {name}: expected one of {', '.join(known)}.")
    settings: dict[str, RunConfig] = {}
    if not ablation:
        settings["default"] = build(RunConfig, apply_overrides({}, set_ or []), "--set")
    from igsp_train.research.study.presets import read_ablation

    for path in ablation or []:
        settings.update(read_ablation(path, set_ or []))

    import json as json_format

    from rich.console import Console

    from igsp_train.research.study import table
    from igsp_train.research.study.grid import Plan, Study, make_orders

    if planted:
        from igsp_train.research.study.planted import write_planted

        sources.update(write_planted(study / "planted"))
    plan = Plan(
        settings=settings,
        methods=list(dict.fromkeys(chosen)),
        seeds=list(range(seeds)),
        orders=[tuple(o.split(",")) for o in order] if order else make_orders(list(sources), orders),
        sources=sources,
    )
    whole = Study(study, plan, console=Console(stderr=True))
    if selectors:
        selector_rows = whole.compare_selectors()
        if json:
            print(json_format.dumps(selector_rows, indent=2))
        else:
            Console().print(table.selector_table(selector_rows))
        return
    missing = whole.run(max_runs)
    runs = whole.finished()
    rows = table.collect(runs)
    for file, text in ((csv, table.csv_text), (latex, table.latex_text)):
        if file is not None:
            write_bytes_atomic(file, text(rows).encode())
    if json:
        print(json_format.dumps({"missing": missing, "rows": rows}, indent=2))
        return
    _print(runs, rows, per_task=per_task or planted)
    if missing:
        print(f"{missing} runs are missing. Give the command again to make them.")


def _print(runs: "list[tuple[RunKey, dict[str, Any]]]", rows: list[dict[str, Any]], *, per_task: bool) -> None:
    from rich.console import Console

    from igsp_train.research.study import table

    console = Console()
    console = console if console.is_terminal else Console(width=240)
    console.print(table.make_table(rows, table.MAIN, "Task given; % and numbers, mean ± standard deviation over runs"))
    console.print(table.LEGENDS["Task given"])
    if any(row["phase1_steps"] is not None for row in rows):
        grown = [row for row in rows if row["phase1_steps"] is not None]
        console.print(table.make_table(grown, table.STRUCTURE, "Structure"))
        console.print(table.LEGENDS["Structure"])
    if any(row["looks_last"] is not None for row in rows):
        told_apart = [row for row in rows if row["looks_last"] is not None]
        console.print(table.make_table(told_apart, table.SELECTOR, "What the selector costs, %"))
        console.print(table.LEGENDS["Selector"])
    if runs and per_task:
        console.print(table.make_task_table(runs, "Task by task, in the first order"))

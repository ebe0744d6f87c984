"""`igsp data`: whether a benchmark's data sets are there and as published; small tasks to try things with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igsp_deploy.cli.options import Device

if TYPE_CHECKING:
    from igsp_train.research.mtil.check import SetCheck
    from igsp_train.research.mtil.gate import GateResult

EXAMPLES = """Examples:

igsp data check --benchmark mtil --data-root data

igsp data check --benchmark mtil --data-root data --zero-shot

igsp data example --data-root data"""


def data(
    action: Annotated[str, typer.Argument(metavar="check|example", help="What to do: check or example.")],
    data_root: Annotated[Path, typer.Option(help="Folder that holds the data sets.")],
    benchmark: Annotated[str, typer.Option(help="Which benchmark: mtil.")] = "mtil",
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Also classify the test images with plain CLIP, and compare.")
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option(help="Points by which a zero-shot figure may differ; 1 if not given.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="model.backbone and model.pretrained, over the benchmark's own."),
    ] = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check the data sets of a benchmark: what is missing, where to get it, counts against the published ones.

    `example` writes four small tasks instead (the quickstart's), without a download; tasks that are there stay.

    With --zero-shot plain CLIP must give the published figures: if it does not, prompts, class names, splits or images
    are not those of the benchmark, and nothing should be trained on them. Exit code 1 if anything is wrong.
    """
    from igsp_deploy.checked import build
    from igsp_deploy.config import RunConfig, apply_overrides, load_yaml
    from igsp_deploy.errors import UsageError, UserError

    if action == "example":
        from igsp_train.quickstart_data import write_quickstart_data

        for folder in write_quickstart_data(data_root).values():
            print(folder)
        return
    if action != "check":
        raise UsageError(f"igsp data knows the actions check and example, got {action!r}.")
    if tolerance is not None and tolerance < 0:
        raise UsageError(f"--tolerance must not be negative, got {tolerance}.")

    if device != "auto" and not zero_shot:
        raise UsageError("--device belongs to --zero-shot: nothing else computes. Leave it out.")

    from rich.console import Console

    from igsp_train.device import find_device
    from igsp_train.preset_files import preset_path
    from igsp_train.research.benchmark import benchmark_preset
    from igsp_train.research.mtil.check import check_benchmark_sets

    if benchmark != "mtil":
        raise UsageError(f"igsp data check knows the benchmark mtil, got {benchmark!r}.")
    values = apply_overrides(load_yaml(preset_path(benchmark_preset(shots=0))), set_ or [])
    settings = build(RunConfig, values, "--set")
    place = find_device(device) if zero_shot else None
    progress = Console(stderr=True)
    checks = check_benchmark_sets(data_root)
    gate: list[GateResult] = []
    if place is not None and any(check.found is not None for check in checks):
        from igsp_deploy.model.loading import load_backbone
        from igsp_train.research.mtil.gate import BACKBONE, PRETRAINED, TOLERANCE, run_gate

        if (settings.model.backbone, settings.model.pretrained) != (BACKBONE, PRETRAINED):
            progress.print(
                f"the expected figures are those of {BACKBONE} with {PRETRAINED} weights, not of "
                f"{settings.model.backbone}",
                markup=False,
                highlight=False,
            )
        backbone = load_backbone(settings.model.backbone, settings.model.pretrained, settings.model.preprocess)
        tolerance = TOLERANCE if tolerance is None else tolerance
        gate = run_gate(backbone.to(place), checks, tolerance=tolerance, console=progress)
    _print(checks, gate, as_json=json)
    if len(gate) == len(checks):
        means = [sum(values) / len(values) for values in zip(*((r.measured, r.expected) for r in gate), strict=True)]
        progress.print(f"mean: zero-shot {means[0]:.1f} %, expected {means[1]:.1f} %", markup=False, highlight=False)
    wrong = [check.one.name for check in checks if check.status != "as published"]
    off = [result.name for result in gate if result.off]
    told = [f"{len(wrong)} of {len(checks)} sets are missing or not as published: {', '.join(wrong)}"] if wrong else []
    told += [f"zero-shot CLIP is off by more than {tolerance:g} points on {', '.join(off)}"] if off else []
    if told:
        raise UserError("; ".join(told) + ". Do not train before this is fixed.")


def _print(checks: "list[SetCheck]", gate: "list[GateResult]", *, as_json: bool) -> None:
    measured = {result.name: result for result in gate}
    rows: list[dict[str, Any]] = []
    for check in checks:
        one, found, result = check.one, check.found, measured.get(check.one.name)
        rows.append(
            {
                "set": one.name,
                "status": check.status,
                "form": found.form if found else None,
                "train": [len(found.splits["train"]) if found else None, one.train_images],
                "test": [len(found.splits["test"]) if found else None, one.test_images],
                "classes": [len(found.classes) if found else None, len(one.classes)],
                "zero_shot": [result.measured if result else None, one.zero_shot],
                "off": result.off if result else None,
                "problems": check.problems,
            }
        )
    if as_json:
        import json

        print(json.dumps(rows, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(title="found / published", title_justify="left")
    for title in ("set", "found as", "train", "test", "classes", "zero-shot %", ""):
        table.add_column(title, justify="left" if title in ("set", "found as", "") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["set"],
            row["form"] or "-",
            *(_pair(row[key], "{:,}") for key in ("train", "test", "classes")),
            _pair(row["zero_shot"], "{:.1f}"),
            "OFF" if row["off"] else row["status"],
        )
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
    for row in rows:
        for problem in row["problems"]:
            print(f"{row['set']}: {problem}")


def _pair(values: list[Any], form: str) -> str:
    found, published = values
    return f"{'-' if found is None else form.format(found)} / {form.format(published)}"

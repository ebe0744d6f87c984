"""Tables about bundles, for people."""

from typing import Any

from rich.console import Console
from rich.table import Table


def size(size_bytes: int) -> str:
    """A size as people write it."""
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.1f} KiB"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def print_export(result: dict[str, Any], console: Console) -> None:
    """Print what `igsp_export.export.export_bundle` returned."""
    for precision, report in result["parity"].items():
        table = _table(
            f"{precision} against PyTorch (difference allowed: {report['tolerance']:g})",
            "asked for",
            "images",
            "difference",
            "cosine",
            "class ≠",
            "task ≠",
            "acc. %",
            "PyTorch",
            "adds",
        )
        # No task can be called so: a name holds no space.
        ways = {"plain CLIP": report["plain"], "mixed tasks": report["mixed"], "task chosen": report["auto"]}
        for what, figures in {**report["tasks"], **ways}.items():
            accuracies = [figures.get("accuracy_onnx"), figures.get("accuracy_pytorch")]
            table.add_row(
                what,
                str(figures["images"]),
                f"{figures['feature_difference']:.1e}",
                f"{figures['smallest_cosine']:.5f}",
                str(figures["top1_differing"]),
                str(figures["choices_differing"]),
                *("-" if value is None else f"{value:.1f}" for value in accuracies),
                size(result["task_bytes"][what]) if what in report["tasks"] else "-",
            )
        table.add_row("texts", "-", f"{report['text']['feature_difference']:.1e}", *"------")
        console.print(table)
    files = _table("Files", "file", "size")
    for name, size_bytes in result["size_bytes"].items():
        files.add_row(name, size(size_bytes))
    console.print(files)


def print_folded(result: dict[str, Any], console: Console) -> None:
    """Print what `igsp_export.fold.fold` returned."""
    parity = result["parity"]
    table = _table(
        f"{result['task']} alone, against PyTorch", "images", "features", "probabilities", "class ≠", "acc. %"
    )
    accuracy = f"{parity['accuracy_onnx']:.1f}" if "accuracy_onnx" in parity else "-"
    differences = [f"{parity[key]:.1e}" for key in ("feature_difference", "probability_difference")]
    table.add_row(str(parity["images"]), *differences, str(parity["top1_differing"]), accuracy)
    console.print(table)
    files = _table("Files", "file", "size")
    for name, size_bytes in result["size_bytes"].items():
        files.add_row(name, size(size_bytes))
    console.print(files)


def print_verification(report: dict[str, Any], console: Console) -> None:
    """Print what `igsp_deploy.runtime.verify.verify_bundle` returned."""
    table = _table(
        f"{report['files']} files are whole; {report['precision']} on {report['provider']}",
        "asked for",
        "inputs",
        "largest difference",
        "allowed",
        "holds",
    )
    for row in report["rows"]:
        holds = "yes" if row["holds"] else "NO"
        table.add_row(row["what"], str(row["inputs"]), f"{row['difference']:.1e}", f"{row['allowed']:g}", holds)
    console.print(table)


def print_description(found: dict[str, Any], console: Console) -> None:
    """Print what `igsp_deploy.cli.inspect.describe` returned."""
    parts = [f"{found['kind']} {found['path']}", f"backbone {found['backbone']} ({found['weight_hash'][:12]})"]
    if found["kind"] == "bundle":
        graphs = ", ".join(f"{g['precision']} for {' and '.join(g['providers'])}" for g in found["graphs"])
        parts += [f"images of {found['image_size']} pixels", f"opset {found['opset']}: {graphs}", found["made_by"]]
    else:
        parts += [f"rank {found['rank']}", f"vision adapted from block {found['first_block']}"]
    for part in parts:
        console.print(part, markup=False, highlight=False)
    tasks = _table(f"{len(found['tasks'])} tasks", "task", "classes", "experts", "new", "reused", "adds")
    for task in found["tasks"]:
        used, new = task["experts"], task["experts_new"]
        adds = size(task["size_bytes"]) if "size_bytes" in task else "-"
        tasks.add_row(task["name"], str(len(task["classes"])), str(used), str(new), str(used - new), adds)
    console.print(tasks)
    for task in found["tasks"]:
        console.print(f"{task['name']}: {', '.join(task['classes'])}", markup=False, highlight=False)
    total = sum(found["size_bytes"].values())
    console.print(f"{len(found['size_bytes'])} files, {size(total)}", markup=False, highlight=False)

"""What the model has learned, as plain values: tasks, shared experts, sizes, accuracies."""

from pathlib import Path
from typing import Any

from igsp_deploy.bundle.experts import ExpertTable
from igsp_deploy.bundle.manifest import EXPERTS, BundleTask, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.files import read_json
from igsp_serve.demo.backend import DemoBackend


def describe_tasks(tasks: tuple[BundleTask, ...]) -> list[dict[str, Any]]:
    """Name, classes and templates of each task, in order."""
    return [
        {
            "name": task.name,
            "classes": list(task.classes),
            "templates": list(task.templates),
            "experts": task.experts,
            "experts_new": task.experts_new,
            "size_bytes": task.size_bytes,
        }
        for task in tasks
    ]


def shared_experts(bundle: Path) -> dict[str, dict[str, int]]:
    """Of each task of a bundle: how many of its experts came with which task, itself included.

    Raises:
        UserError: the bundle is damaged.
    """
    manifest = read_manifest(bundle)
    names = manifest.task_names()
    table = ExpertTable.read(bundle / EXPERTS, manifest.experts, len(names))
    owner: dict[tuple[Any, int], str] = {}
    shared: dict[str, dict[str, int]] = {}
    for name, uses in zip(names, table.tasks, strict=True):
        counts: dict[str, int] = {}
        for site, use in uses.items():
            for expert in use.experts.tolist():
                brought_by = owner.setdefault((site, expert), name)
                counts[brought_by] = counts.get(brought_by, 0) + 1
        shared[name] = {brought: counts[brought] for brought in names if brought in counts}
    return shared


def sizes(backend: DemoBackend) -> dict[str, int]:
    """Bytes of the shared network, of all tasks together, and of one whole network a task."""
    manifest = backend.manifest
    graphs = sorted(
        manifest.files[name].size_bytes
        for variant in manifest.variants[:1]
        for name in (variant.image, variant.text)
        if name in manifest.files
    )
    extra = sum(f.size_bytes for name, f in manifest.files.items() if name.endswith(".data"))
    network = sum(graphs) + extra
    tasks = backend.tasks()
    return {
        "network": network,
        "tasks": sum(task.size_bytes for task in tasks),
        "one_network_a_task": network * len(tasks),
    }


FILE_NAMES = ("worst", "skipped")
"""Parts of an evaluation that name people's files: strangers look at a demo and at a Space."""


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """What `igsp evaluate --json` printed into a file, without names of files; None where there is no file.

    Raises:
        UserError: it is something else.
    """
    if not path.is_file():
        return None
    values = read_json(path, "evaluation")
    count = len(values.get("tasks", ())) if isinstance(values, dict) else 0
    for key in ("given", "auto"):
        rows = values.get(key) if count else None
        if not isinstance(rows, list) or [len(row) for row in rows] != [count] * count:
            raise UserError(f"{path} is not an evaluation. Make it with: igsp evaluate MODEL --json > {path}")
    return {key: value for key, value in values.items() if key not in FILE_NAMES}


def default_evaluation(bundle: Path) -> Path:
    """Where the accuracies of a bundle are kept: beside it, for nothing may be added to it."""
    return bundle.with_name(f"{bundle.name}.evaluation.json")

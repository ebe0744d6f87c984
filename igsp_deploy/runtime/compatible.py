"""Whether graphs, manifests and tasks belong together."""

from collections.abc import Sequence
from pathlib import Path

from igsp_deploy.bundle.manifest import REMEDY, BundleTask, Manifest, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.graph import Graph


def compatible(bundle: Path, ours: Manifest, folder: Path) -> Manifest:
    """The manifest of a bundle whose tasks fit the graphs of another.

    Args:
        bundle: the one with the tasks.
        ours: the manifest of the one with the graphs.
        folder: where that one is, for the message.

    Raises:
        UserError: they are not of one kind of model; says what differs.
    """
    theirs = read_manifest(bundle)
    differing = [
        what
        for what, a, b in (
            ("backbone", ours.backbone.weight_hash, theirs.backbone.weight_hash),
            ("rank or adapted blocks", ours.experts, theirs.experts),
            ("preprocessing", ours.preprocess, theirs.preprocess),
            ("kind of head features", ours.head_features, theirs.head_features),
        )
        if a != b
    ]
    if differing:
        raise UserError(
            f"{bundle} cannot be used by the engine of {folder}: another {' and another '.join(differing)}. "
            "Open an engine of its own for it."
        )
    return theirs


def check_same_tasks(bundle: Path, manifest: Manifest, tasks: Sequence[BundleTask]) -> None:
    """Refuse a bundle that lacks some of `tasks` as they are.

    Raises:
        UserError: says which.
    """
    known = {task.name: task.fingerprint for task in manifest.tasks}
    missing = [task.name for task in tasks if known.get(task.name) != task.fingerprint]
    if missing:
        raise UserError(
            f"{bundle} was not made from the model this engine's tasks come from: it lacks {', '.join(missing)} as "
            "it is here. Learn the new task in the same model folder and export that, or open an engine of its own."
        )


def says_experts(manifest: Manifest, name: str) -> bool:
    """Whether a manifest holds the checksum of a task's experts."""
    return any(task.name == name and task.experts_sha256 for task in manifest.tasks)


def check_image_graph(graph: Graph, manifest: Manifest) -> None:
    """Hold an image graph against what its manifest says of it.

    Raises:
        UserError: it is for another backbone, or takes other stacks.
    """
    shapes, size = graph.shapes(), manifest.preprocess.size
    expected = {"images": [size, size, 3], "features": [manifest.backbone.embed_dim]}
    found = {name: shapes.get(name, [])[1:] for name in expected}
    if expected != found:
        raise UserError(
            f"{graph.path} is a graph for another backbone: the manifest says {expected}, the graph {found}. {REMEDY}"
        )
    layout = manifest.experts
    for name, (_, rows, width) in (
        (name, shape) for name, shape in graph.stack_shapes().items() if name.endswith(".down")
    ):
        # The number of experts is free, their rank is a factor in the graph; a factor of 1 is not written.
        factor, times, _ = str(rows).partition("*")
        if (int(factor) if times else 1, width) != (layout.rank, layout.vision_width):
            raise UserError(
                f"{graph.path} takes stacks of another rank or width than the manifest says: {name} is "
                f"[{rows}, {width}] a task, the manifest has rank {layout.rank} and width {layout.vision_width}. "
                f"{REMEDY}"
            )

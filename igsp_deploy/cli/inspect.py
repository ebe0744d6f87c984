"""`igsp inspect`: what a model folder or a bundle holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from igsp_deploy.cli.options import BUNDLE_HELP

EXAMPLES = """Examples:

igsp inspect model

igsp inspect bundle --json

igsp inspect hf:me/shoes@v2"""


def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL|BUNDLE", help=f"Model folder. {BUNDLE_HELP}")],
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a model folder or a bundle holds: backbone, tasks, classes, experts, sizes."""
    import json as json_format

    from igsp_deploy.bundle.fetch import local_bundle

    found = describe(local_bundle(path))
    if json:
        print(json_format.dumps(found, indent=2))
        return

    from rich.console import Console

    from igsp_deploy.cli.bundle_report import print_description

    print_description(found, Console())


def describe(path: Path) -> dict[str, Any]:
    """Plain values about a bundle (torch not needed) or a model folder.

    Raises:
        UserError: neither, or damaged.
    """
    from igsp_deploy.bundle.manifest import MANIFEST

    if (path / MANIFEST).is_file() or not (path / "config.json").is_file():
        return _bundle(path)
    return _model(path)


def _bundle(path: Path) -> dict[str, Any]:
    from igsp_deploy.bundle.manifest import read_manifest

    manifest = read_manifest(path)
    return {
        "kind": "bundle",
        "path": str(path),
        "made_by": manifest.created_by,
        "backbone": manifest.backbone.name,
        "weight_hash": manifest.backbone.weight_hash,
        "image_size": manifest.preprocess.size,
        "opset": manifest.opset,
        "graphs": [
            {"precision": v.precision, "image": v.image, "text": v.text, "providers": list(v.providers)}
            for v in manifest.variants
        ],
        "tasks": [
            {
                "name": task.name,
                "classes": list(task.classes),
                "templates": list(task.templates),
                "experts": task.experts,
                "experts_new": task.experts_new,
                "size_bytes": task.size_bytes,
            }
            for task in manifest.tasks
        ],
        "size_bytes": {name: file.size_bytes for name, file in manifest.files.items()},
    }


def _model(path: Path) -> dict[str, Any]:
    from igsp_deploy.model.folder import ModelFolder
    from igsp_deploy.model.record import count_experts

    folder = ModelFolder.open(path)
    counts = count_experts(folder.tasks)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in (".json", ".safetensors"))
    return {
        "kind": "model",
        "path": str(path),
        "backbone": folder.identity["name"],
        "weight_hash": folder.identity["weight_hash"],
        "rank": folder.config.rank,
        "first_block": folder.first_block,
        "tasks": [
            {
                "name": record.name,
                "classes": record.classes,
                "templates": record.templates,
                "experts": used,
                "experts_new": new,
                "parameters": record.kept_parameters,
                "source": record.source,
            }
            for record, (used, new) in zip(folder.tasks, counts, strict=True)
        ],
        "size_bytes": {file.relative_to(path).as_posix(): file.stat().st_size for file in files},
    }

"""`igsp export`: make a bundle of a model."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

igsp export model bundle

igsp export model bundle --precision fp32 --precision fp16

igsp export model bundle --opset 18 --check-images 200"""


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder to make; it must not exist yet.")],
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32 (default) or fp16 (for CUDA only). May be repeated.")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX opset: 23, or 18 for consumers that do not know `Attention`.")] = 23,
    check_images: Annotated[
        int, typer.Option(min=0, help="Test images of each task to check the graphs with; 0 takes all.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Write MODEL as BUNDLE: one ONNX graph for all tasks, checked against PyTorch, with all that serving needs.

    Nothing appears at BUNDLE unless the graphs give what PyTorch gives.
    """
    import json as json_format

    from rich.console import Console

    from igsp_deploy.cli.bundle_report import print_export
    from igsp_export.export import export_bundle

    result = export_bundle(
        model,
        bundle,
        precision=tuple(precision or ("fp32",)),
        opset=opset,
        check_limit=check_images,
        console=Console(stderr=True),
    )
    if json:
        print(json_format.dumps(result, indent=2))
    else:
        print_export(result, Console())
        print(bundle)

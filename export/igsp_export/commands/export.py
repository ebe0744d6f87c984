"""`igsp export`: make a bundle of a model, or another shape of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """Examples:

igsp export model bundle

igsp export model bundle --precision fp32 --precision fp16 --experts fp16

igsp export model bundle --opset 18 --check-images 200

igsp export model bundle --onnx-adapter --triton triton-models

igsp export model bundle --push me/shoes --private

igsp export model shoes-only --fold shoes --batch 1"""

_OTHER = "Other shapes"
_FOLD = "One task alone"


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder to make; it must not exist yet.")],
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32 (default), fp16 or bf16 (for CUDA only), int8 (for the CPU only). May be repeated."),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|fp16", help="What experts are stored in: fp16 halves a task's size. Default: as the graphs."
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX opset: 23, or 18 for consumers that do not know `Attention`.")] = 23,
    check_images: Annotated[
        int, typer.Option(min=0, help="Test images of each task to check the graphs with; 0 takes all.")
    ] = 0,
    latency: Annotated[bool, typer.Option(help="Measure latency against plain CLIP at the end.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    onnx_adapter: Annotated[
        bool,
        typer.Option(
            "--onnx-adapter",
            help="Also write the tasks as .onnx_adapter files, for onnxruntime in C++, C# and Java.",
            rich_help_panel=_OTHER,
        ),
    ] = False,
    standalone: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write graphs with the tasks inside, for other runtimes and languages.",
            rich_help_panel=_OTHER,
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write a Triton model repository.", rich_help_panel=_OTHER),
    ] = None,
    triton_device: Annotated[
        str, typer.Option(metavar="gpu|cpu", help="Where Triton is to run it.", rich_help_panel=_OTHER)
    ] = "gpu",
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Upload the bundle to the Hugging Face Hub.", rich_help_panel=_OTHER),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push: visible to you only.", rich_help_panel=_OTHER)
    ] = False,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Write this task alone, its experts in the weights, instead of a bundle: for TensorRT and edge.",
            rich_help_panel=_FOLD,
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="With --fold: images a call, fixed in the graph.", rich_help_panel=_FOLD)
    ] = None,
    with_text: Annotated[
        bool, typer.Option("--with-text", help="With --fold: a graph for own prompts too.", rich_help_panel=_FOLD)
    ] = False,
    pretrained: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The backbone's checkpoint, if it lies elsewhere now.")
    ] = None,
) -> None:
    """Write MODEL as BUNDLE: one ONNX graph for all tasks, checked against PyTorch, with all that serving needs.

    Nothing appears at BUNDLE unless the graphs give what PyTorch gives.
    """
    from igsp_export.commands.export_options import check_shapes

    check_shapes(
        fold=fold,
        batch=batch,
        with_text=with_text,
        experts=experts,
        onnx_adapter=onnx_adapter,
        standalone=standalone,
        triton=triton,
        triton_device=triton_device,
        push=push,
        private=private,
    )

    from rich.console import Console

    from igsp_deploy.model_path import weights_at

    progress = Console(stderr=True)
    precisions = tuple(precision or ("fp32",))
    with weights_at(pretrained):
        if fold is not None:
            from igsp_export.fold import fold_model

            result = fold_model(
                model,
                fold,
                bundle,
                precision=precisions,
                opset=opset,
                batch=batch,
                with_text=with_text,
                check_limit=check_images,
                console=progress,
            )
        else:
            from igsp_export.export import export_bundle

            result = export_bundle(
                model,
                bundle,
                precision=precisions,
                opset=opset,
                check_limit=check_images,
                adapters=onnx_adapter,
                experts=experts,
                console=progress,
            )
            result |= _other_shapes(bundle, standalone=standalone, triton=triton, device=triton_device)
            if push is not None:
                from igsp_export.hub import push as upload

                result["pushed"] = upload(bundle, push, private=private)
            if latency:
                from igsp_export.bench.run import latency_table

                result["latency"] = latency_table(bundle, model, console=progress)
    _show(result, bundle, json)


def _other_shapes(bundle: Path, *, standalone: Path | None, triton: Path | None, device: str) -> dict[str, Any]:
    """What is made of a finished bundle."""
    from igsp_export.shapes import write_standalone, write_triton_repository

    found: dict[str, Any] = {}
    if standalone is not None:
        found["standalone"] = {"folder": str(standalone), "files": write_standalone(bundle, standalone)}
    if triton is not None:
        models = write_triton_repository(bundle, triton, device)
        found["triton"] = {"folder": str(triton), "models": models}
    return found


def _show(result: dict[str, Any], bundle: Path, json: bool) -> None:
    import json as json_format

    from rich.console import Console

    from igsp_deploy.cli.bundle_report import print_export, print_folded

    if json:
        measured = result.get("latency")
        if measured is not None and not isinstance(measured, str):
            result = {**result, "latency": measured.to_json()}
        print(json_format.dumps(result, indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    if "task" in result:
        print_folded(result, console)
    else:
        print_export(result, console)
        if "latency" in result:
            from igsp_export.bench.report import bench_table

            console.print(result["latency"] if isinstance(result["latency"], str) else bench_table(result["latency"]))
    for kind in ("standalone", "triton"):
        if kind in result:
            print(result[kind]["folder"])
    if "pushed" in result:
        print(result["pushed"])
    print(bundle)

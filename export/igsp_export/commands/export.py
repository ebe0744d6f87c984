"""`igsp export`: make a bundle of a model, or another shape of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """Examples:

igsp export model bundle

igsp export model bundle --precision fp32 --precision fp16 --experts fp16

igsp export model bundle --opset 18 --check-images 200

igsp export model bundle --onnx-adapter --triton triton-models

igsp export model bundle --web site

igsp export model bundle --push me/shoes --private

igsp export model shoes-only --fold shoes --batch 1"""

_OTHER = "Other shapes"
_FOLD = "One task alone"


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder to make; it must not exist yet.")]
Precision = Annotated[
    list[str] | None,
    typer.Option(help="fp32 (default), fp16 (for CUDA), int8 (for the CPU), bf16 (experimental). May be repeated."),
]
Experts = Annotated[
    str | None,
    typer.Option(
        metavar="fp32|fp16", help="What experts are stored in: fp16 halves a task's size. Default: as the graphs."
    ),
]
Opset = Annotated[int, typer.Option(help="ONNX opset: 23, or 18 for consumers that do not know `Attention`.")]
CheckImages = Annotated[int, typer.Option(min=0, help="Test images of each task to check the graphs with; 0: all.")]
Latency = Annotated[bool, typer.Option(help="Measure latency against plain CLIP at the end.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
OnnxAdapter = Annotated[
    bool,
    typer.Option(
        "--onnx-adapter",
        help="Also write the tasks as .onnx_adapter files, for onnxruntime in C++, C# and Java.",
        rich_help_panel=_OTHER,
    ),
]
Standalone = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Also write graphs with the tasks inside, for other runtimes and languages.",
        rich_help_panel=_OTHER,
    ),
]
Web = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Also write one graph from pixels to probabilities, with a page for browsers; node and C# run it too.",
        rich_help_panel=_OTHER,
    ),
]
Triton = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Also write a Triton model repository.", rich_help_panel=_OTHER)
]
TritonDevice = Annotated[
    str, typer.Option(metavar="gpu|cpu", help="Where Triton is to run it.", rich_help_panel=_OTHER)
]
Push = Annotated[
    str | None,
    typer.Option(metavar="USER/NAME", help="Upload the bundle to the Hugging Face Hub.", rich_help_panel=_OTHER),
]
Private = Annotated[bool, typer.Option("--private", help="With --push: visible to you only.", rich_help_panel=_OTHER)]
Fold = Annotated[
    str | None,
    typer.Option(
        metavar="TASK",
        help="Write this task alone, its experts in the weights, instead of a bundle: for small devices.",
        rich_help_panel=_FOLD,
    ),
]
Batch = Annotated[
    int | None, typer.Option(help="With --fold: images a call, fixed in the graph.", rich_help_panel=_FOLD)
]
WithText = Annotated[
    bool, typer.Option("--with-text", help="With --fold: a graph for own prompts too.", rich_help_panel=_FOLD)
]
Pretrained = Annotated[
    Path | None, typer.Option(metavar="PATH", help="The backbone's checkpoint, if it lies elsewhere now.")
]


def export(
    model: Model,
    bundle: Bundle,
    precision: Precision = None,
    experts: Experts = None,
    opset: Opset = 23,
    check_images: CheckImages = 0,
    latency: Latency = True,
    json: Json = False,
    onnx_adapter: OnnxAdapter = False,
    standalone: Standalone = None,
    web: Web = None,
    triton: Triton = None,
    triton_device: TritonDevice = "gpu",
    push: Push = None,
    private: Private = False,
    fold: Fold = None,
    batch: Batch = None,
    with_text: WithText = False,
    pretrained: Pretrained = None,
) -> None:
    """Write MODEL as BUNDLE: one ONNX graph for all tasks, checked against PyTorch, with all that serving needs.

    Nothing appears at BUNDLE unless the graphs give what PyTorch gives. Where a bundle of this model and these options
    is there already, only the other shapes that are asked for are made.
    """
    from igsp_export.commands.export_options import Shapes, check_fold, check_folder, make_shapes

    shapes = Shapes(standalone=standalone, web=web, triton=triton, device=triton_device, push=push, private=private)
    check_folder(bundle, model, shapes)
    check_fold(fold, batch, with_text, experts, onnx_adapter, shapes)
    shapes.check(bundle, precision or ("fp32",))

    from rich.console import Console

    from igsp_deploy.model_path import weights_at

    progress = Console(stderr=True)
    made: dict[str, Any] = {"precision": tuple(precision or ("fp32",)), "opset": opset}
    checked: dict[str, Any] = {"check_limit": check_images, "console": progress}
    with weights_at(pretrained):
        if fold is not None:
            from igsp_export.fold import fold_model

            result = fold_model(model, fold, bundle, **made, **checked, batch=batch, with_text=with_text)
        else:
            from igsp_export.export import export_bundle, reopen_bundle

            made |= {"adapters": onnx_adapter, "experts": experts}
            if bundle.exists() and shapes.any():
                result = reopen_bundle(model, bundle, **made, console=progress)
            else:
                result = export_bundle(model, bundle, **made, **checked)
            result |= make_shapes(bundle, shapes)
            if latency:
                from igsp_export.bench.run import latency_table

                result["latency"] = latency_table(bundle, model, console=progress)
    _show(result, bundle, json)


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
    for kind in ("standalone", "web", "triton"):
        if kind in result:
            print(result[kind]["folder"])
    if "pushed" in result:
        print(result["pushed"])
    print(bundle)

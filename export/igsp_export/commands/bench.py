"""`igsp bench`: latency and throughput of a bundle on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igsp_deploy.cli.options import Bundle, ProviderOption, check_provider

if TYPE_CHECKING:
    from igsp_deploy.runtime.providers import Provider

EXAMPLES = """Examples:

igsp bench bundle

igsp bench bundle --model model --out bench-out

igsp bench bundle --photos holiday

igsp bench bundle --model model --batch 1 --batch 64 --seconds 60 --compile --profile"""


def bench(
    bundle: Bundle,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="The model folder it was made of: also measure plain CLIP in a graph of its own, and PyTorch.",
        ),
    ] = None,
    pretrained: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The backbone's checkpoint, if it lies elsewhere now.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Images a call. May be repeated; default 1, 8 and 32.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds a batch size, in place of --seconds.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Time for each batch size, at least five rounds; default 20.")
    ] = None,
    provider: ProviderOption = "auto",
    precision: Annotated[
        str | None,
        typer.Option(help="Graphs to take: fp32, fp16, int8, or bf16 (experimental); default the provider's best."),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of one operator; 0 takes PyTorch's default.")] = 0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Measure torch.compile too; it compiles for minutes.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also say which nodes ran where, and for how long.")
    ] = False,
    photos: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Measure how long these photos take to be prepared instead: plain Pillow beside scaled decoding.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json, bench.md and bench.png.")] = None,
) -> None:
    """Measure BUNDLE: a named task, mixed tasks and the task chosen, beside plain CLIP and PyTorch.

    Images are synthetic and their decoding is not counted. Every round runs every candidate once, in a random order;
    a ratio is the median over the rounds. The default takes a minute to two for a small backbone.
    """
    from igsp_deploy.errors import UsageError

    chosen = check_provider(provider)
    if rounds is not None and seconds is not None:
        raise UsageError("--rounds and --seconds exclude each other. Give one of them.")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out must be a folder, {out} is a file.")

    from rich.console import Console

    from igsp_deploy.bundle.fetch import local_bundle
    from igsp_deploy.model_path import weights_at

    bundle = local_bundle(bundle)
    if photos:
        _photos(bundle, photos, chosen, json)
        return

    from igsp_export.bench.report import print_bench, to_text, write_report
    from igsp_export.bench.run import BATCHES, SECONDS, run_bench

    with weights_at(pretrained):
        found = run_bench(
            bundle,
            model,
            batches=tuple(batch or BATCHES),
            rounds=rounds,
            seconds=SECONDS if seconds is None else seconds,
            provider=chosen,
            precision=precision,
            threads=threads,
            compiled=compile,
            profile=profile,
            console=Console(stderr=True),
        )
    if out is not None:
        write_report(found, out)
    if json:
        print(to_text(found))
        return
    console = Console()
    print_bench(found, console if console.is_terminal else Console(width=120))
    if out is not None:
        print(out)


def _photos(bundle: Path, places: list[Path], provider: "Provider", json: bool) -> None:
    import dataclasses
    import json as json_format

    from rich.console import Console

    from igsp_export.bench.photos import measure_photos, photo_table

    progress = Console(stderr=True)
    rows = measure_photos(bundle, places, provider, lambda text: progress.print(text, markup=False, highlight=False))
    if json:
        print(json_format.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(photo_table(rows))

"""`igsp report`: one page about a model."""

from pathlib import Path
from typing import Annotated

import typer

from igsp_deploy.cli.options import Device
from igsp_train.commands.tasks import parse_tasks

EXAMPLES = """Examples:

igsp report model

igsp report model --out shoes.html --title "Our shoe model" --images 12

igsp evaluate model --json > evaluation.json && igsp report model --evaluation evaluation.json"""


def report(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    images: Annotated[int, typer.Option(min=0, max=64, help="Example images a task; 0 for none.")] = 8,
    evaluation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Output of `igsp evaluate MODEL --json`, instead of measuring again."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOURCE", help="Test images of a task from elsewhere than where it was learned."),
    ] = None,
    pretrained: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The backbone's checkpoint, if it lies elsewhere now.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write one HTML page about MODEL: accuracy, growth, shared experts, examples, time and memory.

    The page needs no network and no other file.
    """
    sources = parse_tasks(task or [])

    from igsp_deploy.model_path import weights_at
    from igsp_train.report import make_report

    with weights_at(pretrained):
        print(
            make_report(
                model, out, title=title, images=images, evaluation=evaluation, sources=sources or None, device=device
            )
        )

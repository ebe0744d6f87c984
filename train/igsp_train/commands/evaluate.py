"""`igsp evaluate`: the accuracy matrix of a model."""

from pathlib import Path
from typing import Annotated

import typer

from igsp_deploy.cli.options import Device
from igsp_train.commands.tasks import parse_tasks

EXAMPLES = """Examples:

igsp evaluate model

igsp evaluate model --task digits=data/new_digits --json

igsp evaluate model --per-class --errors errors.csv

igsp evaluate model --out bundle.evaluation.json"""


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOURCE", help="Test images of a task from elsewhere than where it was learned."),
    ] = None,
    pretrained: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The backbone's checkpoint, if it lies elsewhere now.")
    ] = None,
    device: Device = "auto",
    per_class: Annotated[
        bool, typer.Option("--per-class", help="A table of its classes for each task: recall, precision, mistakes.")
    ] = False,
    errors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV with a row for each test image that is wrong.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep everything as JSON; `igsp demo` shows BUNDLE.evaluation.json."),
    ] = None,
) -> None:
    """Measure MODEL on the test images of all its tasks, with the task given and with the task chosen."""
    sources = parse_tasks(task or [])

    import json as json_format

    from rich.console import Console

    from igsp_deploy import Model
    from igsp_deploy.files import check_places, write_json
    from igsp_deploy.model_path import weights_at
    from igsp_train.commands.tables import print_classes, print_evaluation, table_console

    check_places(out, errors)
    with weights_at(pretrained):
        result = Model.open(model).evaluate(sources, errors=errors, device=device)
    if out is not None:
        write_json(out, result)
    if json:
        print(json_format.dumps(result, indent=2))
    else:
        print_evaluation(result, table_console(len(result["tasks"])))
        if per_class:
            print_classes(result, Console())
